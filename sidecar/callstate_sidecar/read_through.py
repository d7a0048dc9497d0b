"""Read-through: cache misses are answered from the store, with at most one read per session id at a time.

Sessions that are asked for in the same turn of the loop, or while reads are in progress, are read together: a
heartbeat may name thousands that are not hot.

While a read is in progress, every request for that id waits for it, in order, so requests of one connection on one
session take effect in the order they were sent. A session of this host that has not ended is admitted to the cache;
one that has ended, that belongs to another host or to other software, or for which there is no room in memory, is
only shown to the requests that waited.
A late read never replaces a session that has meanwhile become hot, nor brings back one that was hot meanwhile and
was deleted: it does not count then, and those that waited ask anew.

Thousands may have waited for one read, and many reads are answered at once. So a request runs in the turn of the
loop in which its session becomes known if there is time for it, else when its connection is next
(serving/resumed.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from callstate_client.engine.interfaces import INTERNAL
from callstate_client.engine.rules.context import Context
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.store_form import FoundUnreadableError, placeholder_of, session_in_steps
from callstate_client.engine.sessions.stored import StoredMeta, StoreDownError, StoredSession, StoreError
from callstate_client.engine.table.readings import Reading
from callstate_client.engine.table.tombstones import NO_TOMBSTONE, Tombstone
from callstate_client.errors import UnreadableError
from callstate_sidecar.journal import PartsLog
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.serving.resumed import Later, Requester
from callstate_sidecar.slices import SLICE_S, Slices, in_turns
from callstate_sidecar.stores.backend import Reads
from callstate_sidecar.wanted import Wanted

log = EventLog(__name__)

T = TypeVar("T")

Find = Callable[[], Awaitable[Session | None]]
"""Asks the store for a session."""

READ_TOGETHER: Final = 100
"""Sessions in one read: enough to make round trips cheap, and few enough for their documents to fit in memory."""

READERS: Final = 8
"""Reads in progress at a time, and as many other questions to the store (`ask`)."""

SHOWN_BYTES: Final = 64 * 1024 * 1024
"""Memory of sessions that wait to be shown, beyond which no more are read: a store may answer faster than requests
are served."""

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


class _Waiter(NamedTuple):
    then: Callable[[], None]
    requester: Requester | None


_Waiters = dict[str, deque[_Waiter]]


class ReadThrough:
    """Reads sessions that are not hot.

    Args:
        host_id: the host whose sessions are admitted to the cache.
        parts: journals the histories of long ones; None: there is no log.
        slices: made with the seconds of one.
    """

    def __init__(
        self,
        ctx: Context,
        reads: Reads,
        host_id: str,
        parts: PartsLog | None = None,
        slices: Callable[[float], Slices] = Slices,
    ) -> None:
        self._ctx = ctx
        self._reads = reads
        self._host_id = host_id
        self._parts = parts
        ctx.tx.in_parts = parts is not None
        self._slices = slices
        self._waiting: _Waiters = {}
        """What waits for the reads in progress, by session id."""
        self._asking_more: _Waiters = {}
        """What waits for other questions to the store, by session id."""
        self._asked = ""
        """The session that was asked for last."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._wanted = Wanted()
        self._asking = asyncio.Semaphore(READERS)
        self._readers = 0
        self._reader_comes = False
        """Whether a reader has been started and has not yet taken what is wanted."""

    def when_known(self, session_id: str, then: Callable[[], None], requester: Requester | None = None) -> None:
        """Call `then` once the store has been asked for this session; joins a read in progress.

        Args:
            session_id: the session.
            then: what waits for it.
            requester: in whose turn and time it runs; None: at once when the session becomes known.
        """
        self._wait(session_id, [_Waiter(then, requester)])

    def _wait(self, session_id: str, waiters: Sequence[_Waiter]) -> None:
        self._asked = session_id
        waiting = self._asking_more.get(session_id) or self._waiting.get(session_id)
        if waiting is not None:
            waiting.extend(waiters)
            return
        self._waiting[session_id] = deque(waiters)
        requester = waiters[0].requester
        process = None if requester is None else requester.process
        self._wanted.add(session_id, None if process is None else process.user, process)
        if not self._reader_comes and self._readers < READERS:
            self._reader_comes = True
            self._readers += 1
            self._start(self._read_wanted())

    def ask(
        self, session_id: str, find: Find, then: Callable[[], None], requester: Requester | None = None
    ) -> None:
        """Call `then` with what `find` gives for this session. Until then, all that ask for the session wait.

        While something else is asked about it, this waits for that in place of asking: else two would be under way,
        and what one connection sends might wait for the second, then the first. `then` asks again if need be.

        Args:
            session_id: the session.
            find: asks the store.
            then: what waits for it.
            requester: as with `when_known`.
        """
        if session_id in self._asking_more or session_id in self._waiting:
            self._wait(session_id, [_Waiter(then, requester)])
            return
        self._asked = session_id
        self._asking_more[session_id] = deque([_Waiter(then, requester)])
        self._start(self._find_in_turn(session_id, find))

    def when_written(self, session: Session, then: Callable[[], None], requester: Requester | None = None) -> None:
        """Call `then` once the history of a session that is not hot is in the journal, as far as that is possible;
        `requester` as with `when_known`."""

        async def written() -> Session:
            if self._parts is not None:
                await self._parts.write(session)
            return session

        self.ask(session.id, written, then, requester)

    async def _find_in_turn(self, session_id: str, find: Find) -> None:
        async with self._asking:
            await self._find(self._asking_more, session_id, find)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read_wanted(self) -> None:
        """Read what is wanted, until nothing is."""
        self._reader_comes = False
        wanted = self._wanted
        try:
            while wanted:
                if self._ctx.table.readings.size_bytes > SHOWN_BYTES:
                    await asyncio.sleep(0)  # those that wait are served meanwhile, some in each turn
                    continue
                ids = wanted.take(READ_TOGETHER)
                if len(ids) == 1:
                    await self._find(self._waiting, ids[0], partial(self.read, ids[0]))
                else:
                    await self._find_each(ids)
        finally:
            self._readers -= 1

    async def _find_each(self, session_ids: list[str]) -> None:
        stored: Sequence[StoredSession | StoreError | None] = []
        failure: Exception | None = None
        readings = [*map(self._ctx.table.readings.begin, session_ids)]
        try:
            stored = await in_time(self._reads.read_each(session_ids))
        except Exception as error:  # noqa: BLE001 - it is logged, and told to those that wait
            failure = self._failed(session_ids[0], error)
        slices = self._new_slices()
        for number, (session_id, reading) in enumerate(zip(session_ids, readings, strict=True)):
            found: Session | Exception | None = failure
            if failure is None:
                each = stored[number]
                if isinstance(each, StoredSession) and each.unread_bytes:  # too long to be read with others
                    self._ctx.table.readings.let_go(reading)
                    await self._find(self._waiting, session_id, partial(self.read, session_id))
                    continue
                found = each if isinstance(each, StoreError) else await self._parsed(session_id, each)
            await self._deliver(self._waiting, reading, found, slices)
            await slices.give_way()

    def _new_slices(self) -> Slices:
        """Those of one reader: all of them together take what one slice may take."""
        return self._slices(SLICE_S / max(1, self._readers))

    async def read(self, session_id: str) -> Session | None:
        """The session that the store has.

        Raises:
            StoreError: the store can't say.
            FoundUnreadableError: its document can't be read.
        """
        return await self._session(session_id, await in_time(self._reads.read(session_id)))

    async def _find(self, asking: _Waiters, session_id: str, find: Find) -> None:
        found: Session | Exception | None
        reading = self._ctx.table.readings.begin(session_id)
        try:
            found = await find()
        except Exception as error:  # noqa: BLE001 - it is logged, and told to those that wait
            found = self._failed(session_id, error)
        await self._deliver(asking, reading, found)

    async def _parsed(self, session_id: str, stored: StoredSession | None) -> Session | Exception | None:
        try:
            return await self._session(session_id, stored)
        except Exception as error:  # noqa: BLE001 - as above
            return self._failed(session_id, error)

    def _failed(self, session_id: str, error: Exception) -> Exception:
        """Why a read failed, which is logged if that is a fault of ours."""
        if not isinstance(error, StoreError | FoundUnreadableError):
            log.error(
                "store_read_failed", "reading session %s from the store failed", session_id,
                session_id=session_id, exc_info=error,
            )  # fmt: skip
        return error.with_traceback(None)  # it refers to the frame of the caller, who keeps the error: a cycle

    async def _session(self, session_id: str, stored: StoredSession | None) -> Session | None:
        """The session that the store returned; a miss is remembered."""
        session = None if stored is None else await in_turns(self._made(session_id, stored))
        if session is None:
            grave = NO_TOMBSTONE if stored is None else self._grave(stored.meta)
            self._ctx.table.tombstones.remember_miss(session_id, self._ctx.clock.mono(), grave)
        else:
            self._ctx.table.add_unflushed_beat(session)
        return session

    def _made(self, session_id: str, stored: StoredSession) -> Generator[None, None, Session | None]:
        try:
            return (yield from session_in_steps(session_id, stored, self._host_id))
        except UnreadableError as error:
            if stored.unread_bytes:
                log.warning(
                    "document_too_long", "session %s: the document has %d bytes, more than a session may have",
                    session_id, stored.unread_bytes, session_id=session_id,
                )  # fmt: skip
            raise FoundUnreadableError(error, placeholder_of(session_id, stored, self._host_id)) from error

    def _grave(self, meta: StoredMeta | None) -> Tombstone:
        """What a new session has to exceed for the store to accept it; a tombstone of another host, by its
        epoch."""
        if meta is None:
            return NO_TOMBSTONE
        return Tombstone(meta.version, meta.epoch if meta.host == self._host_id else meta.epoch + 1, meta.ops)

    async def _deliver(
        self, asking: _Waiters, reading: Reading, found: Session | Exception | None, slices: Slices | None = None
    ) -> None:
        """Make the result known, and have what waited for it run, in order and in slices.

        A request may ask again, if what was known is not known any more: a miss expires while the process is
        stopped, or the session has changed since it was read. It waits for another read then, and those behind it
        with it.
        """
        if self._parts is not None and isinstance(found, Session) and self._is_to_stay(found):
            await self._parts.write(found)  # the history, if it is long, ahead of the session
        readings, session_id = self._ctx.table.readings, reading.session_id
        self._learn(reading, found)
        waiting = asking.pop(session_id)
        try:
            while waiting:
                waiter = waiting.popleft()
                self._asked = ""
                self._run(reading, waiter)
                if self._asked == session_id:
                    break
                if not waiting:
                    break
                slices = slices or self._new_slices()
                if slices.is_over:
                    readings.untold += 1
                    try:
                        await slices.give_way()
                    finally:
                        readings.untold -= 1
        finally:
            readings.let_go(reading)
            if waiting:
                self._wait(session_id, waiting)

    def _learn(self, reading: Reading, found: Session | Exception | None) -> None:
        """Make a session hot that is to stay, or else let requests be shown what was found; neither if it is
        outdated, or the store has yet to be told that it is deleted."""
        ctx, session_id = self._ctx, reading.session_id
        if session_id in ctx.table.sessions:
            ctx.table.readings.outdate(session_id)
        elif reading.outdated or session_id in ctx.table.tombstones.pending:
            return
        elif isinstance(found, Session) and self._is_to_stay(found):
            ctx.tx.admit(found)
            ctx.watch(INTERNAL, found)
        else:
            ctx.table.readings.fill(reading, found, ctx.table.tombstones.predecessor(session_id))

    def _run(self, reading: Reading, waiter: _Waiter) -> None:
        """Run what waited for a reading, now or later."""
        now = partial(self._run_now, reading, waiter)
        if waiter.requester is None:
            now()
            return
        later = Later(
            reading.session_id,
            partial(self._run_later, reading, waiter),
            partial(self._wait_again, reading, waiter),
        )
        if not waiter.requester.resume(now, later):
            self._ctx.table.readings.keep(reading)

    def _run_now(self, reading: Reading, waiter: _Waiter) -> None:
        if reading.found is None:  # if even a miss is forgotten by now, the process was stopped
            waiter.then()
        else:
            self._show(reading, waiter)

    def _show(self, reading: Reading, waiter: _Waiter) -> None:
        """Run this, shown what it has waited for."""
        self._ctx.show(reading)
        try:
            waiter.then()
        finally:
            self._ctx.hide()

    def _run_later(self, reading: Reading, waiter: _Waiter) -> bool:
        self._asked = ""
        try:
            self._show(reading, waiter)
        finally:
            self._ctx.table.readings.let_go(reading)
        return self._asked == reading.session_id

    def _wait_again(self, reading: Reading, waiter: _Waiter) -> None:
        self._ctx.table.readings.let_go(reading)
        self._wait(reading.session_id, [waiter])

    def _is_to_stay(self, found: Session) -> bool:
        """Whether a session becomes hot by being read: a live one of this host, if there is room."""
        return found.host is None and not found.ended and not self._ctx.room.is_full(self._ctx.limits)

    async def close(self) -> None:
        """Wait for the reads in progress."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=READ_DEADLINE_S)
