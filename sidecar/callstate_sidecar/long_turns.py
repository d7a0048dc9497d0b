"""What held up the event loop: each piece of work that let nothing else run for longer than NOTICED_S, by its name.

Requests, group commits, the steps of tasks and garbage collections are measured; their sum is nearly all that the
loop does. Each has a time by a clock on the wall and the CPU time of its thread: what took long by both was too
much at once; what took long by the first alone has waited, for a processor, a lock or a disk.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine, Generator, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic, thread_time
from types import TracebackType
from typing import Any, Final, NamedTuple

from callstate_sidecar.histogram import Histogram
from callstate_sidecar.logs.event_log import EventLog

log = EventLog(__name__)

NOTICED_S: Final = 0.002
"""Shorter work is not counted: it is what the loop is there for."""

CPU_READ_EVERY_S: Final = 0.0005
"""Reading the CPU clock is a system call, so it is read no oftener, and a CPU time may be too long by that."""

MAX_NAMES: Final = 64
"""Verbs and tasks have few names; were it more, the rest would be counted under one."""

OTHERS: Final = "others"

COLLECTING: Final = "garbage collection"

PAUSE_BOUNDS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
"""Upper bounds of the buckets of pauses, seconds: from a collection of few young objects to one of everything."""

_TASK_PREFIX: Final = "callstated-"
_UNNAMED: Final = "Task-"


class Found(NamedTuple):
    """Long pieces of work of one name."""

    times: int = 0
    longest_s: float = 0.0
    cpu_s: float = 0.0
    """The most CPU time that one of them took."""


class LongTurns:
    """Counts long pieces of work.

    Args:
        log_ms: one that takes longer than this is also logged, milliseconds; 0: none is.
    """

    def __init__(self, log_ms: float = 0.0) -> None:
        self.log_s = log_ms / 1000
        self._found: dict[str, Found] = {}
        self.read_after = 0.0
        """Until then there is nothing to do in `begin`."""
        self._cpu_s = 0.0

    def begin(self, now: float) -> None:
        """The loop's thread begins a piece of work, or ends one, at this reading of time.monotonic()."""
        if now > self.read_after:
            self.read_after, self._cpu_s = now + CPU_READ_EVERY_S, thread_time()

    def note(self, name: str, took_s: float) -> None:
        """Count a piece of work of the loop's thread that took longer than NOTICED_S, when it has just ended."""
        self.add(name, took_s, min(took_s, thread_time() - self._cpu_s))

    def add(self, name: str, took_s: float, cpu_s: float) -> None:
        """Like `note`, of any thread that let the loop's wait, with the CPU time that it took."""
        if name not in self._found and len(self._found) >= MAX_NAMES:
            name = OTHERS
        times, longest_s, longest_cpu_s = self._found.get(name, Found())
        self._found[name] = Found(times + 1, max(longest_s, took_s), max(longest_cpu_s, cpu_s))
        if 0.0 < self.log_s < took_s:
            log.warning(
                "slow_turn", "%s held up the event loop for %.0f ms, of which %.0f ms of CPU time",
                name, took_s * 1000, cpu_s * 1000, work=name, took_s=took_s, cpu_s=cpu_s,
            )  # fmt: skip

    def to_dict(self) -> Mapping[str, Mapping[str, float]]:
        """By name, how often and the longest, as `server.stats` returns it; the longest first."""
        ordered = sorted(self._found.items(), key=lambda item: -item[1].longest_s)
        return {
            name: {
                "count": found.times,
                "longest_ms": round(found.longest_s * 1000, 1),
                "cpu_ms": round(found.cpu_s * 1000, 1),
            }
            for name, found in ordered
        }


class GcPauses:
    """The pauses of Python's garbage collector, in which no thread runs Python code.

    Args:
        turns: gets those that are long.
    """

    def __init__(self, turns: LongTurns) -> None:
        self.pauses = Histogram(PAUSE_BOUNDS_S)
        self.longest_s = 0.0
        self._turns = turns
        self._began = 0.0
        self._cpu_s = 0.0

    def __call__(self, phase: str, _: Mapping[str, int]) -> None:
        """gc.callbacks: a collection starts or stops. Both calls come from the thread that caused it."""
        try:
            if phase == "start":
                self._began, self._cpu_s = monotonic(), thread_time()
                return
            took_s = monotonic() - self._began
            self.pauses.observe(took_s)
            self.longest_s = max(self.longest_s, took_s)
            if took_s > NOTICED_S:
                self._turns.add(COLLECTING, took_s, thread_time() - self._cpu_s)
        except RecursionError:
            pass  # collected while a line was decoded that is nested almost too deep: there are no calls left here

    def to_dict(self) -> Mapping[str, float]:
        """As `server.stats` returns it."""
        return {
            "count": sum(self.pauses.counts),
            "total_ms": round(self.pauses.sum_s * 1000, 1),
            "longest_ms": round(self.longest_s * 1000, 1),
        }


@contextmanager
def watching(turns: LongTurns, pauses: GcPauses) -> Iterator[None]:
    """Meanwhile, measure the steps of the running loop's new tasks, and garbage collections."""
    loop = asyncio.get_running_loop()

    def start(
        loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **options: Any
    ) -> asyncio.Task[Any]:
        timed = _Timed(work, turns) if isinstance(work, Coroutine) else work
        return asyncio.Task(timed, loop=loop, **options)

    before = loop.get_task_factory()
    loop.set_task_factory(start)
    gc.callbacks.append(pauses)
    try:
        yield
    finally:
        gc.callbacks.remove(pauses)
        loop.set_task_factory(before)


class _Timed(Coroutine[Any, Any, Any]):
    """A task's coroutine, whose steps are measured."""

    __slots__ = ("_turns", "_work")

    def __init__(self, work: Coroutine[Any, Any, Any], turns: LongTurns) -> None:
        self._work = work
        self._turns = turns

    def send(self, value: Any, /) -> Any:
        began = monotonic()
        if began > self._turns.read_after:
            self._turns.begin(began)
        try:
            return self._work.send(value)
        finally:
            took_s = monotonic() - began
            if took_s > NOTICED_S:
                self._note(took_s)

    def throw(self, error: Any, value: Any = None, trace: TracebackType | None = None, /) -> Any:
        began = monotonic()
        self._turns.begin(began)
        try:
            return self._work.throw(error)  # asyncio passes the exception itself
        finally:
            took_s = monotonic() - began
            if took_s > NOTICED_S:
                self._note(took_s)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._work.__await__()

    def _note(self, took_s: float) -> None:
        task = asyncio.current_task()
        name = _UNNAMED if task is None else task.get_name()
        if name.startswith(_UNNAMED):
            name = getattr(self._work, "__qualname__", type(self._work).__qualname__)
        self._turns.note(name.removeprefix(_TASK_PREFIX), took_s)
