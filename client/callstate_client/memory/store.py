"""MemoryStore, the public class: one worker's view of sessions that are kept in this process."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass

from callstate_client import protocol
from callstate_client.api import CallStore
from callstate_client.clock import Clock
from callstate_client.engine.limits import EVENTS
from callstate_client.errors import StoreClosedError
from callstate_client.memory.events import MemoryEvents
from callstate_client.memory.sessions import Sessions
from callstate_client.protocol.events import Cursor
from callstate_client.requests import BeforeSend, Redaction
from callstate_client.telemetry import Telemetry


@dataclass(slots=True, frozen=True)
class _Spans:
    heartbeat_timeout_s: float
    grace_s: float
    retention_s: float
    reconnect_grace_s: float
    max_handovers: int


class MemoryStore(CallStore):
    """Keeps the state of calls in this process, with the daemon's rules and errors: it runs the daemon's engine.

    Arguments and results are copied; nothing is shared with the caller. There is no store that outlives it, so an
    ended session is deleted after its retention. Works in any event loop; `clock.advance()` moves its time.

    A store is one worker's view of the sessions; `worker()` returns another worker's view of the same ones. Closing
    a view is like losing a connection: a worker that opens another one within the reconnect grace (`worker()` with
    the same id) keeps its calls; else they become orphans. `kill_worker()` is the sudden death of a worker.

    Args:
        clock: default the system's, which can be advanced.
        worker_id: whose view this is: it owns what it creates and claims; 1 to 64 bytes of printable ASCII. None:
            no worker's, like an operator's or a simple script's: it may change everything and owns nothing.
        heartbeat_timeout_s: silence after which a session without a timeout of its own is suspected, seconds.
        grace_s: how long a suspect may still come back before it is reaped, seconds.
        retention_s: how long an ended session is kept, seconds.
        reconnect_grace_s: how long a worker may be without a view before its sessions become orphans, seconds.
        max_handovers: how many claimers of a call may die, each within a minute of its claim, before it is ended as
            poisoned; 0: any number.
        events: how many events are kept for subscribers that come back, and for slow ones.
        before_send, telemetry: see `connect()`. Other workers' views have them too.

    Raises:
        InvalidParamsError: this is not a valid worker id.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        worker_id: str | None = "worker-1",
        heartbeat_timeout_s: float = 30.0,
        grace_s: float = 30.0,
        retention_s: float = 300.0,
        reconnect_grace_s: float = 5.0,
        max_handovers: int = 3,
        events: int = EVENTS,
        before_send: BeforeSend | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        spans = _Spans(heartbeat_timeout_s, grace_s, retention_s, reconnect_grace_s, max_handovers)
        self._open(Sessions(clock or Clock(), spans, events), worker_id, Redaction.of(before_send), telemetry)

    def _open(
        self,
        sessions: Sessions,
        worker_id: str | None,
        redaction: Redaction | None,
        telemetry: Telemetry | None,
    ) -> None:
        super().__init__()
        self._redaction = redaction
        self._observe(telemetry)
        self.clock = sessions.clock
        """The clock of this store."""
        self._sessions = sessions
        self._view = sessions.new_view(worker_id)
        if worker_id is not None:
            register = protocol.RegisterParams(worker_id=worker_id, instance=secrets.token_hex(8))
            sessions.answer(self._view, protocol.encode_request(0, "worker.register", register))

    # -- workers --------------------------------------------------------------------------------------------

    def worker(self, worker_id: str | None = None) -> MemoryStore:
        """Another view of the same sessions, even if this one is closed.

        Args:
            worker_id: of a new worker, or of a live one, for a further view of it; None: no worker's.

        Raises:
            InvalidParamsError: this is not a valid worker id.
        """
        view = MemoryStore.__new__(MemoryStore)
        view._open(self._sessions, worker_id, self._redaction, self._telemetry)
        return view

    @property
    def worker_id(self) -> str | None:
        """The worker whose view this is."""
        return self._view.worker or None

    def kill_worker(self) -> None:
        """Kill this worker's process: all of its views are closed, and its calls become suspects.

        A view that is created with its id after that belongs to a new process.
        """
        self._sessions.kill(self._view.process)

    # -- CallStore ------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """`memory`."""
        return "memory"

    @property
    def _place(self) -> object:
        return self._sessions

    @property
    def closed(self) -> bool:
        """Whether `close()` was called, or the worker killed."""
        return self._view.closed

    def count(self) -> int:
        """How many sessions there are, including ended ones that are still kept."""
        self._sessions.catch_up()
        return len(self._sessions.engine.table.sessions)

    async def request(
        self,
        method: str,
        params: protocol.Params | None = None,
        *,
        op_of: str | None = None,
        timeout_s: float | None = None,
    ) -> bytes:
        """Send a request of the protocol; see CallStore."""
        if self.closed:
            raise StoreClosedError
        return self._sessions.answer(self._view, protocol.encode_request(0, method, params))

    def events(self, *types: str, since: Cursor | None = None, worker_id: str | None = None) -> MemoryEvents:
        """Events of calls and workers; see CallStore."""
        if self.closed:
            raise StoreClosedError
        return MemoryEvents(self._sessions, types, since, worker_id, self._view)

    @property
    def draining(self) -> bool:
        """Whether new sessions are refused."""
        return self._sessions.engine.ctx.draining

    async def _beat(self, session_id: str) -> float | None:
        await self.update_heartbeat(session_id)
        return self._sessions.engine.table.sessions[session_id].facts.heartbeat_timeout_s

    async def default_heartbeat_timeout_s(self) -> float:
        """The timeout that this store was created with."""
        return self._sessions.engine.liveness.timeout_s

    @property
    def _known_features(self) -> Collection[str]:
        """All that there are."""
        return protocol.FEATURES

    async def _close(self) -> None:
        if not self.closed:
            self._sessions.close_views(self._view)
