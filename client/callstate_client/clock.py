"""A clock that can be moved, for tests of what time does to a call."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

__all__ = ["Clock"]


class Clock:
    """Tells the time.

    Args:
        start: the moment it stands at until `advance` moves it, with a timezone; None: it goes with the
            system's clock.
    """

    def __init__(self, start: datetime | None = None) -> None:
        self._start = start
        self._advanced_s = 0.0

    def advance(self, seconds: float) -> None:
        """Move on by so many seconds, 0 or more."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self._advanced_s += seconds

    def now(self) -> datetime:
        """The present time in UTC."""
        present = datetime.now(UTC) if self._start is None else self._start.astimezone(UTC)
        return present + timedelta(seconds=self._advanced_s)

    def monotonic(self) -> float:
        """Seconds from some moment on, never going back."""
        return self._advanced_s + (time.monotonic() if self._start is None else 0.0)
