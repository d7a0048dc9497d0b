"""`store.save()` of a call that is held: behind what the call has queued, which the state has in it already."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from callstate_client import requests
from callstate_client.calls.outbox.backlog import MAX_ENTRY_BYTES
from callstate_client.calls.outbox.local_changes import Replaced
from callstate_client.calls.outbox.queue import Outbox
from callstate_client.calls.queued import Queued
from callstate_client.calls.view import shown
from callstate_client.errors import CallstateError, RequestTimeoutError, TooLargeError
from callstate_client.model.history import Piece
from callstate_client.model.state import SessionState
from callstate_client.session_api import SessionApi


class Held(Protocol):
    """What a save has to know of the call."""

    version: int
    epoch: int | None

    @property
    def state(self) -> SessionState:
        """As it is seen."""
        ...


class Saving:
    """A state as it was when it was to be saved.

    Args:
        state: gets its `updated_at` when it is saved.
        if_version: only if the session has this version.
        beside: what is said beside it; see `asks.beside_state`.
    """

    def __init__(self, state: SessionState, if_version: int | None, beside: Mapping[str, Any]) -> None:
        self.state = state
        self.if_version = if_version
        self.beside = beside
        self.pieces: Sequence[Piece] = requests.document(state)


async def save_behind(saving: Saving, call: Held, store: SessionApi, outbox: Outbox, timeout_s: float) -> int:
    """Save when all that was queued before is acknowledged, and before what is queued from now on.

    An `if_version` that is the call's is the one that the call has by then: what was queued before is in the state.

    Raises:
        RequestTimeoutError: not within so long. What had not left by then does not leave any more.
        TooLargeError: no request has room for the state.
        CallstateError: as `CallStore.save`.
    """
    document = b"".join(saving.pieces)
    if len(document) > MAX_ENTRY_BYTES:
        raise TooLargeError(f"{len(document)} bytes are more than the {MAX_ENTRY_BYTES} that fit into one request")
    is_current = saving.if_version == call.version

    async def send() -> int:
        if_version = call.version if is_current else saving.if_version
        request = requests.save_document(saving.state, (document,), saving.beside, if_version, call.epoch)
        return (await store._execute(request, None)).version

    seen = shown(call.state)
    change = None if shown(saving.state) is seen else Replaced(seen, document)
    entry = outbox.put_ask("session.save", send, change)
    try:
        async with asyncio.timeout(timeout_s):
            return await Queued(entry.future)
    except asyncio.CancelledError:
        outbox.withdraw(entry)
        raise
    except TimeoutError as error:
        if isinstance(error, CallstateError):
            raise
        if outbox.withdraw(entry):
            raise RequestTimeoutError("not saved: what was queued before was not acknowledged in time") from None
        raise RequestTimeoutError("the daemon did not answer in time; outcome unknown") from None
