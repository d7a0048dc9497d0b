"""Who may change a session, and whose requests count as a sign of life.

- A session of another host can't be changed here until it is claimed.
- A request that names an epoch must name the session's: a claim raises it, which fences the previous owner.
- A registered worker may change only sessions without an owner and its own, except those that another, connected
  instance of it holds.
- An unregistered connection (an operator, a simple script) is not a worker: it may change any session.
- A reaped session accepts no changes; one that a worker ended still accepts late turns and updates.

Whether a heartbeat counts as a sign of life is a separate rule: see `speaks_for`.
"""

from __future__ import annotations

from callstate_client.engine.interfaces import Caller
from callstate_client.engine.rules.context import Context
from callstate_client.engine.rules.refusals import ended_error
from callstate_client.engine.sessions.session import Session
from callstate_client.errors import FencedError


def check_epoch(ctx: Context, caller: Caller, session: Session, epoch: int | None) -> None:
    """Refuse a session of another host, and an epoch that is not the session's.

    Raises:
        FencedError: it is one of them.
    """
    if session.host:
        facts = session.facts
        why = "the session belongs to another host"
        raise FencedError(why, epoch=facts.epoch, owner=facts.owner or None, host=session.host)
    if epoch is not None and not session.is_epoch(epoch):
        raise fence_off(ctx, caller, session, f"the session's epoch is {session.facts.epoch}")


def check_authority(ctx: Context, caller: Caller, session: Session, epoch: int | None) -> None:
    """As `check_epoch`; and refuse a worker a session of another worker, or of another connected instance of it.

    Raises:
        FencedError: it is one of them.
    """
    check_epoch(ctx, caller, session, epoch)
    worker = caller.worker
    if session.facts.owner and worker:
        if session.facts.owner != worker:
            raise fence_off(ctx, caller, session, f"the session is {session.facts.owner}'s")
        if _is_held_elsewhere(ctx, caller, session):
            raise fence_off(ctx, caller, session, f"the session is held by another instance of {worker}")


def check_writable(ctx: Context, caller: Caller, session: Session, epoch: int | None) -> None:
    """As `check_authority`; and refuse a session that was reaped. One that a worker ended is accepted.

    Raises:
        FencedError, SessionEndedError: the caller can't change it.
    """
    check_authority(ctx, caller, session, epoch)
    if session.facts.reaped:
        raise ended_error(session)


def _is_held_elsewhere(ctx: Context, caller: Caller, session: Session) -> bool:
    """Whether another instance of the calling worker holds the session, and is connected."""
    ours, holder = caller.instance, session.facts.instance
    return bool(ours and holder) and ours != holder and ctx.registry.is_connected(session.facts.owner, holder)


def fence_off(ctx: Context, caller: Caller, session: Session, why: str) -> FencedError:
    """The error for a caller that has lost its session; the first one of each epoch is an event."""
    if session.fenced_epoch != session.facts.epoch:
        session.fenced_epoch = session.facts.epoch
        ctx.events.note("fenced", ctx.now_us(), session, worker_id=caller.worker)
    return FencedError(why, epoch=session.facts.epoch, owner=session.facts.owner or None)


def speaks_for(ctx: Context, caller: Caller, session: Session) -> bool:
    """Whether a heartbeat of the caller counts as a sign of life.

    It does for a session without an owner, for the caller's own, and, from an unregistered connection, for one
    whose owner is not connected and so can't send any itself, because it was claimed on behalf of a worker.
    """
    owner, worker = session.facts.owner, caller.worker
    return owner in ("", worker) or (not worker and not ctx.registry.is_connected(owner))


def is_holder(caller: Caller, session: Session) -> bool:
    """Whether the caller is the very instance that holds the session and sends its heartbeats."""
    return session.facts.owner == caller.worker and session.facts.instance == caller.instance


def holder_of(caller: Caller, session: Session) -> str:
    """The worker that the caller is, if it holds the session; else empty."""
    return caller.worker if is_holder(caller, session) else ""
