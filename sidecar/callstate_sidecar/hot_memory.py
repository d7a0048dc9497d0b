"""Keeps what sessions take in memory within `limits.hot_bytes`: has ended ones evicted, and says how it stands.

What is refused meanwhile is decided where it is asked for (callstate_client/engine/rules/room.py).
"""

from __future__ import annotations

from typing import Final

from callstate_client.engine.engine import Engine
from callstate_client.engine.rules.room import EVICT_FROM
from callstate_client.protocol.results import Finding
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.metrics import Metrics

log = EventLog(__name__)

NEAR: Final = 7 / 8
"""The share of the bound from which `callstate doctor` says so."""

EVICTIONS_A_SLICE: Final = 50
"""Sessions evicted in one turn of the loop: about a millisecond, as each is journaled and its memory is freed."""

SLICE_S: Final = 0.001
"""After so many seconds none is added: freeing eight megabytes takes as long by itself."""


class HotMemory:
    """Looks after the memory of one engine's sessions.

    Args:
        engine: whose sessions they are.
        metrics: counts what leaves, and what is refused.
    """

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self.was_cut = False
        """The last slice ended because of the time it took: another one should follow soon."""
        self._is_full = False
        self._growth_refused = 0

    def relieve(self) -> int:
        """Evict a slice of ended sessions if there is need; returns their number. Their records are in the open
        group."""
        clock = self._engine.ctx.clock
        until = clock.mono() + SLICE_S

        def is_late() -> bool:
            self.was_cut = clock.mono() >= until
            return self.was_cut

        self.was_cut = False
        evicted = self._engine.eviction.run(EVICTIONS_A_SLICE, is_late)
        if evicted:
            self._metrics.count("evicted", evicted)
        self._report()
        return evicted

    def _report(self) -> None:
        ctx = self._engine.ctx
        bound, total, refused = ctx.limits.hot_bytes, ctx.table.hot.total, ctx.room.growth_refused
        if refused > self._growth_refused:
            self._metrics.count("growth_refused", refused - self._growth_refused)
            log.warning(
                "growth_refused",
                "limits.hot_bytes is exceeded: %d turns, updates or saves of large sessions were refused; sessions "
                "may not grow beyond %d bytes now",
                refused - self._growth_refused, ctx.room.share(ctx.limits),
            )  # fmt: skip
            self._growth_refused = refused
        if ctx.room.is_full(ctx.limits) and not self._is_full:
            self._is_full = True
            log.warning(
                "hot_bytes_reached",
                "limits.hot_bytes is reached: %d of %d bytes, in %d live sessions; new ones are refused",
                total, bound, ctx.table.index.live,
            )  # fmt: skip
        elif self._is_full and total <= bound * EVICT_FROM:
            self._is_full = False
            log.info("hot_bytes_left", "new sessions have room again: %d of %d bytes", total, bound)


def memory_findings(engine: Engine) -> list[Finding]:
    """For `callstate doctor`: whether memory is short."""
    bound, total = engine.ctx.limits.hot_bytes, engine.table.hot.total
    if not bound or total < bound * NEAR:
        return []
    live = engine.table.index.live
    detail = f"sessions take {total} bytes of memory, limits.hot_bytes is {bound}; {live} sessions are live"
    remedy = "find out who keeps so many, or such large ones (callstate ls), or give the daemon more memory"
    return [Finding("memory_short", detail, remedy)]
