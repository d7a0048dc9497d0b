"""The workers of a MemoryStore: which are connected, and what it means when one is not. Pure.

CONNECTED   a view of it is open
  its last view is closed         -> AWAY
  its process is killed           -> gone; its calls are suspects at once
AWAY        none is; its process lives
  a view is opened                -> CONNECTED, as if nothing had been
  the reconnect grace is over     -> gone; its calls are orphans
  its process is killed           -> gone; its calls are suspects at once
"""

from __future__ import annotations

from dataclasses import dataclass, field

from callstate_client.engine_agenda import NEVER
from callstate_client.errors import ConflictError, ForbiddenError


@dataclass(slots=True, eq=False)
class Process:
    """What views run in, where a daemon would have an operating system's."""

    alive: bool = True


@dataclass(slots=True, eq=False)
class Caller:
    """One view: what a connection is to a daemon.

    Args:
        process: it runs in.
        worker_id: it is registered under; None: it is not, as an operator's.
        instance: which store of the worker it is of; empty where it did not say.
    """

    process: Process
    worker_id: str | None = None
    instance: str = ""


@dataclass(slots=True, eq=False)
class Worker:
    """One worker that is not gone.

    Args:
        callers: its open views; none: it is away.
        away_at: since when, monotonic seconds.
        due: see Agenda.
    """

    id: str
    process: Process
    callers: set[Caller] = field(default_factory=set)
    away_at: float = 0.0
    due: float = NEVER


class Workers:
    """All workers that are not gone."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}

    def __len__(self) -> int:
        return len(self._workers)

    def __contains__(self, worker: Worker) -> bool:
        return self._workers.get(worker.id) is worker

    def is_connected(self, worker_id: str, instance: str = "") -> bool:
        """Whether a view of it, or this instance of it, is open."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return False
        return any(not instance or caller.instance == instance for caller in worker.callers)

    def process_of(self, worker_id: str) -> Process:
        """The process it runs in; a new one where it is not there."""
        worker = self._workers.get(worker_id)
        return Process() if worker is None else worker.process

    def register(self, caller: Caller, worker_id: str) -> bool:
        """This view is one of this worker's. True: the worker was not there before.

        Raises:
            ForbiddenError: it is another's.
            ConflictError: the worker lives in another process.
        """
        if caller.worker_id is not None and caller.worker_id != worker_id:
            raise ForbiddenError(f"this connection is registered as {caller.worker_id}")
        worker = self._workers.get(worker_id)
        if worker is not None and worker.process is not caller.process:
            raise ConflictError("another process is registered under this worker id", owner=worker_id)
        caller.worker_id = worker_id
        joined = worker is None
        if worker is None:
            worker = self._workers[worker_id] = Worker(worker_id, caller.process)
        worker.callers.add(caller)
        return joined

    def closed(self, caller: Caller, now: float) -> Worker | None:
        """This view is closed. Gives its worker where that is away now."""
        worker = self._workers.get(caller.worker_id or "")
        if worker is None or caller not in worker.callers:
            return None
        worker.callers.discard(caller)
        worker.away_at = now
        return None if worker.callers else worker

    def exited(self, process: Process) -> Worker | None:
        """The process is no more. Gives the worker that is gone with it."""
        process.alive = False
        for worker in self._workers.values():
            if worker.process is process:
                self.forget(worker)
                return worker
        return None

    def forget(self, worker: Worker) -> None:
        """It is gone."""
        del self._workers[worker.id]
