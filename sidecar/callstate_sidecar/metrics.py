"""Counters of one daemon, for `server.stats`."""

from __future__ import annotations

from collections import Counter
from typing import Any


class Metrics:
    """Counters since the start."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.errors: dict[str, int] = {}
        self.counters: dict[str, int] = {}
        self.loop_lag_s = 0.0
        """How late the reaper's last tick was: about as long as a request had to wait for the loop."""

    def count(self, name: str, by: int = 1) -> None:
        """Increase a counter."""
        self.counters[name] = self.counters.get(name, 0) + by

    def count_error(self, kind: str) -> None:
        """Count an error reply of this kind."""
        self.errors[kind] = self.errors.get(kind, 0) + 1

    def to_dict(self) -> dict[str, Any]:
        """The counters as `server.stats` returns them."""
        return {"requests": self.requests, "errors": self.errors, **self.counters}
