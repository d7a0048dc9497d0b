"""Read-through: cache misses are answered from the store, with at most one read per session id at a time.

While a read is in progress, every request for that id waits for it, in order, so requests of one connection on one
session take effect in the order they were sent. A session of this host that has not ended is admitted to the cache;
one that has ended, or that belongs to another host or to other software, is only shown to the requests that waited.
A late read never replaces a session that has meanwhile become hot.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from callstate_client.engine.interfaces import INTERNAL
from callstate_client.engine.rules.context import Context
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.store_form import FoundUnreadableError, placeholder_of, session_of
from callstate_client.engine.sessions.stored import StoredMeta, StoreDownError, StoredSession, StoreError
from callstate_client.engine.table.tombstones import NO_TOMBSTONE, Tombstone
from callstate_client.errors import UnreadableError
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.stores.backend import Reads

log = EventLog(__name__)

Find = Callable[[], Awaitable[Session | None]]
"""Asks the store for a session."""

READ_DEADLINE_S: Final = 10.0
"""After this the store counts as down. Backends have shorter timeouts of their own."""


class ReadThrough:
    """Reads sessions that are not hot.

    Args:
        host_id: the host whose sessions are admitted to the cache.
    """

    def __init__(self, ctx: Context, reads: Reads, host_id: str) -> None:
        self._ctx = ctx
        self._reads = reads
        self._host_id = host_id
        self._waiting: dict[str, deque[Callable[[], None]]] = {}
        self._delivering: dict[str, Find | None] = {}
        """Sessions whose requests run now, and what one of those asks for next."""
        self._tasks: set[asyncio.Task[None]] = set()

    def when_known(self, session_id: str, then: Callable[[], None]) -> None:
        """Call `then` once the store has been asked for this session; joins a read in progress."""
        waiting = self._waiting.get(session_id)
        if waiting is not None:
            waiting.append(then)
            return
        self.ask(session_id, partial(self.read, session_id), then)

    def ask(self, session_id: str, find: Find, then: Callable[[], None]) -> None:
        """Call `then` with what `find` gives for this session, ahead of what waits for it already."""
        self._waiting.setdefault(session_id, deque()).appendleft(then)
        if session_id in self._delivering:
            self._delivering[session_id] = find
        else:
            self._begin(session_id, find)

    def _begin(self, session_id: str, find: Find) -> None:
        task = asyncio.ensure_future(self._find(session_id, find))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def read(self, session_id: str) -> Session | None:
        """The session that the store has.

        Raises:
            StoreError: the store can't say.
            FoundUnreadableError: its document can't be read.
        """
        return self._session(session_id, await self._reads.read(session_id))

    async def _find(self, session_id: str, find: Find) -> None:
        found: Session | Exception | None
        try:
            async with asyncio.timeout(READ_DEADLINE_S):
                found = await find()
        except (StoreError, FoundUnreadableError) as error:
            found = error
        except TimeoutError:
            found = StoreDownError(f"no answer within {READ_DEADLINE_S:g} s")
        except Exception as error:
            log.exception(
                "store_read_failed", "reading session %s from the store failed", session_id, session_id=session_id
            )
            found = error
        self._deliver(session_id, found)

    def _session(self, session_id: str, stored: StoredSession | None) -> Session | None:
        ctx = self._ctx
        if stored is None:
            ctx.table.tombstones.remember_miss(session_id, ctx.clock.mono())
            return None
        try:
            session = session_of(session_id, stored, self._host_id)
        except UnreadableError as error:
            raise FoundUnreadableError(error, placeholder_of(session_id, stored, self._host_id)) from error
        if session is None:
            ctx.table.tombstones.remember_miss(session_id, ctx.clock.mono(), self._grave(stored.meta))
        return session

    def _grave(self, meta: StoredMeta | None) -> Tombstone:
        """What a new session has to exceed for the store to accept it; a tombstone of another host, by its
        epoch."""
        if meta is None:
            return NO_TOMBSTONE
        return Tombstone(meta.version, meta.epoch if meta.host == self._host_id else meta.epoch + 1, meta.ops)

    def _deliver(self, session_id: str, found: Session | Exception | None) -> None:
        """Make the result known, and run what waited for it, in order."""
        ctx = self._ctx
        if session_id in ctx.table.sessions:
            pass
        elif isinstance(found, Session) and found.host is None and not found.ended:
            ctx.tx.admit(found)
            ctx.watch(INTERNAL, found)
        elif found is not None:
            ctx.read_through[session_id] = found
        waiting = self._waiting[session_id]
        self._delivering[session_id] = None
        try:
            while waiting and self._delivering[session_id] is None:
                waiting.popleft()()
        finally:
            ctx.read_through.pop(session_id, None)
            find = self._delivering.pop(session_id)
            if find is None:
                del self._waiting[session_id]
            else:  # a request needs more than was read; the others wait for it
                self._begin(session_id, find)

    async def close(self) -> None:
        """Wait for the reads in progress."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=READ_DEADLINE_S)
