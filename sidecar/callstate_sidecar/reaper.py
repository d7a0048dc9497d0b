"""The tick: who was silent too long, who is over time, whose worker died, who may leave the hot map."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from callstate_client.engine.context import OVERTIME, Context
from callstate_client.engine.handovers import hold_ended, is_poison
from callstate_client.engine.interfaces import INTERNAL
from callstate_client.engine.liveness import TRANSITIONS, Evidence, Phase
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.verbs.mutate import end_session
from callstate_client.engine.verbs.ownership import (
    DISCONNECTED,
    EXITED,
    POISONED,
    SILENT,
    forsake,
)
from callstate_client.engine.workers import Outcome
from callstate_sidecar.background import BackgroundTask
from callstate_sidecar.metrics import Metrics

log = logging.getLogger(__name__)

STALL_S: Final = 0.5
"""A tick that comes later than this was held up by the daemon, not by the clock: the gap is nobody's fault."""

ACTS_A_TICK: Final = 20
"""Sessions moved on in one tick: about a millisecond, each being journaled and logged. Ten thousand due at once
take two seconds that way, and nobody's request waits for them."""

LOOKS_A_TURN: Final = 1000
"""Sessions of a worker that left which are noted in one turn of the loop: about a millisecond."""

AGAIN_S: Final = 0.002
"""Wait for the next tick where this one was full: the requests of the meantime are served first."""

_REASONS: Final = {Evidence.SILENCE: SILENT, Evidence.EXIT: EXITED}


class Reaper(BackgroundTask):
    """Ends the sessions of dead calls.

    Args:
        tick_s: seconds between looks.
        commit: puts the changes of a tick down, and tells of them.
    """

    def __init__(self, ctx: Context, metrics: Metrics, tick_s: float, commit: Callable[[], None]) -> None:
        super().__init__(metrics)
        self._ctx = ctx
        self._tick_s = tick_s
        self._commit = commit
        self._departing: asyncio.Handle | None = None
        self._leaving: dict[str, tuple[str, Iterator[str]]] = {}
        """Workers that left and own sessions that were not looked at yet: why those lose it, and which they are."""

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
                self._ctx.step_back()
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
        self._ctx.services.workers_due(now)
        self._schedule_departures()
        acts = 0
        for session_id, phase, evidence in islice(self._ctx.liveness.due(now), ACTS_A_TICK):
            acts += 1
            self._act(session_id, phase, evidence, now)
        if acts:
            self._commit()
        return acts

    # -- workers that left --------------------------------------------------------------------------------------

    def depart(self, worker_id: str, outcome: Outcome) -> None:
        """A worker has left: its sessions are suspects, or orphans; the first at once, not at the next tick."""
        sessions = self._ctx.cache.index.owned.get(worker_id)
        if sessions:
            why = EXITED if outcome is Outcome.LEFT_EXITED else DISCONNECTED
            self._leaving[worker_id] = (why, iter([*sessions]))
            self._gather(worker_id, LOOKS_A_TURN)
            self._schedule_departures()

    def settle(self, worker_id: str) -> None:
        """A worker of this id is about to come: what an earlier one left must not be taken for what it will own."""
        if worker_id in self._leaving:
            self._gather(worker_id, None)

    def _gather(self, worker_id: str, most: int | None) -> None:
        """Note some of the sessions that a worker has left, or all of them."""
        why, sessions = self._leaving[worker_id]
        hot, looked = self._ctx.cache.sessions, 0
        for session_id in islice(sessions, most):
            looked += 1
            session = hot.get(session_id)
            if session is not None and session.owner == worker_id and not session.ended:
                self._ctx.departing[session_id] = why
        if most is None or looked < most:
            del self._leaving[worker_id]

    def _schedule_departures(self) -> None:
        if (self._ctx.departing or self._leaving) and self._departing is None:
            self._departing = asyncio.get_running_loop().call_soon(self._see_to_departed)

    def _see_to_departed(self) -> None:
        self._departing = None
        left = len(self._ctx.departing)
        if self._leaving:
            self._gather(next(iter(self._leaving)), LOOKS_A_TURN)
        try:
            self.departed()
        except Exception:
            log.exception("seeing to the sessions of a worker that left failed")
        if (
            self._leaving or 0 < len(self._ctx.departing) < left
        ):  # else the journal is full: the next tick tries again
            self._departing = asyncio.get_running_loop().call_later(AGAIN_S, self._see_to_departed)

    def departed(self) -> int:
        """See to some sessions of workers that have left; gives how many that were."""
        now = self._ctx.clock.live()
        some = list(islice(self._ctx.departing.items(), ACTS_A_TICK))
        for session_id, why in some:
            self._depart_one(session_id, why, now)
            self._ctx.departing.pop(session_id, None)
        self._commit()
        return len(some)

    async def stop(self) -> None:
        """End; see BackgroundTask."""
        if self._departing is not None:
            self._departing.cancel()
        await super().stop()

    def _depart_one(self, session_id: str, why: str, now: float) -> None:
        """What its owner's leaving means for one session."""
        ctx = self._ctx
        session = ctx.cache.sessions.get(session_id)
        if session is None or not session.owner or session.ended:
            return
        if why == DISCONNECTED:
            forsake(ctx, INTERNAL, session, DISCONNECTED)
            return
        poisoned = is_poison(session, ctx.now_us(), ctx.max_handovers)
        hold_ended(session, ctx.now_us(), crashed=True)
        if poisoned:
            self._reap(session, POISONED)
        elif ctx.liveness.phase(session_id) is Phase.LIVE:
            self._act(session_id, Phase.LIVE, Evidence.EXIT, now)
        elif session.suspected != EXITED:  # silent before; another process of this name will get another epoch
            self._tell_suspect(session, Evidence.EXIT, now)

    # -- one session --------------------------------------------------------------------------------------------

    def _act(self, session_id: str, phase: Phase, evidence: Evidence, now: float) -> None:
        ctx = self._ctx
        after = TRANSITIONS[phase, evidence]
        session = ctx.cache.sessions[session_id]
        if after is Phase.SUSPECT:
            self._suspect(session_id, evidence, now)
        elif after is Phase.ENDED:
            self._reap(session, OVERTIME if evidence is Evidence.OVERTIME else session.suspected or SILENT)
        elif not ctx.cache.is_stored(session):
            ctx.liveness.keep(session_id, now)  # it stays hot
        else:
            ctx.liveness.forget(session_id)
            ctx.cache.evict(session)

    def _reap(self, session: Session, reason: str) -> None:
        end_session(self._ctx, INTERNAL, session, reason, reaped=True)
        self._ctx.events.note("expired", session.ended_us, session, reason=reason)
        self._metrics.count("reaped")
        log.info("session %s reaped: %s", session.id, reason)

    def _suspect(self, session_id: str, evidence: Evidence, now: float) -> None:
        session = self._ctx.cache.sessions[session_id]
        self._ctx.liveness.learn(session_id, evidence, now, labels=session.labels)
        self._tell_suspect(session, evidence, now)
        self._metrics.count("suspected")

    def _tell_suspect(self, session: Session, evidence: Evidence, now: float) -> None:
        """Why it is suspected: for the first time, or by better evidence, its deadline being what it was."""
        ctx = self._ctx
        session.suspected = _REASONS[evidence]
        now_us = ctx.now_us()
        ctx.events.note(
            "suspect", now_us, session, reason=session.suspected, evidence=evidence.value,
            deadline_us=now_us + round((ctx.liveness.deadline(session.id) - now) * 1e6),
        )  # fmt: skip
