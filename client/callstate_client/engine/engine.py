"""The engine: all rules of sessions, ownership and liveness in one object, without I/O, event loop or clock.

A front builds one, gives it a host, and drives it: the daemon from its event loop, a MemoryStore from the calls of
its user. What a front does:

- `run` a request, once for each. Its changes join the open group.
- `tick` when time has passed, and `depart` while there are `departures`.
- commit the group, or roll it back, then `publish`: `tx.records` is what a journal has to hear of.
- `disconnected` when a connection has closed. That a worker's process has exited comes through `PeerProcess.watch`.

The parts, each with its own rules: the table of hot sessions (`table`), the open group (`tx`), changes that the
store does not have yet (`flush_queue`), the deadlines (`liveness`), workers and their connections (`registry`),
sessions whose worker has left (`departures`), events (`events`), and what verbs share (`ctx`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from callstate_client.engine.clock import EngineClock
from callstate_client.engine.events import Events
from callstate_client.engine.expiry import Expiry, Verdicts
from callstate_client.engine.flush_queue import FlushQueue
from callstate_client.engine.interfaces import INTERNAL, Caller, Deferred, Host, PeerProcess
from callstate_client.engine.limits import Limits, Spans
from callstate_client.engine.liveness import Liveness
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
        clock: what time it is.
        stream: names its events; another one at each start.
        table: the sessions to begin with, as a replay has made them.
    """

    def __init__(
        self, limits: Limits, spans: Spans, clock: EngineClock, stream: str, table: SessionTable | None = None
    ) -> None:
        self.table = SessionTable() if table is None else table
        self.liveness = Liveness(spans.heartbeat_timeout_s, spans.grace_s, spans.retention_s)
        self.events = Events(limits.events, stream)
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

    def attach(self, host: Host) -> None:
        """Make known what the engine runs in. It asks the host nothing before its first request."""
        self.ctx.host = host

    def _watch_again(self, session: Session) -> None:
        self.ctx.watch_again(session)

    def _wake(self) -> None:
        self.ctx.host.wake()

    def restore(self, find: Callable[[Process], PeerProcess | Literal[Gone.GONE] | None]) -> None:
        """After a replay: every session has its full time again, and workers that died meanwhile have left.

        Args:
            find: looks for a process that the journal remembers; None: there is no saying whether it runs.
        """
        now = self._clock.live()
        for session in self.table.sessions.values():
            if session.ended:
                self.liveness.keep(session.id, now)
            else:
                self.ctx.watch(INTERNAL, session)
                session.restored = True
        all_dirty(self.table, self._clock.mono())
        self.registry.restore(find)

    # -- requests -------------------------------------------------------------------------------------------

    def run(self, caller: Caller, verb: Verb, params: Any) -> bytes | Deferred:
        """Answer a request.

        Args:
            caller: whose request it is.
            verb: of the request.
            params: of the verb, decoded by it.

        Returns:
            the result as JSON, or how to wait for it.

        Raises:
            NotCached: ask the store for a session (`Host.when_known`), then run the request again.
            WireError: the answer is this error.
        """
        return verb.run(self.ctx, caller, params)

    def disconnected(self, caller: Caller) -> None:
        """A connection has closed."""
        self.events.unsubscribe(caller)
        self.registry.disconnected(caller)

    # -- time -----------------------------------------------------------------------------------------------

    def tick(self, now: float, most: int | None = None) -> Verdicts:
        """Act on the workers and sessions whose time is up.

        Args:
            now: seconds of the clock's `live()`.
            most: sessions at the most; None: all.
        """
        self.registry.expire(now)
        return self._expiry.expire(now, most)

    def depart(self, now: float, most: int | None = None) -> Verdicts:
        """Decide what becomes of sessions whose worker has left; parameters as with `tick`."""
        self.departures.list_some()
        return self._expiry.depart(now, most)

    def next_deadline(self) -> float | None:
        """When `tick` has something to do next, seconds of the clock's `live()`; None: never, as things are."""
        deadlines = (self.liveness.next_deadline(), self.registry.workers.next_deadline())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    # -- the group ------------------------------------------------------------------------------------------

    def publish(self, max_unsent_bytes: int) -> int:
        """Tell subscribers what has happened; see Events.publish."""
        return self.events.publish(max_unsent_bytes)

    def close(self) -> None:
        """Watch no process any more."""
        self.registry.close()
