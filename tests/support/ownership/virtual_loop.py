"""A core on an event loop that runs by the test's clock, with the reaper's real task."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from callstate_sidecar.config.schema import ReaperConfig
from support.clock import ManualClock
from support.core import FakeClient
from support.core_harness import CoreHarness, FakeProcess
from support.ownership.expiry_model import SPANS

TICK_S = 0.25
REAPER = ReaperConfig(**asdict(SPANS), tick_s=TICK_S, max_handovers=0)
"""No limit of handovers, because workers die all the time here."""


class NeverWaitingSelector(selectors.DefaultSelector):
    """Returns what is ready now. Waiting is an error: the clock stands still, so it would never end."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """The file objects that are ready."""
        ready = super().select(0)
        if not ready and (timeout is None or timeout > 0):
            raise RuntimeError("the loop waits for time to pass, and it does not")
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose timers run by the daemon's clock, and which never waits."""

    clock: ManualClock | None = None

    def __init__(self) -> None:
        super().__init__(NeverWaitingSelector())
        self.faults: list[str] = []
        self.set_exception_handler(lambda _, context: self.faults.append(f"{context}"))

    def time(self) -> float:
        """Seconds of the monotonic clock."""
        return super().time() if self.clock is None else self.clock.mono()


class Client(FakeClient):
    """A client whose connection the daemon can abort."""

    def abort(self) -> None:
        """Nothing to do: the daemon has closed the connection before it aborts it."""


@dataclass(eq=False)
class WorkerConnection:
    """A connection of a worker, and the number of the process that made it."""

    peer: FakeClient
    program: int
    worker_id: str
    instance: str


class VirtualHarness(CoreHarness):
    """A core whose reaper runs, its workers, and a store that survives restarts.

    Args:
        directory: of the journal.
        loop: the event loop.
    """

    def __init__(self, directory: Path, loop: VirtualLoop) -> None:
        self._loop = loop
        self.lines: list[WorkerConnection] = []
        self._heard = 0
        super().__init__(directory, reaper=REAPER)
        self.core.reaper.start()

    def _open(self, clock: Any) -> None:
        before = getattr(self, "core", None)
        super()._open(clock)
        self._loop.clock = self.core.clock
        if before is not None:
            self.core.memory.rows, self.core.memory.active = before.memory.rows, before.memory.active

    async def restart(self) -> None:
        """kill -9 of the daemon and a new start."""
        await super().restart()
        self.lines.clear()
        self.core.reaper.start()
        await self.settle()

    # -- workers --------------------------------------------------------------------------------------------

    def connect(self, program: FakeProcess) -> FakeClient:
        """A connection made by this process."""
        peer = Client(self.core, program.process)
        peer.pidfd = program.pidfd
        return peer

    async def line(self, worker_id: str, program: FakeProcess, instance: str) -> WorkerConnection:
        """A connection made by this process, not registered yet."""
        return WorkerConnection(self.connect(program), self.processes.index(program), worker_id, instance)

    def drop_closed(self) -> None:
        """Forget the connections that the daemon has closed."""
        for line in [*self.lines]:
            if line.peer.closed:
                self.lines.remove(line)
                self.drop_connection(line.peer)

    # -- time -----------------------------------------------------------------------------------------------

    def step_wall(self, hours: int) -> None:
        """Set the wall clock, and not the monotonic ones."""
        self.core.clock.at_us += hours * 3_600_000_000

    # -- requests -------------------------------------------------------------------------------------------

    async def answers(self, sent: Sequence[tuple[FakeClient, int]]) -> list[dict[str, Any]]:
        """The replies to these requests."""
        await self.settle()
        return [peer.replies.pop(request_id) for peer, request_id in sent]

    async def listed(self) -> dict[str, dict[str, Any]]:
        """The daemon's listing of its memory."""
        page = await self.request(self.operator, "session.list")
        return {row["session"]["id"]: row for row in page["sessions"]}

    def news(self) -> list[dict[str, Any]]:
        """The events since the last call."""
        news, self._heard = self.history[self._heard :], len(self.history)
        return news
