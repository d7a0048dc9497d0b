"""Figures of one daemon over time: rates and curves from results of `server.stats`. Pure: the time is passed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from callstate_client.model.words import Status

HISTORY: Final = 120
"""Points kept of each curve: at an interval of a second, two minutes."""

CURVES: Final = ("turns", "requests", "round_trip_ms", "loop_lag_ms", "oldest_dirty_s")

TURN_METHOD: Final = "session.add_turn"

# Requests of this view itself, which would otherwise show on an idle daemon.
_OWN: Final = frozenset({"server.stats", "server.ping", "session.list", "session.load", "events.subscribe"})


class Figures:
    """What the daemon says of itself, and how it has changed."""

    def __init__(self) -> None:
        self.stats: Mapping[str, Any] = {}
        """The latest result of `server.stats`; empty before the first."""
        self.curves: dict[str, deque[float]] = {name: deque(maxlen=HISTORY) for name in CURVES}
        """By name, the latest last. A rate is missing for the first moment of a daemon."""
        self._counted: dict[str, int] = {}
        self._counted_at_s = 0.0

    def observe(self, stats: Mapping[str, Any], at_s: float, round_trip_s: float) -> None:
        """Take the figures of one moment.

        Args:
            stats: the result of `server.stats`.
            at_s: when, monotonic seconds.
            round_trip_s: how long a ping took just before, seconds.
        """
        requests: Mapping[str, int] = stats.get("requests", {})
        counted = {
            "turns": requests.get(TURN_METHOD, 0),
            "requests": sum(count for method, count in requests.items() if method not in _OWN),
        }
        elapsed_s = at_s - self._counted_at_s
        # counters that fall are those of a daemon that has restarted
        if self._counted and elapsed_s > 0 and counted["requests"] >= self._counted["requests"]:
            for name, count in counted.items():
                self.curves[name].append((count - self._counted[name]) / elapsed_s)
        self._counted, self._counted_at_s = counted, at_s
        self.curves["round_trip_ms"].append(round_trip_s * 1000)
        self.curves["loop_lag_ms"].append(stats.get("loop_lag_s", 0.0) * 1000)
        self.curves["oldest_dirty_s"].append(stats.get("oldest_dirty_s", 0.0))
        self.stats = stats

    def interrupted(self) -> None:
        """The daemon has not answered: rates are not computed over the gap."""
        self._counted = {}

    def latest(self, curve: str) -> float | None:
        """The last point of a curve; None if there is none."""
        points = self.curves[curve]
        return points[-1] if points else None

    def count(self, name: str) -> int:
        """An integer of `server.stats`; 0 if it has none of this name."""
        return int(self.stats.get(name, 0))

    def reasons(self, name: str) -> list[tuple[str, int]]:
        """Counts by reason, such as `reaped_by_reason`, the highest first."""
        counts: Mapping[str, int] = self.stats.get(name, {})
        return sorted(counts.items(), key=lambda each: (-each[1], each[0]))

    @property
    def ended(self) -> int:
        """Sessions in memory that have ended."""
        return int(self.stats.get("sessions", {}).get(Status.ENDED, 0))

    @property
    def not_ended(self) -> int:
        """Sessions that have not ended."""
        sessions: Mapping[str, int] = self.stats.get("sessions", {})
        return sum(sessions.values()) - self.ended
