"""Room in memory: what is refused when `limits.hot_bytes` is reached, and what goes on.

    hot bytes                    what happens
    up to 15/16 of the bound     nothing
    above that                   ended sessions that the store has leave memory, in the order of their ends, until
                                 7/8 of the bound are left (eviction.py)
    from the bound on            no session is added: not by a save, a claim, a change of one that is only in the
                                 store, or an adoption
    above the bound              a session may grow only up to a share (`share`). The share halves with each twelfth
                                 of the way to the ceiling, 5/4 of the bound; at the ceiling nothing grows

So live calls go on above the bound, and the largest sessions stop growing first: a client that grows a thousand
sessions to megabytes stops itself, while calls of an ordinary size go on. What is refused is `overloaded`, which a
worker's outbox repeats: nothing is lost, and nothing that was acknowledged is dropped. Heartbeats, releases, claims
of hot sessions, ends and deletions are never refused, for they add nothing or make room; nor is a save or an update
that ends its session, unless it adds more than LAST_WORDS_BYTES.
"""

from __future__ import annotations

from typing import Final

from callstate_client.engine.hot_bytes import HotBytes
from callstate_client.engine.limits import Limits
from callstate_client.errors import OverloadedError

EVICT_FROM: Final = 15 / 16
EVICT_TO: Final = 7 / 8
"""Shares of the bound between which ended sessions are evicted: far enough apart that each round frees a lot."""

SHARE_OF_BOUND: Final = 8
"""At the bound one session may have an eighth of it, if `limits.session_bytes` allows as much."""

CEILING_SHARE: Final = 4
"""Sessions grow beyond the bound by at most a quarter of it."""

LAST_WORDS_BYTES: Final = 1024
"""By so much a session may always grow by what ends it: refusing that would keep it in memory."""

HALVINGS: Final = 12
"""From 8 MiB the share falls to 2 KiB; calls of 64 KiB go on over more than half of the way to the ceiling."""


class Room:
    """What may be added.

    Args:
        hot: the bytes that the engine keeps.
    """

    def __init__(self, hot: HotBytes) -> None:
        self._hot = hot
        self.growth_refused = 0
        """How often a session was not allowed to grow."""

    def is_full(self, limits: Limits) -> bool:
        """Whether no session may be added."""
        return 0 < limits.hot_bytes <= self._hot.total

    def check_new(self, limits: Limits) -> None:
        """Refuse to add a session at the bound.

        Raises:
            OverloadedError: it is reached.
        """
        if self.is_full(limits):
            raise OverloadedError(
                f"limits.hot_bytes ({limits.hot_bytes}) is reached: no more sessions fit in memory",
                hot_bytes=self._hot.total, hot_bytes_limit=limits.hot_bytes,
            )  # fmt: skip

    def share(self, limits: Limits) -> int:
        """Bytes up to which one session may grow."""
        bound, total = limits.hot_bytes, self._hot.total
        if not 0 < bound < total:
            return limits.session_bytes
        step = (total - bound) * HALVINGS // max(1, bound // CEILING_SHARE)
        return 0 if step >= HALVINGS else min(limits.session_bytes, bound // SHARE_OF_BOUND) >> step

    def check_growth(self, limits: Limits, size: int) -> None:
        """Refuse a session to grow to this size beyond its share.

        Raises:
            OverloadedError: it would have more.
        """
        share = self.share(limits)
        if size > share:
            self.growth_refused += 1
            raise OverloadedError(
                f"limits.hot_bytes ({limits.hot_bytes}) is exceeded: no session may grow beyond {share} bytes now",
                hot_bytes=self._hot.total, hot_bytes_limit=limits.hot_bytes, session_bytes=share,
            )  # fmt: skip
