"""Durations, counted in buckets as Prometheus shows them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Durations, counted in buckets.

    Args:
        bounds_s: upper bounds of the buckets, seconds, ascending; what is longer is counted in one more.
    """

    __slots__ = ("bounds_s", "counts", "sum_s")

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self.bounds_s = bounds_s
        self.counts = [0] * (len(bounds_s) + 1)
        """How many durations fell into each bucket; a bound belongs to the bucket below it."""
        self.sum_s = 0.0

    def observe(self, duration_s: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.bounds_s, duration_s)] += 1
        self.sum_s += duration_s

    def copy(self) -> Histogram:
        """The counts of this moment."""
        copied = Histogram(self.bounds_s)
        copied.counts = self.counts.copy()
        copied.sum_s = self.sum_s
        return copied
