"""Counters of one daemon, for `server.stats`."""

from __future__ import annotations

from collections import Counter
from typing import Any


class Metrics:
    """What has happened since the start."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.errors: dict[str, int] = {}
        self.counters: dict[str, int] = {}
        self.loop_lag_s = 0.0
        """How late the last tick of the reaper came: what a request had to wait for the loop, about."""

    def count(self, name: str, by: int = 1) -> None:
        """Raise a counter."""
        self.counters[name] = self.counters.get(name, 0) + by

    def count_error(self, kind: str) -> None:
        """An error reply of this kind was sent."""
        self.errors[kind] = self.errors.get(kind, 0) + 1

    def to_dict(self) -> dict[str, Any]:
        """As `server.stats` shows them."""
        return {"requests": self.requests, "errors": self.errors, **self.counters}
