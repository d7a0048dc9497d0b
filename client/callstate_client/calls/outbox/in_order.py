"""The store's own mutations of a call that it holds: sent after what the call has queued.

Sent at once, `store.add_turn(id, …)` of a held call would overtake the turns in the call's outbox. So it is queued
there too, as an action: nothing is merged with it or across it, and what is queued later waits for it.
`call.state` does not show it, except for a save, which replaces the state. Unlike the call's own mutations it has a
caller who awaits it: it is withdrawn when that is cancelled or its time is up, unless it has been sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from typing import Any, Protocol

import msgspec

from callstate_client import protocol, requests
from callstate_client.calls.outbox.backlog import MAX_ENTRY_BYTES
from callstate_client.calls.outbox.local_changes import Change, Replaced
from callstate_client.calls.outbox.outbox import Outbox
from callstate_client.calls.view import shown
from callstate_client.errors import CallstateError, RequestTimeoutError, TooLargeError
from callstate_client.model.state import SessionState
from callstate_client.requests import PreparedRequest
from callstate_client.requests.patches import Beside
from callstate_client.session_api import SessionApi

__all__ = ["InOrder"]


class HeldState(Protocol):
    """What a mutation reads of its call at the moment it is sent."""

    version: int

    @property
    def epoch(self) -> int | None:
        """The epoch in which this worker holds the session."""
        ...

    @property
    def state(self) -> SessionState:
        """The state of the session as the worker sees it."""
        ...


class InOrder:
    """Sends the store's mutations of one held call in their place among the call's own.

    `timeout_s` is how long one may take, waiting included, seconds. All methods give the new version, and raise
    RequestTimeoutError when the time is up, else what the store's method raises.

    Args:
        outbox: of the call.
        call: the call.
        store: sends the requests.
    """

    def __init__(self, outbox: Outbox, call: HeldState, store: SessionApi) -> None:
        self._outbox = outbox
        self._call = call
        self._store = store

    async def save(
        self, state: SessionState, if_version: int | None, beside: Mapping[str, Any], timeout_s: float
    ) -> int:
        """Save a state as it is now.

        Args:
            state: gets its `updated_at` when it is saved.
            if_version: see `_version_then`.
            beside: what the save says beside the state; see `requests.beside_state`.

        Raises:
            DocumentError: it can't be saved.
            TooLargeError: no request has room for it.
        """
        document = b"".join(requests.document(state, self._store._redaction))
        if len(document) > MAX_ENTRY_BYTES:
            raise TooLargeError(
                f"{len(document)} bytes are more than the {MAX_ENTRY_BYTES} that fit into one request"
            )
        version = self._version_then(if_version)

        async def send() -> int:
            request = requests.save_document(state, (document,), beside, version(), self._call.epoch)
            return (await self._store._execute(request, None)).version

        seen = shown(self._call.state)
        change = None if shown(state) is seen else Replaced(seen, document)
        return await self._queue("session.save", send, timeout_s, change)

    async def execute(self, request: PreparedRequest[int], timeout_s: float, *, fenced: bool) -> int:
        """Execute a mutation; `fenced`: only in the epoch of the call."""
        version = self._version_then(getattr(request.params, "if_version", None))

        async def send() -> int:
            params = copy(request.params)
            if isinstance(params, protocol.UpdateParams):
                params.if_version = version()
            repeatable = msgspec.structs.replace(request, params=params)
            return await self._store._execute(repeatable, None, self._call.epoch if fenced else None)

        return await self._queue(request.method, send, timeout_s)

    async def rewrite_head(
        self,
        session_id: str,
        if_version: int | None,
        patch: dict[str, Any],
        beside: Beside,
        timeout_s: float,
        *,
        fenced: bool,
    ) -> int:
        """An update that takes several requests; see `SessionApi.update`."""
        version = self._version_then(if_version)

        async def send() -> int:
            epoch = self._call.epoch if fenced else None
            return await self._store._rewrite_head(session_id, version(), patch, beside, epoch=epoch)

        return await self._queue("session.update", send, timeout_s)

    def _version_then(self, if_version: int | None) -> Callable[[], int | None]:
        """The version to require when the mutation is sent. The call's present one stands for the one that it has
        then: what was queued before is in the call's state, so the caller has seen it."""
        is_current = if_version == self._call.version
        return lambda: self._call.version if is_current else if_version

    async def _queue(
        self, method: str, send: Callable[[], Awaitable[int]], timeout_s: float, change: Change | None = None
    ) -> int:
        entry = self._outbox.put_action(method, send, change)
        try:
            async with asyncio.timeout(timeout_s):
                return await entry
        except asyncio.CancelledError:
            self._outbox.withdraw(entry)
            raise
        except TimeoutError as error:
            if isinstance(error, CallstateError):
                raise
            if self._outbox.withdraw(entry):
                outcome = "not saved" if method == "session.save" else "not sent"
                raise RequestTimeoutError(
                    f"{outcome}: what was queued before was not acknowledged in time"
                ) from None
            raise RequestTimeoutError("the daemon did not answer in time; outcome unknown") from None
