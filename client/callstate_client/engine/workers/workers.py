"""The workers of one engine, and when one of them has left, judged by connections and processes; see states.py.

Pure: `now` is passed in, seconds of the clock's `live()`, which stands still while the daemon does and may step
back by the length of a stall once that is noticed.

Pids are reused, so two processes under one worker id are told apart by other marks as well (process.py): one that
may still be alive keeps the id, and the newcomer gets a conflict. Conversely, several worker ids from one process
mean a proxy in front of many workers, unless each gives the same name for its process (`own_name`). The exit of a
proxy says nothing about its workers, so they are judged by connections and heartbeats alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from callstate_client.engine.process import Process
from callstate_client.engine.workers.states import TRANSITIONS, WorkerEvidence, WorkerOutcome, WorkerState
from callstate_client.errors import ConflictError, ForbiddenError


class Registration(NamedTuple):
    """The effects of a registration, to be acted on in this order."""

    replaced: WorkerOutcome
    """How the previous worker of this id left, if it was replaced; else NOTHING."""
    joined: bool
    """The first connection of a worker."""
    watch: bool
    """Watch its process from now on, instead of any previous one, and report its exit."""


AGAIN: Final = Registration(WorkerOutcome.NOTHING, joined=False, watch=False)


class WorkerDescription(NamedTuple):
    """What is known of a worker, for operators."""

    state: WorkerState
    connections: int
    pid: int
    """The pid of the process at the other end; 0: not known."""
    watched: bool
    """Whether its exit can be observed."""
    joined_us: int
    """When it joined, µs since the epoch; 0: before the daemon started."""


@dataclass(slots=True, eq=False)
class _Program:
    """A process from which workers are registered."""

    process: Process
    workers: set[str] = field(default_factory=set)
    own_names: set[str] = field(default_factory=set)
    """Its workers' names for their process; an empty one: some worker gave none."""
    shared: bool = False
    """It is a proxy: its worker ids belong to several processes, so its exit says nothing about them."""


@dataclass(slots=True, eq=False)
class _Worker:
    worker_id: str
    state: WorkerState = WorkerState.GONE
    program: _Program | None = None
    pidfd: bool = False
    own_name: str = ""
    connections: set[Hashable] = field(default_factory=set)
    joined_us: int = 0

    @property
    def process(self) -> Process | None:
        """The process whose exit means the worker's death; None: not known."""
        return None if self.program is None or self.program.shared else self.program.process

    @property
    def watched(self) -> bool:
        return self.pidfd and self.process is not None


