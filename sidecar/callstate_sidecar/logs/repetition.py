"""A limit on repetition: the first lines of an event in a window are logged, the rest is counted.

A store that refuses ten thousand sessions, or a worker with five hundred calls that dies, must not fill the disk or
hold the loop. The first lines are never lost, nor is the number of the others. Pure: the time is passed in.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

WINDOW_S: Final = 60.0


@dataclass(slots=True)
class _Window:
    began: float
    logged: int = 0
    suppressed: int = 0
    level: int = logging.NOTSET


class Suppressed(NamedTuple):
    """What was not logged of one event."""

    event: str
    lines: int
    level: int
    """The highest of theirs."""
    window_s: float


class Repetition:
    """Counts lines by event.

    Args:
        burst: how many lines of one event are logged in a window; 0: all.
    """

    def __init__(self, burst: int) -> None:
        self._burst = burst
        self._windows: dict[str, _Window] = {}

    def admits(self, event: str, level: int, now: float) -> bool:
        """Whether a line is to be logged. Call `ended` before.

        Args:
            event: of the line.
            level: of the line.
            now: a monotonic time, seconds.
        """
        if not self._burst:
            return True
        window = self._windows.get(event)
        if window is None or now - window.began >= WINDOW_S:
            window = self._windows[event] = _Window(now)
        if window.logged < self._burst:
            window.logged += 1
            return True
        window.suppressed += 1
        window.level = max(window.level, level)
        return False

    def ended(self, now: float) -> Iterator[Suppressed]:
        """What was suppressed in windows that have ended; each is told once."""
        if not self._windows:
            return
        for event in [name for name, window in self._windows.items() if now - window.began >= WINDOW_S]:
            window = self._windows.pop(event)
            if window.suppressed:
                yield Suppressed(event, window.suppressed, window.level, WINDOW_S)

    def rest(self, now: float) -> Iterator[Suppressed]:
        """What is still to be reported of all windows, at the end."""
        for event, window in self._windows.items():
            if window.suppressed:
                yield Suppressed(event, window.suppressed, window.level, now - window.began)
        self._windows.clear()
