"""Eviction: under pressure, ended sessions leave memory before their retention is over.

Only those that the store has, the one that ended first going first. What comes after their retention comes earlier
then: they are read from the store, and one that was reaped may still be claimed within the retention, by the time
of its end that the store has (verbs/ownership.py).

It goes on until EVICT_TO of the bound is left, a slice at a time, and rests until EVICT_FROM is passed again. How
long a session takes depends on its size, as its memory is freed, so a slice is bounded by time as well.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Final

from callstate_client.engine.rules.context import Context
from callstate_client.engine.rules.room import EVICT_FROM, EVICT_TO

MOST_PASSED_OVER: Final = 200
"""Sessions at the front that the store does not have yet: looked at once in a slice, some microseconds in all."""


class Eviction:
    """Evicts sessions.

    Args:
        ctx: the sessions.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self.under_way = False
        """EVICT_FROM was passed, and EVICT_TO is not reached yet."""

    def run(self, most: int, is_late: Callable[[], bool] = lambda: False) -> int:
        """Evict some sessions if there is need; returns their number.

        Args:
            most: at most this many.
            is_late: asked after each one: whether the slice has taken long enough.
        """
        ctx = self._ctx
        bound, hot = ctx.limits.hot_bytes, ctx.table.hot
        self.under_way = bound > 0 and hot.total > bound * (EVICT_TO if self.under_way else EVICT_FROM)
        if not self.under_way:
            return 0
        evicted = 0
        for session in [*islice(ctx.liveness.ended, most + MOST_PASSED_OVER)]:
            if ctx.table.is_stored(session):
                ctx.evict(session)
                evicted += 1
            elif session.quarantined:
                ctx.liveness.keep(session, ctx.clock.live())  # it stays, and does not hide the others
            if evicted >= most or hot.total <= bound * EVICT_TO or is_late():
                break
        return evicted
