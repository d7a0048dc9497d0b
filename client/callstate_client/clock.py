"""A clock that can be moved, for tests of what time does to a call."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol
from weakref import WeakSet

__all__ = ["Clock"]


class Watcher(Protocol):
    """Whoever has something to do in time."""

    def catch_up(self) -> None:
        """Do what is due."""
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
        """Let this one catch up whenever the clock is moved, for as long as somebody else keeps it."""
        self._watchers.add(watcher)

    def advance(self, seconds: float) -> None:
        """Move on by so many seconds, 0 or more. What becomes due in them happens, each thing at its time."""
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
        """Seconds from some moment on, never going back."""
        return self._advanced_s + (time.monotonic() if self._start is None else 0.0)
