"""Which workers are registered, over which connections, and what happens when one of them leaves.

The whole path of a worker's death: the system reports that its process has exited (a pidfd, watched through
`PeerProcess.watch`) or that a connection has closed; `workers.Workers` decides whether the worker has left; if so,
`worker.left` is noted and its sessions become `Departures`, which `Expiry` turns into suspects or orphans.

The process of a worker that owns sessions, or may do so, is journaled, so that its death is detected even if the
daemon is restarting at that time. It is forgotten once the worker has left and owns no sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, Literal

from callstate_client.engine.clock import EngineClock
from callstate_client.engine.events import Events
from callstate_client.engine.interfaces import Caller, ExitWatch, PeerProcess
from callstate_client.engine.process import Gone, Process
from callstate_client.engine.reasons import DISCONNECTED, EXITED
from callstate_client.engine.sessions.records import WorkerRecord
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.engine.transaction import Transaction
from callstate_client.engine.user import UNKNOWN
from callstate_client.engine.workers.departures import Departures
from callstate_client.engine.workers.states import WorkerOutcome, WorkerState
from callstate_client.engine.workers.workers import Workers
from callstate_client.errors import CallstateError

_LEFT: Final = {WorkerOutcome.LEFT_EXITED: EXITED, WorkerOutcome.LEFT_DISCONNECTED: DISCONNECTED}
"""How a worker has left, and why its sessions lose their owner."""


class WorkerRegistry:
    """The workers of one engine.

    Args:
        table: the sessions, and the processes known to the journal.
        tx: journals processes.
        departures: gets the sessions of workers that leave.
        events: where joining and leaving are noted.
        clock: times the grace.
        reconnect_grace_s: how long a worker that may be alive can be without a connection.
        wake: called when a worker has left, perhaps outside of any request: there are events to publish and
            departures to process.
    """

    def __init__(
        self,
        table: SessionTable,
        tx: Transaction,
        departures: Departures,
        events: Events,
        clock: EngineClock,
        reconnect_grace_s: float,
        wake: Callable[[], None],
    ) -> None:
        self._table = table
        self._tx = tx
        self._departures = departures
        self._events = events
        self._clock = clock
        self._wake = wake
        self._watches: dict[str, ExitWatch] = {}
        self._connections: dict[str, set[Caller]] = {}
        self._uids: dict[str, int] = {}
        """The users of workers that have a connection or may still own sessions."""
        self._lingering: set[str] = set()
        """Workers that have left, or have not reconnected since a restart, and may still own sessions."""
        self.workers = Workers(reconnect_grace_s)

    def is_connected(self, worker_id: str, instance: str = "") -> bool:
        """Whether a registered connection of this worker, or of one instance of it, is open."""
        if not instance:
            return self.workers.is_connected(worker_id)
        return any(connection.instance == instance for connection in self._connections.get(worker_id, ()))

    def uid_of(self, worker_id: str) -> int:
        """The user to whom a worker id belongs, for as long as it has a connection or owns a session; then, and
        where none is known, UNKNOWN."""
        return self._uids.get(worker_id, UNKNOWN)

    # -- joining ----------------------------------------------------------------------------------------------

    def register(
        self, caller: Caller, peer: PeerProcess, worker_id: str, instance: str = "", own_name: str = ""
    ) -> None:
        """Register a connection for a worker. Before that is answered, all sessions of a predecessor that has left
        are to be listed (`Departures.list_all`), and the process is to be remembered.

        Args:
            caller: the connection.
            peer: the process at its other end; closed here unless it is watched from now on.
            worker_id: the worker.
            instance: the store instance of the worker; empty if not given.
            own_name: the worker's name for its process; empty if not given.

        Raises:
            ForbiddenError: the connection is already registered for another worker.
            ConflictError: another process has this id, and is alive.
        """
        try:
            done = self.workers.register(worker_id, caller, peer.process, pidfd=peer.watchable, own_name=own_name)
        except CallstateError:
            peer.close()
            raise
        if done.replaced in _LEFT:
            # connections of the previous process, which has exited or is about to
            for connection in self._connections.pop(worker_id, set()):
                connection.close()
            self._left(worker_id, done.replaced)
        if done.watch:
            self._watch(worker_id, peer)
        else:
            peer.close()
        caller.worker, caller.instance = worker_id, instance
        self._connections.setdefault(worker_id, set()).add(caller)
        self._uids[worker_id] = caller.user.uid
        self.remember(worker_id)
        if done.joined:
            at = self._clock.wall_us()
            self.workers.joined(worker_id, at)
            self._events.note("worker.joined", at, worker_id=worker_id)

    def remember(self, worker_id: str) -> None:
        """Journal the process of a worker, unless that is done: an earlier write may have failed."""
        process = self.workers.process_of(worker_id)
        if process is not None:
            record = _record(worker_id, process, self.workers.own_name_of(worker_id), self.uid_of(worker_id))
            if self._table.processes.get(worker_id) != record:
                self._tx.remember_process(record)

    def _watch(self, worker_id: str, peer: PeerProcess) -> None:
        """Watch this process, and no other one of this worker."""
        self._unwatch(worker_id)
        if peer.process is not None:
            self._watches[worker_id] = peer.watch(partial(self._exited, worker_id, peer.process))

    def _unwatch(self, worker_id: str) -> None:
        watch = self._watches.pop(worker_id, None)
        if watch is not None:
            watch.close()

    def restore(self, find: Callable[[Process], PeerProcess | Literal[Gone.GONE] | None]) -> None:
        """After a replay: workers that died meanwhile have left; the others are watched again.

        Args:
            find: looks for a process known from the journal; None: it is unknown whether it is running.
        """
        table = self._table
        for worker_id in [*table.processes]:
            if worker_id not in table.index.owned:
                self._tx.forget_process(worker_id)
        for worker_id in [*table.index.owned]:
            self._lingering.add(worker_id)
            known = table.processes.get(worker_id)
            process = None if known is None else _process(known)
            own_name = "" if known is None else known.own_name
            if known is not None:
                self._uids[worker_id] = known.uid
            peer = None if process is None else find(process)
            if peer is Gone.GONE:
                self._left(worker_id, WorkerOutcome.LEFT_EXITED)
            elif peer is None:
                self.workers.restored(worker_id, process, pidfd=False, own_name=own_name)
            elif self.workers.restored(worker_id, peer.process, pidfd=True, own_name=own_name):
                self._watch(worker_id, peer)
            else:
                peer.close()

    # -- leaving ----------------------------------------------------------------------------------------------

    def disconnected(self, caller: Caller) -> None:
        """A connection has closed, registered or not."""
        worker_id = caller.worker
        if not worker_id:
            return
        connections = self._connections.get(worker_id, set())
        connections.discard(caller)
        if not connections:
            self._connections.pop(worker_id, None)
        self._left(worker_id, self.workers.closed(caller, self._clock.live()))

    def _exited(self, worker_id: str, process: Process) -> None:
        """The system reports that the process of a worker has exited."""
        self._watches.pop(worker_id, None)
        self._left(worker_id, self.workers.exited(worker_id, process))

    def expire(self, now: float) -> None:
        """Treat workers that have not reconnected in time as left. `now`: seconds of the clock's `live()`."""
        for worker_id in self.workers.due(now):
            self._left(worker_id, WorkerOutcome.LEFT_DISCONNECTED)
        for worker_id in [*self._lingering]:
            if worker_id not in self._table.index.owned:
                self._lingering.discard(worker_id)
                self._forget(worker_id)

    def _forget(self, worker_id: str) -> None:
        """Forget a worker if it has left; it no longer owns any session."""
        self.workers.idle(worker_id)
        if self.workers.state(worker_id) is WorkerState.GONE:
            self._tx.forget_process(worker_id)
            self._unwatch(worker_id)
            self._uids.pop(worker_id, None)

    def _left(self, worker_id: str, outcome: WorkerOutcome) -> None:
        """Note that a worker has left, if this outcome says so."""
        why = _LEFT.get(outcome)
        if why is None:
            return
        self._unwatch(worker_id)
        self._lingering.add(worker_id)
        self._events.note("worker.left", self._clock.wall_us(), reason=outcome.value, worker_id=worker_id)
        self._departures.worker_left(worker_id, why)
        self._tx.owner_left(self._departures.pending, worker_id, why)
        self._wake()

    def close(self) -> None:
        """Stop watching all processes."""
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()


def _record(worker_id: str, process: Process, own_name: str, uid: int) -> WorkerRecord:
    marks = process.start_ticks, process.boot_id, process.pidfs_inode
    return WorkerRecord(worker_id, process.pid, *marks, own_name, uid)


def _process(record: WorkerRecord) -> Process:
    return Process(record.pid, record.start_ticks, record.boot_id, record.pidfs_inode)
