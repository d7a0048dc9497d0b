"""Read-through: cache misses are answered from the store, with at most one read per session id at a time.

Sessions that are asked for in the same turn of the loop, or while reads are in progress, are read together: a
heartbeat may name thousands that are not hot.

While a read is in progress, every request for that id waits for it, in order, so requests of one connection on one
session take effect in the order they were sent. A session of this host that has not ended is admitted to the cache;
one that has ended, that belongs to another host or to other software, or for which there is no room in memory, is
only shown to the requests that waited.
A late read never replaces a session that has meanwhile become hot.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from callstate_client.engine.interfaces import INTERNAL
from callstate_client.engine.rules.context import Context
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.store_form import FoundUnreadableError, placeholder_of, session_in_steps
from callstate_client.engine.sessions.stored import StoredMeta, StoreDownError, StoredSession, StoreError
from callstate_client.engine.table.tombstones import NO_TOMBSTONE, Tombstone
from callstate_client.errors import UnreadableError
from callstate_sidecar.journal import PartsLog
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.slices import in_turns
from callstate_sidecar.stores.backend import Reads

log = EventLog(__name__)

T = TypeVar("T")

Find = Callable[[], Awaitable[Session | None]]
"""Asks the store for a session."""

READ_TOGETHER: Final = 100
"""Sessions in one read: enough to make round trips cheap, and few enough for their documents to fit in memory."""

READERS: Final = 8
"""Reads in progress at a time, and as many other questions to the store (`ask`)."""

PARSED_AT_ONCE: Final = 128 * 1024
"""Bytes of documents parsed in one turn of the loop, about half a millisecond."""

READ_DEADLINE_S: Final = 10.0
"""After this the store counts as down. Backends have shorter timeouts of their own."""


async def in_time(answer: Awaitable[T]) -> T:
    """Wait for an answer of the store.

    Raises:
        StoreDownError: there is none in time.
    """
    try:
        async with asyncio.timeout(READ_DEADLINE_S):
            return await answer
    except TimeoutError as error:
        raise StoreDownError(f"no answer within {READ_DEADLINE_S:g} s") from error


class ReadThrough:
    """Reads sessions that are not hot.

    Args:
        host_id: the host whose sessions are admitted to the cache.
        parts: journals the histories of long ones; None: there is no log.
    """

    def __init__(self, ctx: Context, reads: Reads, host_id: str, parts: PartsLog | None = None) -> None:
        self._ctx = ctx
        self._reads = reads
        self._host_id = host_id
        self._parts = parts
        ctx.tx.in_parts = parts is not None
        self._waiting: dict[str, deque[Callable[[], None]]] = {}
        self._delivering: dict[str, Find | None] = {}
        """Sessions whose requests run now, and what one of those asks for next."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._wanted: deque[str] = deque()
        """Sessions still to be read."""
        self._asking = asyncio.Semaphore(READERS)
        self._readers = 0
        self._reader_comes = False
        """A reader has been started, and has not taken what is wanted yet."""

    def when_known(self, session_id: str, then: Callable[[], None]) -> None:
        """Call `then` once the store has been asked for this session; joins a read in progress."""
        waiting = self._waiting.get(session_id)
        if waiting is not None:
            waiting.append(then)
            return
        self._waiting[session_id] = deque((then,))
        self._want(session_id)

    def _want(self, session_id: str) -> None:
        """Have it read for those that wait."""
        self._wanted.append(session_id)
        if not self._reader_comes and self._readers < READERS:
            self._reader_comes = True
            self._readers += 1
            self._start(self._read_wanted())

    def ask(self, session_id: str, find: Find, then: Callable[[], None]) -> None:
        """Call `then` with what `find` gives for this session, ahead of what waits for it already.

        While a read of it is in progress, `then` waits for that, and may ask again.
        """
        waiting = self._waiting.get(session_id)
        if waiting is None:
            self._waiting[session_id] = deque((then,))
            self._begin(session_id, find)
            return
        waiting.appendleft(then)
        if session_id in self._delivering:
            self._delivering[session_id] = find

    def when_written(self, session: Session, then: Callable[[], None]) -> None:
        """Call `then` once the history of a session that is not hot is in the journal, as far as possible."""

        async def written() -> Session:
            if self._parts is not None:
                await self._parts.write(session)
            return session

        self.ask(session.id, written, then)

    def _begin(self, session_id: str, find: Find) -> None:
        self._start(self._find_in_turn(session_id, find))

    async def _find_in_turn(self, session_id: str, find: Find) -> None:
        async with self._asking:
            await self._find(session_id, find)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read_wanted(self) -> None:
        """Read what is wanted, until nothing is."""
        self._reader_comes = False
        wanted = self._wanted
        try:
            while wanted:
                ids = [wanted.popleft() for _ in range(min(READ_TOGETHER, len(wanted)))]
                if len(ids) == 1:
                    await self._find(ids[0], partial(self.read, ids[0]))
                else:
                    await self._find_each(ids)
        finally:
            self._readers -= 1

    async def _find_each(self, session_ids: list[str]) -> None:
        stored: Sequence[StoredSession | StoreError | None] = []

        async def read() -> None:
            nonlocal stored
            stored = await in_time(self._reads.read_each(session_ids))

        failure = await self._failure_of(read(), session_ids[0])
        parsed = 0
        for number, session_id in enumerate(session_ids):
            found: Session | Exception | None = failure
            if failure is None:
                each = stored[number]
                if isinstance(each, StoredSession) and each.unread_bytes:  # too long to be read with others
                    await self._find(session_id, partial(self.read, session_id))
                    continue
                found = each if isinstance(each, StoreError) else await self._parsed(session_id, each)
                await self._write_parts(found)
                parsed += len((isinstance(each, StoredSession) and each.document) or b"")
            self._deliver(session_id, found)
            if parsed > PARSED_AT_ONCE:
                parsed = 0
                await asyncio.sleep(0)

    async def read(self, session_id: str) -> Session | None:
        """The session that the store has.

        Raises:
            StoreError: the store can't say.
            FoundUnreadableError: its document can't be read.
        """
        return await in_turns(self._session(session_id, await in_time(self._reads.read(session_id))))

    async def _find(self, session_id: str, find: Find) -> None:
        found: Session | None = None

        async def ask() -> None:
            nonlocal found
            found = await find()

        failure = await self._failure_of(ask(), session_id)
        await self._write_parts(found)
        self._deliver(session_id, found if failure is None else failure)

    async def _failure_of(self, work: Awaitable[None], session_id: str) -> Exception | None:
        """Wait for a read; returns why it failed."""
        try:
            await work
        except (StoreError, FoundUnreadableError) as error:
            return error
        except Exception as error:
            log.exception(
                "store_read_failed", "reading session %s from the store failed", session_id, session_id=session_id
            )
            return error
        return None

    async def _parsed(self, session_id: str, stored: StoredSession | None) -> Session | Exception | None:
        try:
            return await in_turns(self._session(session_id, stored))
        except Exception as error:
            if not isinstance(error, FoundUnreadableError):
                log.exception(
                    "store_read_failed", "reading session %s from the store failed", session_id,
                    session_id=session_id,
                )  # fmt: skip
            return error

    async def _write_parts(self, found: Session | Exception | None) -> None:
        """Journal the history of a session that will become hot, if it is long."""
        if self._parts is not None and isinstance(found, Session) and self._is_to_stay(found):
            await self._parts.write(found)

    def _session(self, session_id: str, stored: StoredSession | None) -> Generator[None, None, Session | None]:
        ctx = self._ctx
        if stored is None:
            ctx.table.tombstones.remember_miss(session_id, ctx.clock.mono())
            return None
        try:
            session = yield from session_in_steps(session_id, stored, self._host_id)
        except UnreadableError as error:
            if stored.unread_bytes:
                log.warning(
                    "document_too_long", "session %s: the document has %d bytes, more than a session may have",
                    session_id, stored.unread_bytes, session_id=session_id,
                )  # fmt: skip
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
        """Make the result known, and run what waited for it, in order.

        A request may ask again, if what was known is not known any more: a miss expires while the process is
        stopped. It waits for another read then, and is not run here again and again.
        """
        ctx = self._ctx
        if session_id in ctx.table.sessions:
            pass
        elif isinstance(found, Session) and self._is_to_stay(found):
            ctx.tx.admit(found)
            ctx.watch(INTERNAL, found)
        elif found is not None:
            ctx.read_through[session_id] = found
        waiting = self._waiting[session_id]
        self._delivering[session_id] = None
        try:
            for _ in range(len(waiting)):
                waiting.popleft()()
                if self._delivering[session_id] is not None:
                    break
        finally:
            ctx.read_through.pop(session_id, None)
            find = self._delivering.pop(session_id)
            if find is not None:  # a request needs more than was read; the others wait for it
                self._begin(session_id, find)
            elif waiting:
                self._want(session_id)
            else:
                del self._waiting[session_id]

    def _is_to_stay(self, found: Session) -> bool:
        """Whether a session becomes hot by being read: a live one of this host, if there is room."""
        return found.host is None and not found.ended and not self._ctx.room.is_full(self._ctx.limits)

    async def close(self) -> None:
        """Wait for the reads in progress."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=READ_DEADLINE_S)
