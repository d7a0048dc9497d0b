"""Misses: one read of the store an id at a time, and whoever waits for it in the order of asking."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from callstate_client.engine.context import Context
from callstate_client.engine.interfaces import INTERNAL
from callstate_client.engine.sessions.session import FoundUnreadableError, Session
from callstate_client.engine.sessions.stored import (
    StoredMeta,
    StoreDownError,
    StoredSession,
    StoreError,
)
from callstate_client.engine.table.cache import NO_GRAVE, Grave
from callstate_client.errors import UnreadableError
from callstate_sidecar.stores.backend import (
    Backend,
)

log = logging.getLogger(__name__)

READ_DEADLINE_S: Final = 10.0
"""A store that has not answered by then is called unavailable; backends have shorter time-outs of their own."""


class ReadThrough:
    """Asks the store for sessions that are not hot.

    While a read is under way every request for that id waits behind it, so requests of one connection on one
    session take effect in the order sent. A session of ours that lives becomes hot; one that has ended, or is
    another host's, or was written by somebody else, is only shown to those who waited.
    """

    def __init__(self, ctx: Context, backend: Backend, host_id: str) -> None:
        self._ctx = ctx
        self._backend = backend
        self._host_id = host_id
        self._flights: dict[str, deque[Callable[[], None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def when_known(self, session_id: str, then: Callable[[], None]) -> None:
        """Call `then` when the store has been asked for this session; ask, where nobody has yet."""
        waiting = self._flights.get(session_id)
        if waiting is not None:
            waiting.append(then)
            return
        self._flights[session_id] = deque([then])
        task = asyncio.ensure_future(self._fly(session_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fly(self, session_id: str) -> None:
        found: Session | Exception | None
        try:
            async with asyncio.timeout(READ_DEADLINE_S):
                found = self._session(session_id, await self._backend.read(session_id))
        except (StoreError, FoundUnreadableError) as error:
            found = error
        except TimeoutError:
            found = StoreDownError(f"no answer within {READ_DEADLINE_S:g} s")
        except Exception as error:
            log.exception("reading session %s from the store failed", session_id)
            found = error
        self._land(session_id, found)

    def _session(self, session_id: str, stored: StoredSession | None) -> Session | None:
        ctx = self._ctx
        if stored is None:
            ctx.cache.note_miss(session_id, ctx.clock.mono())
            return None
        try:
            session = Session.of_stored(session_id, stored, self._host_id)
        except UnreadableError as error:
            raise FoundUnreadableError(error, Session.unreadable(session_id, stored, self._host_id)) from error
        if session is None:
            ctx.cache.note_miss(session_id, ctx.clock.mono(), self._grave(stored.meta))
        return session

    def _grave(self, meta: StoredMeta | None) -> Grave:
        """What a new session must be above for the store to take it; above another host's, only by its epoch."""
        if meta is None:
            return NO_GRAVE
        return Grave(meta.version, meta.epoch if meta.host == self._host_id else meta.epoch + 1, meta.ops)

    def _land(self, session_id: str, found: Session | Exception | None) -> None:
        """Run whoever waited, in order; a late read never replaces a hot session."""
        ctx = self._ctx
        if session_id in ctx.cache.sessions:
            pass
        elif isinstance(found, Session) and found.host is None and not found.ended:
            ctx.cache.admit(found)
            ctx.watch(INTERNAL, found)
        elif found is not None:
            ctx.read_through[session_id] = found
        waiting = self._flights[session_id]
        try:
            while waiting:
                waiting.popleft()()
        finally:
            del self._flights[session_id]
            ctx.read_through.pop(session_id, None)

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=READ_DEADLINE_S)
