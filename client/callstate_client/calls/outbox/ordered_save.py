"""`store.save()` of a call that is held: after what the call has queued, which the saved state already contains."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from callstate_client import requests
from callstate_client.calls.outbox.backlog import MAX_ENTRY_BYTES
from callstate_client.calls.outbox.local_changes import Replaced
from callstate_client.calls.outbox.outbox import Outbox
from callstate_client.calls.queued import Queued
from callstate_client.calls.view import shown
from callstate_client.errors import CallstateError, RequestTimeoutError, TooLargeError
from callstate_client.model.state import SessionState
from callstate_client.session_api import SessionApi

__all__ = ["OrderedSave"]


class SavedCall(Protocol):
    """What a save reads of the call."""

    version: int

    @property
    def epoch(self) -> int | None:
        """The session's."""
        ...

    @property
    def state(self) -> SessionState:
        """As the worker sees it."""
        ...


class OrderedSave:
    """A state as it is now, to be saved when its turn comes.

    Args:
        state: gets its `updated_at` when it is saved.
        if_version: only if the session has this version.
        beside: what the save says beside the state; see `requests.beside_state`.

    Raises:
        DocumentError: it can't be saved.
        TooLargeError: no request has room for it.
    """

    def __init__(self, state: SessionState, if_version: int | None, beside: Mapping[str, Any]) -> None:
        self._state = state
        self._if_version = if_version
        self._beside = beside
        self._document = b"".join(requests.document(state))
        size = len(self._document)
        if size > MAX_ENTRY_BYTES:
            raise TooLargeError(f"{size} bytes are more than the {MAX_ENTRY_BYTES} that fit into one request")

    async def through(self, outbox: Outbox, call: SavedCall, store: SessionApi, timeout_s: float) -> int:
        """Save when all that was queued before is acknowledged, and before what is queued from now on.

        An `if_version` that is the call's present one stands for the one that the call has by then: what was queued
        before is in the state. Gives the new version.

        Raises:
            RequestTimeoutError: not within so many seconds. If the save had not left by then, it does not leave.
            CallstateError: as `CallStore.save`.
        """
        is_current = self._if_version == call.version

        async def send() -> int:
            if_version = call.version if is_current else self._if_version
            request = requests.save_document(self._state, (self._document,), self._beside, if_version, call.epoch)
            return (await store._execute(request, None)).version

        seen = shown(call.state)
        change = None if shown(self._state) is seen else Replaced(seen, self._document)
        entry = outbox.put_action("session.save", send, change)
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
                raise RequestTimeoutError(
                    "not saved: what was queued before was not acknowledged in time"
                ) from None
            raise RequestTimeoutError("the daemon did not answer in time; outcome unknown") from None
