"""The engine: all rules of sessions, ownership and liveness in one object, without I/O, event loop or clock.

A front builds one, gives it a host, and drives it: the daemon from its event loop, a MemoryStore from the calls of
its user. What a front does:

- `run` each request once. Its changes join the open group.
- `tick` when time has passed, `depart` while there are `departures`, `eviction.run` where memory is bounded.
- commit the group, or roll it back, then `publish`: `tx.records` is what is to be journaled.
- `disconnected` when a connection has closed. The exit of a worker's process is reported by `PeerProcess.watch`.

The parts, each with its own rules: the table of hot sessions (`table`), the open group (`tx`), changes that the
store does not have yet (`flush_queue`), the deadlines (`liveness`), workers and their connections (`registry`),
sessions whose worker has left (`departures`), events (`events`), what leaves memory early (`eviction`), and what
verbs share (`ctx`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from callstate_client.engine.clock import EngineClock
from callstate_client.engine.events import Events
from callstate_client.engine.eviction import Eviction
from callstate_client.engine.expiry import Expiry, Verdicts
from callstate_client.engine.flush_queue import FlushQueue
from callstate_client.engine.interfaces import INTERNAL, Access, Caller, Deferred, Host, InSteps, PeerProcess, Steps
from callstate_client.engine.limits import Limits, Spans
from callstate_client.engine.liveness import Liveness
from callstate_client.engine.long_result import Result
from callstate_client.engine.process import Gone, Process
from callstate_client.engine.rules.context import Context
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.table.replay import all_dirty
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.engine.transaction import Transaction
from callstate_client.engine.verbs.table import Verb
from callstate_client.engine.workers.departures import Departures
from callstate_client.engine.workers.registry import WorkerRegistry


class Engine:
    """The sessions of one host, and who owns them.

    Args:
        limits: how much it keeps.
        spans: how long it waits for signs of life.
        clock: the time.
        stream: the name of its event stream, new at each start.
        table: the initial sessions, from a replay.
    """

    def __init__(
        self, limits: Limits, spans: Spans, clock: EngineClock, stream: str, table: SessionTable | None = None
    ) -> None:
        self.table = SessionTable() if table is None else table
        self.liveness = Liveness(spans.heartbeat_timeout_s, spans.grace_s, spans.retention_s)
        self.events = Events(limits.events, stream, self.table.hot)
        self.tx = Transaction(self.table, self.liveness, self.events, self._watch_again)
        self.flush_queue = FlushQueue(self.table, self.tx)
        self.departures = Departures(self.table)
        self.registry = WorkerRegistry(
            self.table, self.tx, self.departures, self.events, clock, spans.reconnect_grace_s, self._wake
        )
        self.ctx = Context(
            self.table, self.tx, self.liveness, clock, limits, self.events, self.departures, self.registry,
            spans.max_handovers,
        )  # fmt: skip
        self._clock = clock
        self._expiry = Expiry(self.ctx)
        self.eviction = Eviction(self.ctx)
        self.tx.check_room = self.ctx.check_brought_in

    def control(self, access: Access) -> None:
        """Have this decide from now on what users may do."""
        self.ctx.access = access
        self.ctx.guard = self.events.guard = access if access.restricts else None

    def attach(self, host: Host) -> None:
        """Set the program that the engine runs in. It is not used before the first request."""
        self.ctx.host = host

    def _watch_again(self, session: Session) -> None:
        self.ctx.watch_again(session)

    def _wake(self) -> None:
        self.ctx.host.wake()

    def restore(self, find: Callable[[Process], PeerProcess | Literal[Gone.GONE] | None]) -> None:
        """After a replay: give every session its full time, and detect workers that died meanwhile.

        Args:
            find: looks for a process known from the journal; None: it is unknown whether it is running.
        """
        now = self._clock.live()
        for session in self.table.sessions.values():
            if session.ended:
                self.liveness.keep(session, now)
            else:
                self.ctx.watch(INTERNAL, session)
                session.restored = True
        all_dirty(self.table, self._clock.mono())
        self.registry.restore(find)

    # -- requests -------------------------------------------------------------------------------------------

    def run(self, caller: Caller, verb: Verb, params: Any) -> Result | Deferred | InSteps:
        """Answer a request.

        Args:
            caller: who sent it.
            verb: of the request.
            params: decoded by the verb.

        Returns:
            the result as JSON, or how to wait or work for it.

        Raises:
            NotCached: read a session from the store (`Host.when_known`), then run the request again.
            NotJournaled: write its history to the journal (`Host.when_written`), then run it again.
            WireError: the error to reply with.
        """
        guard = self.ctx.guard
        if guard is None:
            return verb.run(self.ctx, caller, params)
        succeeded = guard.admit(self.ctx, caller, verb.method, params)
        result = verb.run(self.ctx, caller, params)
        if isinstance(result, InSteps):
            result = InSteps(self._admitted(guard, caller, verb, params, result.work))
        if succeeded is not None:
            succeeded()
        return result

    def _admitted(self, guard: Access, caller: Caller, verb: Verb, params: Any, work: Steps) -> Steps:
        """Steps of a request that its user may still send: meanwhile the session may have been deleted, and its id
        have become another user's, or the rules may be other ones."""
        while True:
            guard.admit(self.ctx, caller, verb.method, params)
            try:
                next(work)
            except StopIteration as end:
                result: Result | Deferred = end.value
                return result
            yield

    def disconnected(self, caller: Caller) -> None:
        """A connection has closed."""
        self.events.unsubscribe(caller)
        self.registry.disconnected(caller)

    # -- time -----------------------------------------------------------------------------------------------

    def tick(self, now: float, most: int | None = None) -> Verdicts:
        """Process the workers and sessions whose deadline has passed.

        Args:
            now: seconds of the clock's `live()`.
            most: at most this many sessions; None: all.
        """
        self.registry.expire(now)
        return self._expiry.expire(now, most)

    def depart(self, now: float, most: int | None = None) -> Verdicts:
        """Process the sessions of workers that have left; parameters as with `tick`."""
        self.departures.list_some()
        return self._expiry.depart(now, most)

    def next_deadline(self) -> float | None:
        """When `tick` is due next, seconds of the clock's `live()`; None if nothing is pending."""
        deadlines = (self.liveness.next_deadline(), self.registry.workers.next_deadline())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    # -- the group ------------------------------------------------------------------------------------------

    def publish(self, max_unsent_bytes: int) -> int:
        """Send events to subscribers; see Events.publish."""
        return self.events.publish(max_unsent_bytes)

    def close(self) -> None:
        """Stop watching processes."""
        self.registry.close()
