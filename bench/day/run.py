"""Measures a host's day: each side's workers, servers and calls, one side after the other in short segments.

All sides have their processes from beginning to end, but let time pass for only one at a time. So every side meets
the same neighbours on a shared machine, and a slow minute is nobody's. All run at real-time priority if they may,
so that a request waits for what its side does, and not for what else the machine does. CPU time is that of whole
processes, read before and after each segment; what the daemon has yet to write then is flushed inside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from redis import Redis

from bench.processes import CPUCLOCK_SCHED, STOPPED_WITHIN_S, HasPid, Rig, Server, at_real_time
from bench.wire import Wire

OURS: Final = "callstate"
NOTHING: Final = "nothing"
SIDES: Final = (OURS, "RedisStore", "by hand", NOTHING)

DEFAULT_TIMEOUT: Final = ("--set", "reaper.heartbeat_timeout_s=30")
"""The daemon's own default, which a rig's daemon does not have: `hold()` beats three times within it, as the other
sides do (keepers.BEAT_EVERY_S)."""

TYPICAL: Final = 2000
"""Live calls of the host that the goals are set for."""


@dataclass(frozen=True)
class Day:
    """How much is measured.

    Args:
        calls: live calls at any time.
        workers: processes that share them.
        segments: of each side.
        segment_s: duration of a segment, seconds.
        dies: the segment in whose middle one worker is killed, from 0; None: none is.
    """

    calls: int = TYPICAL
    workers: int = 8
    segments: int = 12
    segment_s: float = 10.0
    dies: int | None = 4


class WorkerProcess:
    """A process of bench/day/worker.py."""

    def __init__(self, side: str, path: Path, name: str) -> None:
        command = [sys.executable, "-m", "bench.day.worker", side, str(path), name]
        self._process = subprocess.Popen(  # noqa: S603 - our own
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._name = name
        self._last_cpu_s = 0.0

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def tell(self, command: str) -> None:
        """Send a command."""
        assert self._process.stdin is not None  # noqa: S101 - it was started with pipes
        self._process.stdin.write(command + "\n")

    def answer(self) -> str:
        """The answer to the oldest command that has not been answered.

        Raises:
            RuntimeError: the process has exited.
        """
        assert self._process.stdout is not None  # noqa: S101 - it was started with pipes
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} has ended with {self._process.wait()}")
        return line

    def cpu_s(self) -> float:
        """CPU time of all its threads so far, seconds; of a killed one, when it was killed."""
        if self._process.returncode is None:
            self._last_cpu_s = time.clock_gettime((~self._process.pid << 3) | CPUCLOCK_SCHED)
        return self._last_cpu_s

    def kill(self) -> None:
        """Kill it as if it had crashed; may be called twice."""
        if self._process.returncode is None:
            self.cpu_s()
            self._process.kill()
            self._process.wait(STOPPED_WITHIN_S)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None  # noqa: S101 - it was started with pipes
            pipe.close()


@dataclass(frozen=True)
class Segment:
    """What one segment took: CPU seconds by kind of process, and what Redis got."""

    seconds: float
    cpu_s: Mapping[str, float]
    redis_bytes: int
    aof_bytes: int

    @property
    def cores(self) -> float:
        """Cores that all its processes kept busy."""
        return sum(self.cpu_s.values()) / self.seconds


@dataclass
class Crew:
    """The processes of one side, and what was measured of them."""

    side: str
    redis: Server
    daemon: Server | None
    workers: list[WorkerProcess]
    spare: WorkerProcess
    segments: list[Segment] = field(default_factory=list)
    latencies_us: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    rescued: int = 0
    rss_bytes: dict[str, int] = field(default_factory=dict)

    @property
    def processes(self) -> Iterator[HasPid]:
        """Its servers and living workers."""
        yield self.redis
        if self.daemon is not None:
            yield self.daemon
        yield from self.workers
        yield self.spare

    def each(self, command: str) -> list[str]:
        """Send all living workers a command, and return their answers."""
        everyone = [*self.workers, self.spare]
        for worker in everyone:
            worker.tell(command)
        return [worker.answer() for worker in everyone]

    def fill(self, calls: int) -> None:
        """Begin the calls, and let the spare worker wait for those of a dead one."""
        share = [calls // len(self.workers)] * len(self.workers)
        for number in range(calls % len(share)):
            share[number] += 1
        for worker, some in zip(self.workers, share, strict=True):
            worker.tell(f"begin {some}")
        self.spare.tell("rescue")
        for worker in (*self.workers, self.spare):
            worker.answer()

    def segment(self, seconds: float, lost: int) -> None:
        """Let time pass.

        Args:
            seconds: how long.
            lost: calls of the worker that is killed in the middle; 0: none is.
        """
        before, began = self._spent(), time.perf_counter()
        self.each("go")
        dead: list[WorkerProcess] = []
        if lost:
            time.sleep(seconds / 2)
            dead = [self._lose_one(lost)]
            seconds /= 2
        time.sleep(seconds)
        self.each("pause")
        if self.daemon is not None:
            with Wire(self.daemon) as wire:
                wire.flush()
        took_s = time.perf_counter() - began
        after = self._spent(dead)
        spent = {name: after[name] - before[name] for name in after}
        redis, aof = int(spent.pop("redis_bytes")), int(spent.pop("aof_bytes"))
        self.segments.append(Segment(took_s, spent, redis, aof))

    def _lose_one(self, calls: int) -> WorkerProcess:
        """Kill a worker. Where nothing hands over its calls, the spare one begins as many: the load stays."""
        victim = self.workers.pop()
        victim.tell("report")
        self._note(victim.answer())
        victim.kill()
        if self.side in ("RedisStore", NOTHING):
            self.spare.tell(f"begin {calls}")
            self.spare.answer()
        return victim

    def _spent(self, dead: Iterable[WorkerProcess] = ()) -> dict[str, float]:
        with Redis(unix_socket_path=str(self.redis.path)) as client:
            info: Any = client.info()
        spent = {
            "clients": sum(worker.cpu_s() for worker in (*self.workers, *dead, self.spare)),
            "redis": self.redis.cpu_s(),
            "redis_bytes": info["total_net_input_bytes"],
            "aof_bytes": info["aof_current_size"],
        }
        return spent | ({} if self.daemon is None else {"daemon": self.daemon.cpu_s()})

    def finish(self) -> None:
        """Collect what the workers have measured, and the servers' memory."""
        for told in self.each("report"):
            self._note(told)
        self.rss_bytes["redis"] = self.redis.rss_bytes()
        if self.daemon is not None:
            self.rss_bytes["daemon"] = self.daemon.rss_bytes()

    def _note(self, told: str) -> None:
        figures = json.loads(told)
        self.rescued += figures["rescued"]
        for request, latencies in figures["latencies_us"].items():
            self.latencies_us[request] += latencies

    def close(self) -> None:
        """End its workers."""
        for worker in (*self.workers, self.spare):
            worker.kill()


