"""The clock of a MemoryStore: it goes with the system's or stands still, and tests move it on.

It has two readings: the time of day, which is written down, and seconds that never go back, which measure spans.
Moving it on moves both, and tells all watchers, which then do what has become due.
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
        start: the moment it stands at until `advance` moves it, with a timezone; None: it goes with the
            system's clock.
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
        """Call its `catch_up` whenever the clock is moved; that alone does not keep it alive."""
        self._watchers.add(watcher)

    def advance(self, seconds: float) -> None:
        """Move on by so many seconds. What becomes due in them happens, each thing at its own moment.

        Args:
            seconds: 0 or more.

        Raises:
            ValueError: they are less than 0.
        """
        if seconds < 0:
            raise ValueError("time does not go back")
        self._advanced_s += seconds
        for watcher in [*self._watchers]:
            watcher.catch_up()

    def now(self) -> datetime:
        """The present time in UTC."""
        present = datetime.now(UTC) if self._start is None else self._start.astimezone(UTC)
        return present + timedelta(seconds=self._advanced_s)

    def monotonic(self) -> float:
        """Seconds since some moment in the past; they never go back."""
        return self._advanced_s + (time.monotonic() if self._start is None else 0.0)
