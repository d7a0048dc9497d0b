"""How a change affects the life of a session: signs of life, the end, revival, and new timeouts.

`Liveness` keeps the deadlines; the rules here choose them. An owner sends heartbeats according to the timeout it
was last told. So if another caller changes the timeout, the longer of both applies until a reply has told the owner
the new one (`retime`, `tell_timeout`).
"""

from __future__ import annotations

from typing import Any, Final

from callstate_client.engine.events import REVIVED
from callstate_client.engine.interfaces import Caller
from callstate_client.engine.phases import Phase
from callstate_client.engine.reasons import OVERTIME
from callstate_client.engine.rules.authority import is_holder
from callstate_client.engine.rules.context import Context
from callstate_client.engine.sessions.facts import NOT_ENDED
from callstate_client.engine.sessions.session import Session

_LIVE: Final = Phase.LIVE
"""Looked up once: a member of an enum takes several times as long as a global name."""


def sign_of_life(ctx: Context, caller: Caller, session: Session, now_us: int, epoch: int | None) -> None:
    """After a change that kept the status: count it as a sign of life, or keep an ended session hot.

    Args:
        ctx: the sessions.
        caller: who changed it.
        session: the changed session.
        now_us: when, microseconds since 1970.
        epoch: given by the request: a caller that knows it acts for the owner, whatever its connection.
    """
    if session.doc.status == "ended":
        ctx.liveness.keep(session, ctx.clock.live())
    elif not session.facts.owner or session.facts.owner == caller.worker or epoch is not None:
        beat(ctx, caller, session, now_us, ctx.clock.live())
    elif ctx.liveness.phase(session) is None:
        ctx.watch(caller, session)


def beat(ctx: Context, caller: Caller, session: Session, now_us: int, now: float) -> None:
    """Record a sign of life of a session that has not ended.

    Args:
        ctx: the sessions.
        caller: who gave it.
        session: the session.
        now_us: when, microseconds since 1970.
        now: the same, seconds of the clock's `live()`.
    """
    if session.beat_us < now_us:  # noqa: PLR1730 - `max` is a call, and every turn runs this
        session.beat_us = now_us
    session.restored = False
    timeout_s = session.facts.heartbeat_timeout_s if session.known_timeout_s is None else session.awaited_s
    phase = ctx.liveness.beat(session, now, timeout_s)
    if phase is not _LIVE:
        bring_back(ctx, caller, session, phase, now_us)


def bring_back(ctx: Context, caller: Caller, session: Session, phase: Phase | None, now_us: int) -> None:
    """Make a session live after a sign of life. `phase`: its previous phase; None: it was not watched."""
    if phase is Phase.SUSPECT:
        session.suspected = ""
        ctx.mark_stale(session)
        ctx.events.note("recovered", now_us, session)
    elif phase is None:
        ctx.watch(caller, session)


def settle_status(
    ctx: Context,
    caller: Caller,
    session: Session,
    was_ended: bool,
    now_us: int,
    epoch: int | None,
    reason: str = "completed",
) -> None:
    """After a change: end or revive the session if its status says so; else count it as a sign of life."""
    if session.ended == was_ended:
        sign_of_life(ctx, caller, session, now_us, epoch)
    elif was_ended:
        session.change_facts(**NOT_ENDED)
        session.beat_us = max(session.beat_us, now_us)
        ctx.watch(caller, session)
        ctx.events.note("recovered", now_us, session, reason=REVIVED)
    else:
        session.change_facts(ended_reason=reason, ended_us=now_us)
        ctx.lift(session)
        ctx.liveness.keep(session, ctx.clock.live())


def revive(session: Session) -> dict[str, Any]:
    """Give a reaped session the status it had; returns the changes of its facts that belong to it.

    One that was ended for its maximum age goes on without that limit: it would be ended again at once.
    """
    facts = session.facts
    session.doc.status = facts.status_before
    changes = {**NOT_ENDED, "status_before": ""}
    return changes | {"max_duration_s": None} if facts.ended_reason == OVERTIME else changes


def retime(ctx: Context, caller: Caller, session: Session, before_s: float | None) -> None:
    """Apply a new timeout or limit of a live session. That alone is not a sign of life.

    Unless its owner made the change, the longer of both timeouts applies until a reply to a heartbeat has told the
    owner, which uses the previous one until then.

    Args:
        ctx: the sessions.
        caller: who changed it.
        session: the session.
        before_s: the previous timeout, seconds.
    """
    if not session.facts.owner or is_holder(caller, session):
        session.known_timeout_s = None
    elif session.known_timeout_s is None and session.facts.heartbeat_timeout_s != before_s:
        session.known_timeout_s = before_s
    ctx.liveness.retime(session, session.awaited_s)
    ctx.limit_duration(session)


def tell_timeout(ctx: Context, session: Session) -> float | None:
    """The timeout in force, seconds, which this reply tells the owner and which applies from now on.

    The reply is held back with the open group and replaced after a rollback: then the owner has not been told.
    """
    if session.known_timeout_s is not None:
        ctx.tx.save(session.id)
    session.known_timeout_s = None
    ctx.liveness.retime(session, session.facts.heartbeat_timeout_s)
    return session.facts.heartbeat_timeout_s
