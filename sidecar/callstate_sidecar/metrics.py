"""Counters of one daemon, for `server.stats` and for Prometheus."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from callstate_sidecar.histogram import Histogram
from callstate_sidecar.long_turns import GcPauses, LongTurns

LAG_BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds of the buckets of the loop's lag, seconds: from what is normal to what counts as a stall."""


class Metrics:
    """Counters since the start."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.errors: dict[str, int] = {}
        self.counters: dict[str, int] = {}
        self.suspected: Counter[str] = Counter()
        """Sessions that became suspects, by reason."""
        self.reaped: Counter[str] = Counter()
        """Sessions that the reaper ended, by reason."""
        self.loop_lag_s = 0.0
        """How late the reaper's last tick was: about as long as a request had to wait for the loop."""
        self.loop_lag = Histogram(LAG_BOUNDS_S)
        """How late each tick was."""
        self.long_turns = LongTurns()
        self.gc_pauses = GcPauses(self.long_turns)

    def count(self, name: str, by: int = 1) -> None:
        """Increase a counter."""
        self.counters[name] = self.counters.get(name, 0) + by

    def count_error(self, kind: str) -> None:
        """Count an error reply of this kind."""
        self.errors[kind] = self.errors.get(kind, 0) + 1

    def observe_lag(self, late_s: float) -> None:
        """Note how late a tick was."""
        self.loop_lag_s = late_s
        self.loop_lag.observe(late_s)

    def to_dict(self) -> dict[str, Any]:
        """The counters as `server.stats` returns them."""
        return {
            "requests": self.requests,
            "errors": self.errors,
            "suspected_by_reason": self.suspected,
            "reaped_by_reason": self.reaped,
            "long_turns": self.long_turns.to_dict(),
            "gc": self.gc_pauses.to_dict(),
            **self.counters,
        }
