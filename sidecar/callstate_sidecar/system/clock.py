"""The daemon's three clocks, in one object that tests replace."""

from __future__ import annotations

import time


class Clock:
    """Wall time for what is written down, monotonic time for intervals, and the reaper's time.

    `live()` is monotonic time less the time the daemon itself was stopped, stalled or asleep: nobody is blamed
    for silence that was ours.
    """

    def __init__(self) -> None:
        self.stalled_s = 0.0

    def wall_us(self) -> int:
        """Microseconds since 1970."""
        return time.time_ns() // 1000

    mono = staticmethod(time.monotonic)
    """Seconds, steady."""

    def live(self) -> float:
        """Seconds, steady, standing still while the daemon does."""
        return self.mono() - self.stalled_s
