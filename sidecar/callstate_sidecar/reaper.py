"""The tick: who was silent too long, who is over time, who may leave the hot map."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import islice
from typing import Final

from callstate_sidecar.chore import Chore
from callstate_sidecar.commands.context import Context
from callstate_sidecar.commands.writing import end_session
from callstate_sidecar.liveness import TRANSITIONS, Evidence, Phase
from callstate_sidecar.metrics import Metrics

log = logging.getLogger(__name__)

STALL_S: Final = 0.5
"""A tick that comes later than this was held up by the daemon, not by the clock: the gap is nobody's fault."""

ACTS_A_TICK: Final = 40
"""Sessions moved on in one tick: about two milliseconds, each being journaled and logged. Ten thousand due at once
take a second or two that way, and nobody's request waits for them."""

AGAIN_S: Final = 0.002
"""Wait for the next tick where this one was full: the requests of the meantime are served first."""

_REASONS: Final = {Evidence.SILENCE: "heartbeat_timeout", Evidence.OVERTIME: "max_duration"}


class Reaper(Chore):
    """Ends the sessions of dead calls.

    Args:
        tick_s: seconds between looks.
        commit: puts the changes of a tick down.
    """

    def __init__(self, ctx: Context, metrics: Metrics, tick_s: float, commit: Callable[[], None]) -> None:
        self._ctx = ctx
        self._metrics = metrics
        self._tick_s = tick_s
        self._commit = commit

    async def _run(self) -> None:
        clock = self._ctx.clock
        delay = self._tick_s
        due = clock.mono() + delay
        while True:
            await asyncio.sleep(delay)
            woke = clock.mono()
            late_s = max(0.0, woke - due)
            self._metrics.loop_lag_s = late_s
            full = False
            if late_s > STALL_S:
                # stopped, stalled or asleep: give everybody the time back, and read what came meanwhile
                clock.stalled_s += late_s
                log.warning("the daemon stood still for %.1f s; all deadlines are moved by that", late_s)
            else:
                try:
                    full = self.tick(clock.live()) >= ACTS_A_TICK
                except Exception:
                    # a fault of ours must not end the watch over every other session
                    log.exception("a look at the deadlines failed")
            delay = AGAIN_S if full else self._tick_s
            due = woke + delay  # from before the tick: what that takes, a slow disk's commit too, is nobody's fault

    def tick(self, now: float) -> int:
        """Act on what is due at `now` (seconds of the clock's `live`); gives how many sessions that were."""
        due = self._ctx.liveness.due(now)
        acts = 0
        for session_id, phase, evidence in islice(due, ACTS_A_TICK):
            acts += 1
            self._act(session_id, phase, evidence, now)
        if acts:
            self._commit()
        return acts

    def _act(self, session_id: str, phase: Phase, evidence: Evidence, now: float) -> None:
        ctx = self._ctx
        after = TRANSITIONS[phase, evidence]
        entry = ctx.cache.entries[session_id]
        if after is Phase.SUSPECT:
            ctx.liveness.learn(session_id, evidence, now)
            self._metrics.count("suspected")
        elif after is Phase.ENDED:
            reason = _REASONS[evidence]
            end_session(ctx, entry, reason, reaped=True)
            self._metrics.count("reaped")
            log.info("session %s reaped: %s", session_id, reason)
        elif not ctx.cache.is_stored(entry):
            ctx.liveness.keep(session_id, now)  # it stays hot
        else:
            ctx.liveness.forget(session_id)
            ctx.cache.evict(entry)
