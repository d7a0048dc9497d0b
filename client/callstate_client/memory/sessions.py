"""What all views of a MemoryStore share: an engine, driven by requests and by a clock that tests can advance.

Time. Nothing runs in the background. Each request, and each advance of the clock, first lets the engine catch up,
from one deadline to the next, each at its own time: advancing the clock by an hour has the effect of an hour that
passes. A deadline that was shortened to a time in the past is due now, not then.

Groups. Each request, and each step in time, is a group of its own and committed at once: there is no journal that
could fail, and no store. So what is committed counts as stored, an ended session is deleted by its eviction after
the retention, and a session that is not in memory does not exist. A deletion is remembered as long as an ended
session would be: until then a new session under its id continues its versions and epochs.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol, cast
from weakref import WeakSet, WeakValueDictionary

from callstate_client import protocol
from callstate_client.clock import Clock
from callstate_client.engine.engine import Engine
from callstate_client.engine.interfaces import Caller, Deferred, InSteps, NotCached, NotOurs, ShowStored
from callstate_client.engine.limits import DefaultLimits, Spans
from callstate_client.engine.long_result import Result
from callstate_client.engine.request import BadRequest, read_request, result_line
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.stored import Query, StoredSession
from callstate_client.engine.workers.states import WorkerState
from callstate_client.errors import TooLargeError
from callstate_client.memory.views import View, ViewPeer, ViewProcess

EVENTS_AT_ONCE: Final = 100
"""Missed events that a stream takes at once, about a millisecond: each is decoded."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Wakeable(Protocol):
    """Something that waits: an asyncio.Event."""

    def set(self) -> None:
        """Wake it."""
        ...


class SteppedClock:
    """The user's clock as the engine reads it: it shows a past time while the engine catches up."""

    stalled_s = 0.0

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.at: float | None = None
        """The time of the deadline being processed, monotonic seconds; None: the present."""

    def wall_us(self) -> int:
        """Microseconds since 1970."""
        now_us = (self._clock.now() - _EPOCH) // timedelta(microseconds=1)
        return now_us if self.at is None else now_us - round((self._clock.monotonic() - self.at) * 1e6)

    def mono(self) -> float:
        """Monotonic seconds."""
        return self._clock.monotonic() if self.at is None else self.at

    live = mono


class Sessions:
    """The sessions and workers of one MemoryStore, shared by its views.

    Args:
        clock: the user's.
        spans: the timeouts and grace periods.
        events: how many events are kept.
    """

    def __init__(self, clock: Clock, spans: Spans, events: int) -> None:
        self.clock = clock
        self._now = SteppedClock(clock)
        self._seen_s = clock.monotonic()
        self.engine = Engine(DefaultLimits(events=events), spans, self._now, secrets.token_hex(8))
        self.engine.events.most_a_turn = EVENTS_AT_ONCE
        self._host = MemoryHost(self.engine, self._now)
        self.engine.attach(self._host)
        self._retention_s = spans.retention_s
        self._deletions: OrderedDict[str, float] = OrderedDict()
        """When sessions were deleted, monotonic seconds, oldest first."""
        self._processes: WeakValueDictionary[str, ViewProcess] = WeakValueDictionary()
        """The processes of workers that have a view or may come back."""
        self.waiting: WeakSet[Wakeable] = WeakSet()
        """Woken when something may be due earlier than it was."""
        self._next_deadline: float | None = None
        clock.watch(self)

    # -- requests -------------------------------------------------------------------------------------------

    def answer(self, caller: Caller, line: bytes) -> bytes:
        """The reply to a request line, as a daemon would give it.

        Raises:
            WireError: a daemon would answer with this error.
        """
        if len(line) > protocol.LINE_BYTES:
            raise TooLargeError(f"the line exceeds limits.line_bytes ({protocol.LINE_BYTES})")
        try:
            request = read_request(line.removesuffix(b"\n"))
        except BadRequest as bad:
            raise bad.error from bad
        if request is None:
            return b""
        self.catch_up()
        try:
            result = self._run(caller, request.verb, request.params)
        finally:
            self._commit()
        if request.request_id is None:
            return b""
        return result_line(request.request_id, result if isinstance(result, bytes) else result.joined())

    def _run(self, caller: Caller, verb: Any, params: Any) -> Result:
        try:
            result = self._finished(caller, verb, params)
        except NotCached as missing:
            self._host.note_missing(missing.session_id)
            result = self._finished(caller, verb, params)
        if not isinstance(result, Deferred):
            return result
        outcomes: list[Result | Exception] = []
        result.start(outcomes.append)
        (outcome,) = outcomes
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _finished(self, caller: Caller, verb: Any, params: Any) -> Result | Deferred:
        result = self.engine.run(caller, verb, params)
        return result.finish() if isinstance(result, InSteps) else result

    # -- views ----------------------------------------------------------------------------------------------

    def new_view(self, worker_id: str | None) -> View:
        """A view for this worker, in the process that the worker runs in, or a new one."""
        self.catch_up()
        process = None if worker_id is None else self._processes.get(worker_id)
        if worker_id is None:
            process = ViewProcess()
        elif process is None or self.engine.registry.workers.state(worker_id) is WorkerState.GONE:
            process = self._processes[worker_id] = ViewProcess()
        return View(process)

    def close_views(self, *views: View) -> None:
        """Close these views, as a daemon sees connections closed."""
        self.catch_up()
        for view in views:
            view.close()
            self.engine.disconnected(view)
        self._commit()
        self._wake()  # their event streams have ended

    def kill(self, process: ViewProcess) -> None:
        """End a process, and with it all of its connections."""
        self.catch_up()
        process.kill()
        self.close_views(*process.views)

    # -- time -----------------------------------------------------------------------------------------------

    def due_in_s(self) -> float | None:
        """Seconds until the next deadline; None if there is none, or the clock stands still."""
        deadline = self.engine.next_deadline()
        if deadline is None or not self.clock.runs:
            return None
        return max(0.0, deadline - self.clock.monotonic())

    def catch_up(self) -> None:
        """Do what is due by now, each thing at its own time. Cheap if nothing is due."""
        now = self.clock.monotonic()
        while (deadline := self.engine.next_deadline()) is not None and deadline <= now:
            self._now.at = self._seen_s = max(deadline, self._seen_s)
            self.engine.tick(self._seen_s)
            self._commit()
        self._now.at, self._seen_s = None, now
        deletions = self._deletions
        while deletions and next(iter(deletions.values())) + self._retention_s <= now:
            session_id, _ = deletions.popitem(last=False)
            self.engine.table.tombstones.pop(session_id)

    # -- groups ---------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        """End the open group: decide departures, commit, and publish events."""
        engine = self.engine
        while engine.departures:
            engine.depart(self._now.live())
        engine.tx.commit()
        for session_id in engine.flush_queue.take_all_as_stored():
            self._deletions.pop(session_id, None)
            self._deletions[session_id] = self._now.mono()
        if engine.events.behind:
            engine.events.catch_up()
        engine.publish(0)
        if self.waiting:
            deadline = engine.next_deadline()
            if deadline != self._next_deadline:
                self._next_deadline = deadline
                self._wake()

    def _wake(self) -> None:
        for waiting in [*self.waiting]:
            waiting.set()


