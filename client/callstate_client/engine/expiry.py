"""Sessions whose deadline has passed, and those whose worker has left.

    evidence                                        live                      suspect             ended
    nothing heard of it for the span of its phase   suspected                 reaped              leaves the hot map
    it lasts longer than its `max_duration_s`       reaped                    reaped              -
    its owner's process has exited                  suspected; reaped, if     suspected for that  -
                                                    it killed too many
    its owner is disconnected, and may be alive     an orphan, with a full timeout                -

No clock and no waiting: `now` is passed in, seconds of the clock's `live()`, and the driver (the daemon's reaper,
or a MemoryStore whose time is moved) says how many sessions to process at a time. The changes are part of the open
group, to be committed and published afterwards.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from msgspec import Struct, field

from callstate_client.engine.interfaces import INTERNAL
from callstate_client.engine.phases import TRANSITIONS, Evidence, Phase
from callstate_client.engine.reasons import DISCONNECTED, EXITED, OVERTIME, POISONED, SILENT
from callstate_client.engine.rules.context import Context
from callstate_client.engine.rules.handovers import counted_hold, is_poison
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.verbs.end import end_session
from callstate_client.engine.verbs.ownership import make_orphan

_REASONS: Final = {Evidence.SILENCE: SILENT, Evidence.EXIT: EXITED}


class Verdicts(Struct):
    """The result of one pass over the sessions."""

    sessions: int = 0
    """How many were due, and were processed."""
    suspected: list[str] = field(default_factory=list)
    """Why each of those that became suspects did."""
    reaped: list[tuple[str, str]] = field(default_factory=list)
    """The sessions that were ended, and why."""


class Expiry:
    """Decides what becomes of sessions.

    Args:
        ctx: the sessions.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def expire(self, now: float, most: int | None) -> Verdicts:
        """Process the sessions whose deadline has passed.

        Args:
            now: seconds of the clock's `live()`.
            most: at most this many; None: all.
        """
        done = Verdicts()
        for session, phase, evidence in islice(self._ctx.liveness.due(now), most):
            done.sessions += 1
            self._act(session, phase, evidence, now, done)
        return done

    def depart(self, now: float, most: int | None) -> Verdicts:
        """Process the sessions of workers that have left; parameters as with `expire`."""
        pending = self._ctx.departures.pending
        done = Verdicts()
        for session_id, why in [*islice(pending.in_order(), most)]:
            done.sessions += 1
            self._depart(session_id, why, now, done)
            pending.pop(session_id, None)
        return done

    def _depart(self, session_id: str, why: str, now: float, done: Verdicts) -> None:
        ctx = self._ctx
        session = ctx.table.sessions.get(session_id)
        if session is None or not session.facts.owner or session.ended:
            return
        if why == DISCONNECTED:
            make_orphan(ctx, INTERNAL, session, DISCONNECTED)
            return
        poisoned = is_poison(session, ctx.now_us(), ctx.max_handovers)
        ctx.tx.observe_hold(session, counted_hold(session, ctx.now_us(), crashed=True))
        if poisoned:
            self._reap(session, POISONED, done)
        elif ctx.liveness.phase(session) is Phase.LIVE:
            self._act(session, Phase.LIVE, Evidence.EXIT, now, done)
        elif session.suspected != EXITED:  # silent before; another process of this id will get another epoch
            self._tell_suspect(session, Evidence.EXIT, now)

    def _act(self, session: Session, phase: Phase, evidence: Evidence, now: float, done: Verdicts) -> None:
        ctx = self._ctx
        after = TRANSITIONS[phase, evidence]
        if after is Phase.SUSPECT:
            ctx.liveness.learn(session, evidence, now, labels=session.facts.labels)
            ctx.mark_stale(session)
            self._tell_suspect(session, evidence, now)
            done.suspected.append(_REASONS[evidence])
        elif after is Phase.ENDED:
            self._reap(session, OVERTIME if evidence is Evidence.OVERTIME else session.suspected or SILENT, done)
        elif not ctx.table.is_stored(session):
            ctx.liveness.keep(session, now)  # it stays hot
        else:
            ctx.evict(session)

    def _reap(self, session: Session, reason: str, done: Verdicts) -> None:
        end_session(self._ctx, INTERNAL, session, reason, reaped=True)
        self._ctx.events.note("expired", session.facts.ended_us, session, reason=reason)
        done.reaped.append((session.id, reason))

    def _tell_suspect(self, session: Session, evidence: Evidence, now: float) -> None:
        """Note why it is suspected: for the first time, or by better evidence with the same deadline."""
        ctx = self._ctx
        session.suspected = _REASONS[evidence]
        now_us = ctx.now_us()
        ctx.events.note(
            "suspect", now_us, session, reason=session.suspected, evidence=evidence.value,
            deadline_us=now_us + round((ctx.liveness.deadline(session) - now) * 1e6),
        )  # fmt: skip
