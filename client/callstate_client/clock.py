"""The clock of a MemoryStore: it follows the system's or stands still, and tests advance it.

It has two readings: the time of day, for what is recorded, and monotonic seconds, for durations. Advancing it moves
both and calls all watchers, which then do what has become due.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol
from weakref import WeakSet

__all__ = ["Clock"]


class Watcher(Protocol):
    """Something that has deadlines."""

    def catch_up(self) -> None:
        """Do what has become due."""
        ...


class Clock:
    """Tells the time.

    Args:
        start: the time it stands at until `advance` moves it, with a timezone; None: it follows the system's
            clock.
    """

    def __init__(self, start: datetime | None = None) -> None:
        self._start = start
        self._advanced_s = 0.0
        self._watchers: WeakSet[Watcher] = WeakSet()

    @property
    def runs(self) -> bool:
        """Whether time passes by itself."""
        return self._start is None

    def watch(self, watcher: Watcher) -> None:
        """Call its `catch_up` whenever the clock is advanced. Keeps only a weak reference."""
        self._watchers.add(watcher)

    def advance(self, seconds: float) -> None:
        """Advance by this many seconds. What becomes due meanwhile happens, each thing at its own time.

        Args:
            seconds: 0 or more.

        Raises:
            ValueError: less than 0.
        """
        if seconds < 0:
            raise ValueError("a clock can't be moved back")
        self._advanced_s += seconds
        for watcher in [*self._watchers]:
            watcher.catch_up()

    def now(self) -> datetime:
        """The present time in UTC."""
        present = datetime.now(UTC) if self._start is None else self._start.astimezone(UTC)
        return present + timedelta(seconds=self._advanced_s)

    def monotonic(self) -> float:
        """Monotonic seconds since some time in the past."""
        return self._advanced_s + (time.monotonic() if self._start is None else 0.0)