class MemoryHost:
    """The engine's environment (Host). There is no store, so nothing has to be waited for.

    Args:
        engine: whose host this is.
        clock: the engine's.
    """

    accepts_new = True
    is_shared = False

    def __init__(self, engine: Engine, clock: SteppedClock) -> None:
        self._engine = engine
        self._clock = clock

    def note_missing(self, session_id: str) -> None:
        """A session that is not in memory does not exist."""
        self._engine.table.tombstones.remember_miss(session_id, self._clock.mono())

    def when_taken(self, caller: Caller, theirs: NotOurs, then: Callable[[], None]) -> None:
        """There are no other hosts."""
        raise AssertionError(theirs.host)

    def is_dead(self, host_id: str, /) -> bool:
        """There are no other hosts."""
        return False

    def when_known(self, caller: Caller, session_id: str, then: Callable[[], None]) -> None:
        """Known at once: it does not exist."""
        self.note_missing(session_id)
        then()

    def when_written(self, caller: Caller, session: Session, then: Callable[[], None], /) -> None:
        """There is no journal."""
        then()

    async def stored_active_ids(self, cursor: str) -> tuple[list[str], str]:
        """None are stored."""
        return [], ""

    async def find(self, query: Query, cursor: str, limit: int) -> tuple[list[str], str]:
        """None are stored."""
        return [], ""

    async def show_ids(self, session_ids: Sequence[str], show: ShowStored, /) -> None:
        """None are stored."""

    async def show_stored(self, session_ids: Sequence[str], show: ShowStored, /) -> None:
        """None are stored."""

    async def flush(self, session_ids: list[str] | None, timeout_s: float | None) -> dict[str, int]:
        """Nothing is queued for a store: all sessions count as flushed."""
        flushed = self._engine.table.sessions if session_ids is None else {*session_ids}
        return {"flushed": len(flushed), "unflushed": 0}

    async def erase(self, session_id: str, timeout_s: float | None) -> protocol.EraseResult:
        """There are no files."""
        return protocol.EraseResult([])

    async def read_stored(self, session_id: str) -> StoredSession | None:
        """None are stored."""
        return None

    def retry_refused(self) -> None:
        """There is no store that could refuse anything."""

    async def check_store(self, repair: bool) -> protocol.CheckResult:
        """There is no store to differ from."""
        return protocol.CheckResult(len(self._engine.table.sessions), [])

    def after(self, work: Awaitable[Any], done: Callable[[Any], None]) -> None:
        """Run the work to its end, as nothing in it waits, and call `done` with its result or exception."""
        try:
            next(work.__await__())
        except StopIteration as end:
            done(end.value)
        except Exception as error:  # noqa: BLE001 - it answers the request
            done(error)

    def identify(self, caller: Caller) -> ViewPeer:
        """The process of a view."""
        return ViewPeer(cast(View, caller).process)  # no other caller registers

    def wake(self) -> None:
        """Nothing to do: departures are decided within the group in which the worker left."""

    def info(self) -> dict[str, Any]:
        """The result of `server.info`."""
        return {
            "name": "memory",
            "protocol": protocol.PROTOCOL_VERSION,
            "features": protocol.FEATURES,
            "store": "memory",
            "durability": "none",
            "liveness": "process",
            "heartbeat_timeout_s": self._engine.liveness.timeout_s,
        }

    def stats(self) -> dict[str, Any]:
        """The result of `server.stats`."""
        engine = self._engine
        return {
            "sessions": engine.table.index.status_counts(),
            "suspects": len(engine.liveness.suspects),
            "orphans": len(engine.table.index.orphans),
            "workers": len(engine.registry.workers),
            "workers_unwatched": engine.registry.workers.unwatched,
            "subscribers": engine.events.subscribers,
            "draining": engine.ctx.draining,
            "connections": 0,
            "dirty": 0,
        }

    def settings(self) -> Iterable[protocol.Setting]:
        """None: it is configured by its constructor."""
        return ()