def _crew(rig: Rig, side: str, workers: int) -> Crew:
    label = side.replace(" ", "-")
    redis = rig.redis(label)
    daemon = rig.daemon(label, redis, *DEFAULT_TIMEOUT) if side == OURS else None
    path = redis.path if daemon is None else daemon.path
    names = [f"{label}-{number}" for number in range(workers + 1)]
    *started, spare = (WorkerProcess(side, path, name) for name in names)
    return Crew(side, redis, daemon, started, spare)


def _let_pass(day: Day, crews: Sequence[Crew], progress: Callable[[str], None]) -> None:
    for number in range(day.segments):
        lost = day.calls // day.workers if number == day.dies else 0
        for crew in [*crews[number % len(crews) :], *crews[: number % len(crews)]]:
            crew.segment(day.segment_s, lost)
            progress(f"{crew.side}: segment {number + 1} of {day.segments}, {crew.segments[-1].cores:.3f} cores")


def measure(day: Day, sides: Sequence[str] = SIDES, progress: Callable[[str], None] = lambda _: None) -> list[Crew]:
    """Run the day. Returns what each side took; its processes have ended."""
    with Rig() as rig:
        crews: list[Crew] = []
        try:
            crews += (_crew(rig, side, day.workers) for side in sides)
            for crew in crews:
                crew.fill(day.calls)
            with at_real_time(*(process for crew in crews for process in crew.processes)):
                _let_pass(day, crews, progress)
            for crew in crews:
                crew.finish()
        finally:
            for crew in crews:
                crew.close()
    return crews
