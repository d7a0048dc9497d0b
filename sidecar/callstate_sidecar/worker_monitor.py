"""Who is there: workers register, leave and die, and their sessions hear of it.

What is known of workers is in workers.py, what the kernel knows of their processes in peers.py; this joins the two
to the loop and hands the sessions of those who left to the reaper.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final, cast

from callstate_client.engine.context import Context
from callstate_client.engine.interfaces import Caller
from callstate_client.engine.process import Process
from callstate_client.engine.sessions.records import WorkerRecord
from callstate_client.engine.workers import Outcome, State, Workers
from callstate_client.errors import CallstateError
from callstate_sidecar.serving.connection import Connection
from callstate_sidecar.system.peers import (
    Gone,
    Peer,
    Peers,
    Watch,
)

log = logging.getLogger(__name__)

LEFT: Final = (Outcome.LEFT_EXITED, Outcome.LEFT_DISCONNECTED)


class Attendance:
    """The workers of one daemon.

    Args:
        ctx: the sessions.
        peers: asks the kernel.
        reconnect_grace_s: how long a worker that may live can be without a connection.
        depart: told which worker has left, and how, to see to its sessions.
        settle: told which id registers, before it owns anything.
        wake: ends the turn of the loop, where no request does.
    """

    def __init__(
        self,
        ctx: Context,
        peers: Peers,
        reconnect_grace_s: float,
        depart: Callable[[str, Outcome], None],
        settle: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        self._ctx = ctx
        self._peers = peers
        self._depart = depart
        self._settle = settle
        self._wake = wake
        self._watches: dict[str, Watch] = {}
        self._connections: dict[str, set[Connection]] = {}
        self._lingering: set[str] = set()
        """Workers that are gone, or not seen since the start, and may still own sessions."""
        self.workers = Workers(reconnect_grace_s)

    @property
    def evidence(self) -> str:
        """What a worker's death is seen by: `process`, or where the system can't tell, `connection`."""
        return "process" if self._peers.works else "connection"

    def is_connected(self, worker_id: str, instance: str) -> bool:
        """Whether a registered connection is open under this id; with an instance, one of that."""
        if not instance:
            return self.workers.is_connected(worker_id)
        return any(connection.instance == instance for connection in self._connections.get(worker_id, ()))

    # -- coming -----------------------------------------------------------------------------------------------

    def register(self, caller: Caller, worker_id: str, instance: str = "", own_name: str = "") -> None:
        """A connection says whose it is.

        Args:
            caller: the connection.
            worker_id: whose it is.
            instance: which store of the worker it is of.
            own_name: what the worker calls its process.

        Raises:
            ForbiddenError: it is another worker's already.
            ConflictError: another process has this id, and lives.
        """
        connection = cast(Connection, caller)
        if connection.transport is None:
            return  # it has hung up meanwhile
        peer = self._peers.identify(connection.transport.get_extra_info("socket"))
        try:
            done = self.workers.register(
                worker_id, connection, peer.process, pidfd=peer.watchable, own_name=own_name
            )
        except CallstateError:
            peer.close()
            raise
        if done.replaced in LEFT:
            self._superseded(worker_id, done.replaced)
        self._settle(worker_id)
        if done.watch:
            self._watch(worker_id, peer)
        else:
            peer.close()
        connection.worker, connection.instance = worker_id, instance
        self._connections.setdefault(worker_id, set()).add(connection)
        self._remember(worker_id)
        if done.joined:
            self._ctx.events.note("worker.joined", self._ctx.now_us(), worker_id=worker_id)
            log.debug("worker %s joined", worker_id)

    def _remember(self, worker_id: str) -> None:
        """Tell the journal which process a worker is, where it does not know: it may have taken no writes."""
        process = self.workers.process_of(worker_id)
        if process is not None:
            record = _record(worker_id, process, self.workers.own_name_of(worker_id))
            if self._ctx.cache.processes.get(worker_id) != record:
                self._ctx.cache.worker(record)

    def _watch(self, worker_id: str, peer: Peer) -> None:
        """Be told when this process exits, and of no other under this id any more."""
        self._unwatch(worker_id)
        if peer.process is not None:
            self._watches[worker_id] = Watch(peer, partial(self._exited, worker_id, peer.process))

    def _unwatch(self, worker_id: str) -> None:
        watch = self._watches.pop(worker_id, None)
        if watch is not None:
            watch.close()

    def restore(self) -> None:
        """After a replay: those who died while the daemon was down have left, the others are watched again."""
        cache = self._ctx.cache
        for worker_id in [*cache.processes]:
            if worker_id not in cache.index.owned:
                cache.forget_worker(worker_id)
        for worker_id in [*cache.index.owned]:
            self._lingering.add(worker_id)
            known = cache.processes.get(worker_id)
            process = None if known is None else _process(known)
            own_name = "" if known is None else known.own_name
            peer = None if process is None else self._peers.find(process)
            if peer is Gone.GONE:
                self._left(worker_id, Outcome.LEFT_EXITED)
            elif peer is None:
                self.workers.restored(worker_id, process, pidfd=False, own_name=own_name)
            elif self.workers.restored(worker_id, peer.process, pidfd=True, own_name=own_name):
                self._watch(worker_id, peer)
            else:
                peer.close()

    # -- leaving ----------------------------------------------------------------------------------------------

    def closed(self, caller: Caller) -> None:
        """A connection is gone."""
        connection = cast(Connection, caller)
        worker_id = connection.worker
        if not worker_id:
            return
        connections = self._connections.get(worker_id, set())
        connections.discard(connection)
        if not connections:
            self._connections.pop(worker_id, None)
        outcome = self.workers.closed(connection, self._ctx.clock.live())
        if outcome in LEFT:
            self._left(worker_id, outcome)

    def _exited(self, worker_id: str, process: Process) -> None:
        self._watches.pop(worker_id, None)
        outcome = self.workers.exited(worker_id, process)
        if outcome in LEFT:
            self._left(worker_id, outcome)

    def tick(self, now: float) -> None:
        """Those who did not come back in time have left. `now`: seconds of the clock's `live`."""
        for worker_id in self.workers.due(now):
            self._left(worker_id, Outcome.LEFT_DISCONNECTED)
        if self._lingering:
            self._forget()

    def _forget(self) -> None:
        """Nothing is kept of workers that are gone and own nothing any more."""
        cache = self._ctx.cache
        for worker_id in [*self._lingering]:
            if worker_id not in cache.index.owned:
                self._lingering.discard(worker_id)
                self.workers.idle(worker_id)
                if self.workers.state(worker_id) is State.GONE:
                    cache.forget_worker(worker_id)
                    self._unwatch(worker_id)

    def _superseded(self, worker_id: str, outcome: Outcome) -> None:
        """Another process has taken the id: connections of the old one, which nobody reads, are closed."""
        for connection in self._connections.pop(worker_id, set()):
            connection.close()
        self._left(worker_id, outcome)

    def _left(self, worker_id: str, outcome: Outcome) -> None:
        self._unwatch(worker_id)
        self._lingering.add(worker_id)
        self._ctx.events.note("worker.left", self._ctx.now_us(), reason=outcome.value, worker_id=worker_id)
        log.debug("worker %s left: %s", worker_id, outcome.value)
        self._depart(worker_id, outcome)
        self._wake()

    def close(self) -> None:
        """Watch nobody any more."""
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()


def _record(worker_id: str, process: Process, own_name: str) -> WorkerRecord:
    marks = process.start_ticks, process.boot_id, process.pidfs_inode
    return WorkerRecord(worker_id, process.pid, *marks, own_name)


def _process(record: WorkerRecord) -> Process:
    return Process(record.pid, record.start_ticks, record.boot_id, record.pidfs_inode)
