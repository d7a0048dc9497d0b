"""What a change of a session means for its life: heartbeats, the end, revival, and other timeouts.

Deadlines are kept by `Liveness`; here it is decided which of them a session gets. The timeout by which an owner
sends heartbeats is the one it was last told. So where somebody else changes the timeout, the longer one of both
holds until a reply to the owner has told it (`retime`, `tell_timeout`).
"""

from __future__ import annotations

from callstate_client.engine.events import REVIVED
from callstate_client.engine.interfaces import Caller
from callstate_client.engine.liveness import Phase
from callstate_client.engine.rules.authority import is_holder
from callstate_client.engine.rules.context import Context
from callstate_client.engine.sessions.facts import NOT_ENDED
from callstate_client.engine.sessions.session import Session


def sign_of_life(ctx: Context, caller: Caller, session: Session, now_us: int, epoch: int | None) -> None:
    """After a change that kept the status: it counts as a sign of life, or keeps an ended session hot.

    Args:
        ctx: the sessions.
        caller: who changed it.
        session: what was changed.
        now_us: when, microseconds since 1970.
        epoch: that the request gave: a caller that knows it speaks for the owner, over whatever connection.
    """
    if session.doc.status == "ended":
        ctx.liveness.keep(session.id, ctx.clock.live())
    elif not session.facts.owner or session.facts.owner == caller.worker or epoch is not None:
        beat(ctx, caller, session, now_us, ctx.clock.live())
    elif ctx.liveness.phase(session.id) is None:
        ctx.watch(caller, session)


def beat(ctx: Context, caller: Caller, session: Session, now_us: int, now: float) -> None:
    """A sign of life of a session that has not ended.

    Args:
        ctx: the sessions.
        caller: who gave it.
        session: which one is alive.
        now_us: when, microseconds since 1970.
        now: the same, seconds of the clock's `live()`.
    """
    if session.beat_us < now_us:  # noqa: PLR1730 - `max` is a call, and each turn comes through here
        session.beat_us = now_us
    session.restored = False
    phase = ctx.liveness.beat(session.id, now, session.awaited_s)
    if phase is not Phase.LIVE:
        bring_back(ctx, caller, session, phase, now_us)


def bring_back(ctx: Context, caller: Caller, session: Session, phase: Phase | None, now_us: int) -> None:
    """A session that was not live has given a sign of life; `phase`: the one it was in; None: not watched."""
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
    """After a change: end or revive the session where its status says so; else take it as a sign of life."""
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
        ctx.liveness.keep(session.id, ctx.clock.live())


def retime(ctx: Context, caller: Caller, session: Session, before_s: float | None) -> None:
    """A live session was given another timeout or limit. That by itself is no sign of life.

    Where its owner did not do it, the longer of both timeouts holds until a reply to a heartbeat has told the
    owner, which goes by the previous one until then.

    Args:
        ctx: the sessions.
        caller: who gave it.
        session: the session.
        before_s: the timeout that it had, seconds.
    """
    if not session.facts.owner or is_holder(caller, session):
        session.known_timeout_s = None
    elif session.known_timeout_s is None and session.facts.heartbeat_timeout_s != before_s:
        session.known_timeout_s = before_s
    ctx.liveness.retime(session.id, session.awaited_s)
    ctx.limit_duration(session)


def tell_timeout(ctx: Context, session: Session) -> float | None:
    """The timeout in force, which the owner is told by this reply and goes by from now on; seconds.

    The reply is held back with the open group, and is another one where that is undone: then it has not been told.
    """
    if session.known_timeout_s is not None:
        ctx.tx.save(session.id)
    session.known_timeout_s = None
    ctx.liveness.retime(session.id, session.facts.heartbeat_timeout_s)
    return session.facts.heartbeat_timeout_s
