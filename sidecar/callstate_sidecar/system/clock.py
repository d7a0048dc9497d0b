"""The daemon's clocks, in one object that tests replace."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial


class SystemClock:
    """Wall time for timestamps, monotonic time for intervals, and live time for deadlines of sessions.

    `live()` does not advance while the daemon itself is stopped, stalled or suspended, so that no worker is
    blamed for a silence during which the daemon could not listen. The reaper adds such gaps to `stalled_s`.
    """

    def __init__(self) -> None:
        self.stalled_s = 0.0

    def wall_us(self) -> int:
        """Microseconds since 1970."""
        return time.time_ns() // 1000

    mono = staticmethod(time.monotonic)
    """Seconds of CLOCK_MONOTONIC."""

    def live(self) -> float:
        """Seconds of CLOCK_MONOTONIC, without those in which the daemon did not run."""
        return self.mono() - self.stalled_s


since_boot: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds since boot, including suspend; not affected by clock changes."""