class Workers:
    """The workers that are connected, may reconnect soon, or are known from before a restart.

    Their number is bounded by the connections, those closed within the last grace, and the workers restored.

    Args:
        reconnect_grace_s: how long a worker whose process may be alive can be without a connection.
    """

    def __init__(self, reconnect_grace_s: float) -> None:
        self.reconnect_grace_s = reconnect_grace_s
        self._workers: dict[str, _Worker] = {}
        self._of: dict[Hashable, str] = {}
        self._programs: dict[int, _Program] = {}
        self._away: OrderedDict[str, float] = OrderedDict()
        self._now = float("-inf")

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def unwatched(self) -> int:
        """How many of them are judged by connections and heartbeats alone."""
        return sum(not worker.watched for worker in self._workers.values())

    def state(self, worker_id: str) -> WorkerState:
        """The state of a worker; GONE for an unknown id."""
        worker = self._workers.get(worker_id)
        return WorkerState.GONE if worker is None else worker.state

    def is_connected(self, worker_id: str) -> bool:
        """Whether a registered connection is open under this id."""
        return self.state(worker_id) in (WorkerState.CONNECTED, WorkerState.EXITED)

    def worker_of(self, connection: Hashable) -> str | None:
        """The id under which it is registered; None also if its worker was superseded."""
        return self._of.get(connection)

    def process_of(self, worker_id: str) -> Process | None:
        """The process whose exit means this worker's death, for the journal; None: not known."""
        worker = self._workers.get(worker_id)
        return None if worker is None else worker.process

    def own_name_of(self, worker_id: str) -> str:
        """This worker's name for its process, for the journal; empty if it gave none."""
        worker = self._workers.get(worker_id)
        return "" if worker is None else worker.own_name

    def ids(self) -> Iterable[str]:
        """The ids of all of them; none may join or leave meanwhile."""
        return self._workers.keys()

    def describe(self, worker_id: str) -> WorkerDescription:
        """What is known of one of them."""
        worker = self._workers[worker_id]
        pid = 0 if worker.program is None else worker.program.process.pid
        return WorkerDescription(worker.state, len(worker.connections), pid, worker.watched, worker.joined_us)

    def joined(self, worker_id: str, wall_us: int) -> None:
        """Note when one of them joined."""
        self._workers[worker_id].joined_us = wall_us

    # -- what is learned --------------------------------------------------------------------------------------

    def register(
        self, worker_id: str, connection: Hashable, process: Process | None, *, pidfd: bool, own_name: str = ""
    ) -> Registration:
        """Register a connection for a worker.

        Args:
            worker_id: the worker.
            connection: a key that identifies the connection.
            process: the process at its other end; None: not known.
            pidfd: whether the exit of that process can be watched.
            own_name: the worker's name for its process. If several workers of one pid give the same name, they
                belong to that process, and it is not a proxy.

        Raises:
            ForbiddenError: the connection is registered under another id.
            ConflictError: another process has the id, and is alive.
        """
        registered = self._of.get(connection)
        if registered is not None:
            if registered != worker_id:
                raise ForbiddenError("this connection is registered under another worker_id")
            return AGAIN
        program = self._program(worker_id, process)
        worker = self._workers.get(worker_id)
        replaced = WorkerOutcome.NOTHING
        if worker is not None and _is_other(worker, program):
            replaced = self._supersede(worker, program)
            worker = None
        if worker is None:
            worker = self._workers[worker_id] = _Worker(worker_id)
        watch = self._adopt(worker, program, pidfd=pidfd, own_name=own_name)
        worker.connections.add(connection)
        self._of[connection] = worker_id
        outcome = self._learn(worker, WorkerEvidence.REGISTERED)
        return Registration(replaced, outcome is WorkerOutcome.JOINED, watch)

    def closed(self, connection: Hashable, now: float) -> WorkerOutcome:
        """A connection closed, registered or not."""
        worker_id = self._of.pop(connection, None)
        if worker_id is None:
            return WorkerOutcome.NOTHING
        worker = self._workers[worker_id]
        worker.connections.discard(connection)
        if worker.connections:
            return WorkerOutcome.NOTHING
        self._settle(now)
        outcome = self._learn(worker, WorkerEvidence.DISCONNECTED)
        if worker.state is WorkerState.AWAY:
            self._away[worker_id] = now
        return outcome

    def exited(self, worker_id: str, process: Process) -> WorkerOutcome:
        """This process, watched for this worker, has exited."""
        worker = self._workers.get(worker_id)
        ours = None if worker is None else worker.process
        if worker is None or ours is None or ours.is_same(process) is False:
            return WorkerOutcome.NOTHING  # it has left already, or the process is a proxy
        return self._learn(worker, WorkerEvidence.PROCESS_EXITED)

    def due(self, now: float) -> list[str]:
        """The workers that have not reconnected in time, each returned once: LEFT_DISCONNECTED."""
        self._settle(now)
        left = []
        while self._away:
            worker_id = next(iter(self._away))
            if self._away[worker_id] + self.reconnect_grace_s > now:
                break
            left.append(worker_id)
            self._learn(self._workers[worker_id], WorkerEvidence.GRACE_OVER)
        return left

    def next_deadline(self) -> float | None:
        """When the next grace ends; None if no worker is away."""
        away_since = next(iter(self._away.values()), None)
        return None if away_since is None else away_since + self.reconnect_grace_s

    def restored(self, worker_id: str, process: Process | None, *, pidfd: bool, own_name: str = "") -> bool:
        """Add a worker known from the journal that may be alive; once for each, before any registers.

        Returns:
            whether its process has to be watched, as with `Registration.watch`.
        """
        worker = self._workers[worker_id] = _Worker(worker_id, WorkerState.RESTORED)
        return self._adopt(worker, self._program(worker_id, process), pidfd=pidfd, own_name=own_name)

    def idle(self, worker_id: str) -> bool:
        """A worker owns no session. Returns whether it is forgotten for that, as a restored one is."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return False
        self._learn(worker, WorkerEvidence.IDLE)
        return worker.state is WorkerState.GONE

    # -- transitions ------------------------------------------------------------------------------------------

    def _learn(self, worker: _Worker, evidence: WorkerEvidence) -> WorkerOutcome:
        worker.state, outcome = TRANSITIONS[worker.state, evidence]
        if worker.state is not WorkerState.AWAY:
            self._away.pop(worker.worker_id, None)
        if worker.state is WorkerState.GONE:
            del self._workers[worker.worker_id]
            for connection in worker.connections:
                del self._of[connection]
            self._leave(worker)
        return outcome

    def _supersede(self, worker: _Worker, program: _Program | None) -> WorkerOutcome:
        """Another process has registered under its id: give the old one up, unless it is alive."""
        ours = worker.process
        recycled = ours is not None and program is not None and ours.key == program.process.key
        if recycled:  # the pid was reused, so the old process has exited, and its watch is about to report it
            outcome = self._learn(worker, WorkerEvidence.PROCESS_EXITED)
            if worker.state is WorkerState.GONE:
                return outcome
        elif worker.state is WorkerState.CONNECTED or (worker.watched and worker.state is not WorkerState.EXITED):
            raise ConflictError(
                f"another live process is registered as {worker.worker_id!r}", owner=worker.worker_id
            )
        return self._learn(worker, WorkerEvidence.SUPERSEDED)

    def _settle(self, now: float) -> None:
        """If the clock has stepped back, keep `_away` in order and without times in the future."""
        if now < self._now:
            for worker_id, since in self._away.items():
                self._away[worker_id] = min(since, now)
        self._now = now

    # -- processes --------------------------------------------------------------------------------------------

    def _program(self, worker_id: str, process: Process | None) -> _Program | None:
        """The entry of a process, or a new one that `_adopt` adds; None if the process is not known."""
        if process is None:
            return None
        known = self._programs.get(process.key)
        if known is None or known.process.is_same(process) is False:
            return _Program(process)
        if any(self.state(other) is WorkerState.EXITED for other in known.workers):
            # there are no marks to compare: the pid was reused, unless this was sent before the process exited
            return known if worker_id in known.workers else _Program(process)
        if not (known.process.start_ticks or known.process.pidfs_inode):
            known.process = (
                process  # it may have marks now; the first time there may have been no descriptor left to read them
            )
        return known

    def _adopt(self, worker: _Worker, program: _Program | None, *, pidfd: bool, own_name: str) -> bool:
        """Record the process of a worker. Returns whether its watch has to begin."""
        if program is None:
            return False
        if worker.program is not program:
            self._leave(worker)
            worker.program, worker.pidfd, worker.own_name = program, False, own_name
            self._programs[program.process.key] = program
            program.workers.add(worker.worker_id)
            program.own_names.add(own_name)
            if len(program.workers) > 1 and (len(program.own_names) > 1 or not own_name):
                program.shared = True  # and stays so as long as any of them is left
        watch = pidfd and not worker.pidfd and not program.shared
        worker.pidfd = worker.pidfd or watch
        return watch

    def _leave(self, worker: _Worker) -> None:
        program = worker.program
        if program is None:
            return
        program.workers.discard(worker.worker_id)
        if not program.workers and self._programs.get(program.process.key) is program:
            del self._programs[program.process.key]


def _is_other(worker: _Worker, program: _Program | None) -> bool:
    """Whether a process that registers under a worker's id is certainly not the worker's own."""
    if program is None:
        return worker.state is WorkerState.EXITED  # the newcomer is running, whatever it is
    return worker.process is not None and program is not worker.program
