"""Counts and latencies of a simulation, while it runs and as its report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

MAX_PROBLEMS: Final = 20
"""Problems that are described; all are counted."""


@dataclass(slots=True)
class Tally:
    """Running counts, for showing progress.

    Args:
        started: calls that have started.
        live: calls in progress.
        ended: calls that reached their scripted end.
        died: calls whose worker died, as scripted.
        failed: calls that ended in an error.
        beats: heartbeats that were acknowledged.
        beats_missed: heartbeats without an answer, as the daemon was unreachable.
        retries: creations and reads that were retried, as the daemon was unreachable.
        restarts: restarts of the daemon that were noticed.
        requests: answers of any kind.
        reasons: why calls ended.
        errors: unexpected errors, by kind.
        problems: descriptions of the first few errors.
    """

    started: int = 0
    live: int = 0
    ended: int = 0
    died: int = 0
    failed: int = 0
    turns_sent: int = 0
    turns_acknowledged: int = 0
    barge_ins: int = 0
    holds: int = 0
    transfers: int = 0
    beats: int = 0
    beats_missed: int = 0
    retries: int = 0
    restarts: int = 0
    requests: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def problem(self, kind: str, text: str) -> None:
        """Count an unexpected error; the first few are described."""
        self.errors[kind] += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)

    def to_dict(self) -> dict[str, Any]:
        """The counts as JSON members."""
        members = {one.name: getattr(self, one.name) for one in fields(self)}
        # plain dicts: reports leave the process as JSON
        return members | {"reasons": dict(self.reasons), "errors": dict(self.errors)}


class Latencies:
    """How long each kind of operation took, from sending it to its acknowledgement."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}

    def add(self, operation: str, seconds: float) -> None:
        """Add one measurement."""
        self._seconds.setdefault(operation, []).append(seconds)

    def to_dict(self) -> dict[str, dict[str, float]]:
        """By operation, busiest first: `count`, and `p50`, `p95`, `p99`, `max` in milliseconds."""
        busiest = sorted(self._seconds.items(), key=lambda item: -len(item[1]))
        return {operation: _summary(sorted(seconds)) for operation, seconds in busiest}


def _summary(ordered: Sequence[float]) -> dict[str, float]:
    figures = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "max": 1.0}
    in_ms = {name: round(percentile(ordered, share) * 1000, 3) for name, share in figures.items()}
    return {"count": len(ordered), **in_ms}


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: the least value that at least `share` of all do not exceed.

    Args:
        ordered: at least one value, ascending.
        share: over 0, up to 1.
    """
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
