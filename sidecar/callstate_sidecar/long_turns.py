"""What held up the event loop: each piece of work that let nothing else run for longer than NOTICED_S, by its name.

Requests, group commits, the steps of tasks and garbage collections are measured; their sum is nearly all that the
loop does. Times are those of a clock on the wall, so on an overloaded host they include waits for a processor.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import Any, Final

from callstate_sidecar.logs.event_log import EventLog

log = EventLog(__name__)

NOTICED_S: Final = 0.002
"""Shorter work is not counted: it is what the loop is there for."""

MAX_NAMES: Final = 64
"""Verbs and tasks have few names; were it more, the rest would be counted under one."""

OTHERS: Final = "others"

COLLECTING: Final = "garbage collection"

_TASK_PREFIX: Final = "callstated-"
_UNNAMED: Final = "Task-"


class LongTurns:
    """Counts long pieces of work.

    Args:
        log_ms: one that takes longer than this is also logged, milliseconds; 0: none is.
    """

    def __init__(self, log_ms: float = 0.0) -> None:
        self.log_s = log_ms / 1000
        self._found: dict[str, tuple[int, float]] = {}

    def note(self, name: str, took_s: float) -> None:
        """Count a piece of work that took longer than NOTICED_S."""
        if name not in self._found and len(self._found) >= MAX_NAMES:
            name = OTHERS
        count, longest_s = self._found.get(name, (0, 0.0))
        self._found[name] = count + 1, max(longest_s, took_s)
        if 0.0 < self.log_s < took_s:
            log.warning(
                "slow_turn", "%s held up the event loop for %.0f ms", name, took_s * 1000, work=name, took_s=took_s
            )

    def to_dict(self) -> Mapping[str, Mapping[str, float]]:
        """By name, how often and the longest, as `server.stats` returns it; the longest first."""
        ordered = sorted(self._found.items(), key=lambda item: -item[1][1])
        return {
            name: {"count": count, "longest_ms": round(longest_s * 1000, 1)} for name, (count, longest_s) in ordered
        }


@contextmanager
def watching(turns: LongTurns) -> Iterator[None]:
    """Meanwhile, measure the steps of the running loop's new tasks, and garbage collections."""
    loop = asyncio.get_running_loop()
    began = 0.0

    def collecting(phase: str, _: Mapping[str, int]) -> None:
        nonlocal began
        now = monotonic()
        if phase == "stop" and now - began > NOTICED_S:
            turns.note(COLLECTING, now - began)
        began = now

    def start(
        loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **options: Any
    ) -> asyncio.Task[Any]:
        timed = _Timed(work, turns.note) if isinstance(work, Coroutine) else work
        return asyncio.Task(timed, loop=loop, **options)

    before = loop.get_task_factory()
    loop.set_task_factory(start)
    gc.callbacks.append(collecting)
    try:
        yield
    finally:
        gc.callbacks.remove(collecting)
        loop.set_task_factory(before)


class _Timed(Coroutine[Any, Any, Any]):
    """A task's coroutine, whose steps are measured."""

    __slots__ = ("_note", "_work")

    def __init__(self, work: Coroutine[Any, Any, Any], note: Callable[[str, float], None]) -> None:
        self._work = work
        self._note = note

    def send(self, value: Any, /) -> Any:
        began = monotonic()
        try:
            return self._work.send(value)
        finally:
            self._ended(began)

    def throw(self, error: Any, value: Any = None, trace: TracebackType | None = None, /) -> Any:
        began = monotonic()
        try:
            return self._work.throw(error)  # asyncio passes the exception itself
        finally:
            self._ended(began)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._work.__await__()

    def _ended(self, began: float) -> None:
        took_s = monotonic() - began
        if took_s > NOTICED_S:
            task = asyncio.current_task()
            name = _UNNAMED if task is None else task.get_name()
            if name.startswith(_UNNAMED):
                name = getattr(self._work, "__qualname__", type(self._work).__qualname__)
            self._note(name.removeprefix(_TASK_PREFIX), took_s)
