"""The daemon's clock, advanced only by the test."""

from __future__ import annotations

from callstate_sidecar.system.clock import SystemClock

START_US = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z."""


class ManualClock(SystemClock):
    """The daemon's clocks, which stand still until `advance`."""

    def __init__(self) -> None:
        super().__init__()
        self.at_us = START_US
        self.at_s = 1000.0

    def wall_us(self) -> int:
        """Microseconds since 1970."""
        return self.at_us

    def mono(self) -> float:
        """Seconds of the monotonic clock."""
        return self.at_s

    def advance(self, seconds: float) -> None:
        """Let time pass on all of them."""
        self.at_s += seconds
        self.at_us += round(seconds * 1e6)


class ExpiryClock:
    """The clock that the SQLite store expires sessions by, seconds; a test sets `now`."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now
