"""Requests a second of one user: a bucket of tokens for each uid, a token for each line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

MOST_BUCKETS: Final = 1024
"""Users whose buckets are kept; beyond that, full ones are dropped, which are as good as new ones."""


class RequestRates:
    """The tokens of all users. A bucket holds those of one second, so that as many requests may come at once.

    Args:
        per_s: tokens a second, for each user.
        now: the time, monotonic seconds.
    """

    def __init__(self, per_s: int, now: Callable[[], float]) -> None:
        self.per_s = per_s
        self._now = now
        self._buckets: dict[int, tuple[float, float]] = {}
        """By uid: tokens, and when that many were there."""
        self._waiting: Counter[int] = Counter()
        """By uid: connections that wait for a token."""

    def take(self, uid: int) -> bool:
        """Take a token; whether there was one."""
        tokens, now = self._tokens(uid)
        if tokens < 1:
            return False
        if uid not in self._buckets and len(self._buckets) >= MOST_BUCKETS:
            self._drop_full(now)
        self._buckets[uid] = tokens - 1, now
        return True

    def begin_wait(self, uid: int) -> float:
        """One more of this user's connections waits; in how many seconds there will be a token for it.

        Each waits for a token of its own: were they all to look for the next one, a thousand would look for each.
        """
        wait_s = (1 + self._waiting[uid] - self._tokens(uid)[0]) / self.per_s
        self._waiting[uid] += 1
        return max(0.0, wait_s)

    def end_wait(self, uid: int) -> None:
        """It waits no more."""
        self._waiting[uid] -= 1
        if not self._waiting[uid]:
            del self._waiting[uid]

    def _tokens(self, uid: int) -> tuple[float, float]:
        now = self._now()
        tokens, since = self._buckets.get(uid, (float(self.per_s), now))
        return min(self.per_s, tokens + (now - since) * self.per_s), now

    def _drop_full(self, now: float) -> None:
        self._buckets = {
            uid: (tokens, since)
            for uid, (tokens, since) in self._buckets.items()
            if tokens + (now - since) * self.per_s < self.per_s
        }
