"""The verbs of ownership: register, claim, release. Each is headed by a sample of its params.

A claim gives a session a new owner and raises its epoch, which fences the previous one. It succeeds if there is no
owner, if the owner may be dead (a suspect, or its worker has left), for a session that was reaped within the
retention, and with `steal`. If the owner repeats its claim, perhaps because the first reply was lost, the epoch
stays the same.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import islice
from typing import Any, Final

from msgspec import structs

from callstate_client.engine.interfaces import Caller, Deferred, InSteps, NotOurs, Steps, in_steps
from callstate_client.engine.long_result import Result
from callstate_client.engine.phases import Phase
from callstate_client.engine.reasons import EXITED, HOST_LOST, REAPED, RELEASED, STOLEN, UNOWNED
from callstate_client.engine.rules.authority import check_authority, is_holder
from callstate_client.engine.rules.context import Context
from callstate_client.engine.rules.handovers import counted_hold, is_poison
from callstate_client.engine.rules.lifecycle import beat, retime, revive, tell_timeout
from callstate_client.engine.rules.param_checks import checked_labels, checked_word, checked_worker
from callstate_client.engine.rules.refusals import ended_error
from callstate_client.engine.sessions.records import HistoryMode
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.user import UNKNOWN
from callstate_client.engine.verbs.read import checked_history, load_session
from callstate_client.errors import ConflictError, ForbiddenError
from callstate_client.protocol.messages import encode_json
from callstate_client.protocol.params import (
    ClaimNextParams,
    ClaimParams,
    DrainParams,
    RegisterParams,
    ReleaseParams,
)

LOOKS_A_STEP: Final = 200
"""Orphans and suspects that `claim_next` looks at in one step, if it is asked for several labels."""

MAX_PENDING_LOOKED_AT: Final = 1000
"""How many pending departures one `claim_next` examines, in a fraction of a millisecond. If none of them is
claimable, events will report the others to the worker."""


PASSED_A_STEP: Final = 100
"""How many sessions of other users `claim_next` passes over in one step."""


def register(ctx: Context, caller: Caller, p: RegisterParams) -> Result | Deferred | InSteps:
    """{"worker_id":"web-1-4711-9f2c61","instance":"6d1f0c5b","process":"9f2c61aa"}"""
    instance = checked_word(p.instance, "$.params.instance") or ""
    process = checked_word(p.process, "$.params.process") or ""
    return in_steps(_register(ctx, caller, checked_worker(p.worker_id), instance, process))


def _register(ctx: Context, caller: Caller, worker_id: str, instance: str, process: str) -> Steps:
    peer = ctx.host.identify(caller)
    if peer is not None:
        ctx.registry.register(caller, peer, worker_id, instance, process)
        yield from ctx.departures.list_all(worker_id)
        ctx.registry.remember(worker_id)  # a group that was rolled back meanwhile may have had it
    return encode_json({"worker_id": worker_id, "drain": ctx.draining})


def claim(ctx: Context, caller: Caller, p: ClaimParams) -> Result:
    """{"session_id":"c1","worker_id":"web-1-4711-9f2c61","steal":false,"history":20,"heartbeat_timeout_s":60}"""
    worker_id = _claimer_id(caller, p.worker_id)
    checked_history(p.history)
    session = ctx.find(p.session_id)
    if session.host:
        if not ctx.host.is_shared:
            check_authority(ctx, caller, session, None)  # refused: whose it is can't be changed
        raise _across_hosts(ctx, session, worker_id, steal=p.steal)
    if session.ended and not (session.facts.reaped and _is_retained(ctx, session)):
        raise ended_error(session)
    phase = ctx.liveness.phase(session)
    if _is_own(ctx, caller, session, worker_id):
        beat(ctx, caller, session, ctx.now_us(), ctx.clock.live())
        _retime(ctx, caller, session, p)
        if is_holder(caller, session):
            tell_timeout(ctx, session)
        return load_session(session, p.history, for_worker=True)
    has_other_owner = session.facts.owner not in ("", worker_id)
    if has_other_owner and phase is Phase.LIVE and not p.steal and session.id not in ctx.departures.pending:
        owner = session.facts.owner
        raise ConflictError(f"the session is held by {owner}, which is alive", owner=owner)
    _take(ctx, caller, session, worker_id, p)
    if p.steal and ctx.guard is None:
        ctx.access.note(caller, "session.claim", session.id)
    return load_session(session, p.history, for_worker=True)


def _across_hosts(ctx: Context, session: Session, worker_id: str, *, steal: bool) -> NotOurs:
    """How to claim a session of another host: by the same rule as one of this host, and where its host is dead.

    Raises:
        SessionEndedError: it has ended, and was not reaped within the retention.
        ConflictError: it has an owner that is alive.
        ShuttingDownError, OverloadedError: there is no room for another session here.
    """
    if session.ended:
        if not _was_reaped_lately(ctx, session):
            raise ended_error(session)
        ctx.check_room()
        return NotOurs(session, owner=worker_id, force=False, why=REAPED)
    facts, host = session.facts, session.host or ""
    reason = facts.orphan or session.suspected or ("" if facts.owner else UNOWNED)
    is_dead = not reason and ctx.host.is_dead(host)
    if not (reason or is_dead or steal):
        text = f"the session is held by {facts.owner} on host {host}, which is alive"
        raise ConflictError(text, owner=facts.owner)
    ctx.check_room()
    why = reason or (HOST_LOST if is_dead else STOLEN)
    return NotOurs(session, owner=worker_id, force=is_dead or steal, why=why)


def _is_retained(ctx: Context, session: Session) -> bool:
    """Whether an ended session of this host is within the retention; one that was evicted before, by the wall
    clock."""
    return session.id in ctx.table.sessions or _was_reaped_lately(ctx, session)


def _was_reaped_lately(ctx: Context, session: Session) -> bool:
    """Whether a session that is not hot was reaped within the retention, by the wall clock of this host.

    A clock that is off moves the limit by as much. An end in the future, by up to the retention, counts too.
    """
    facts = session.facts
    distance_s = abs(ctx.now_us() - facts.ended_us) / 1e6
    return facts.reaped and facts.status_before != "" and distance_s < ctx.liveness.retention_s


def _retime(ctx: Context, caller: Caller, session: Session, p: ClaimParams) -> None:
    """Apply the timeouts of an owner's repeated claim."""
    before = session.facts
    timeouts = _given_timeouts(p)
    if structs.replace(before, **timeouts) == before:
        return
    ctx.tx.change(session)
    session.change_facts(**timeouts)
    session.next_version(ctx.now_us())
    retime(ctx, caller, session, before.heartbeat_timeout_s)
    ctx.tx.log(session, session.record(HistoryMode.KEEP, b"", 0, []), ctx.clock.mono())


def _given_timeouts(p: ClaimParams) -> dict[str, float]:
    """The timeouts in a claim, by their names in Facts."""
    given = {"heartbeat_timeout_s": p.heartbeat_timeout_s, "max_duration_s": p.max_duration_s}
    return {name: seconds for name, seconds in given.items() if seconds is not None}


def claim_next(ctx: Context, caller: Caller, p: ClaimNextParams) -> Result | Deferred | InSteps:
    """{"worker_id":"web-1-4711-9f2c61","labels":{"app":"sales"}}"""
    worker_id = _claimer_id(caller, p.worker_id)
    checked_history(p.history)
    return in_steps(_claim_first(ctx, caller, p, worker_id, checked_labels(p.labels or {})))


def _claim_first(ctx: Context, caller: Caller, p: ClaimNextParams, worker_id: str, labels: dict[str, str]) -> Steps:
    session = yield from _claimable(ctx, caller, labels)
    if session is None:
        return b"null"
    if _is_own(ctx, caller, session, worker_id):  # its own session, whose reply was lost
        beat(ctx, caller, session, ctx.now_us(), ctx.clock.live())
        if is_holder(caller, session):
            tell_timeout(ctx, session)
    else:
        _take(ctx, caller, session, worker_id)
    return load_session(session, p.history, for_worker=True)


def _is_own(ctx: Context, caller: Caller, session: Session, worker_id: str) -> bool:
    """Whether a live session belongs to this very worker, not to an earlier process or another instance of it."""
    if session.facts.owner != worker_id or session.ended:
        return False
    if caller.worker and session.facts.instance != caller.instance:
        return False
    return session.suspected != EXITED and session.id not in ctx.departures.pending


def _claimable(ctx: Context, caller: Caller, labels: dict[str, str]) -> Generator[None, None, Session | None]:
    """The session that `claim_next` returns, found in steps: the oldest orphan; else the oldest suspect, before it
    is reaped; else a pending departure, which is about to become one or the other. Of those that the
    caller's user may have."""
    shown = ctx.shown_to(caller)
    sessions = ctx.table.sessions
    for waiting in (ctx.table.index.orphans, ctx.liveness.suspects):
        place, more, passed = 0, True, 0
        while more:
            found, place, more = waiting.scan(labels, place, LOOKS_A_STEP)
            if found is not None:
                if shown is None or shown(sessions[found]):
                    return sessions[found]
                more, passed = True, passed + 1
            if more and (found is None or passed % PASSED_A_STEP == 0):
                yield
    now_us = ctx.now_us()
    for session_id, why in islice(ctx.departures.pending.in_order(), MAX_PENDING_LOOKED_AT):
        session = sessions.get(session_id)
        if session is None or session.ended or not labels.items() <= session.facts.labels.items():
            continue
        is_poisoned = why == EXITED and is_poison(session, now_us, ctx.max_handovers)
        if not is_poisoned and (shown is None or shown(session)):  # a poisoned one is about to be ended
            return session
    return None


def _take(ctx: Context, caller: Caller, session: Session, worker_id: str, p: ClaimParams | None = None) -> None:
    """Give a session a new owner, which fences the previous one."""
    now_us = ctx.now_us()
    reason = _why_claimable(ctx, session)
    ctx.tx.change(session)
    facts = session.facts
    changes = counted_hold(session, now_us, crashed=reason == EXITED)
    changes |= {"claimed_us": now_us, "epoch": facts.epoch + 1}
    if facts.reaped:
        changes |= revive(session)
    if p is not None:
        changes |= _given_timeouts(p)
    changes |= {"owner": worker_id, "orphan": "", "instance": caller.instance}
    if facts.uid == facts.gid == UNKNOWN:
        changes |= {"uid": caller.user.uid, "gid": caller.user.gid}
    _set_owner(ctx, caller, session, changes, now_us)
    ctx.events.note("claimed", now_us, session, reason=reason, own=worker_id if reason == UNOWNED else "")


def _why_claimable(ctx: Context, session: Session) -> str:
    """The reason in the event of a claim."""
    if session.facts.reaped:
        return REAPED
    if session.id in ctx.departures.pending:
        return ctx.departures.pending[session.id]
    if session.suspected or session.facts.orphan:
        return session.suspected or session.facts.orphan
    return STOLEN if session.facts.owner else UNOWNED


def release(ctx: Context, caller: Caller, p: ReleaseParams) -> bytes:
    """{"session_id":"c1","epoch":3}"""
    session = ctx.find(p.session_id)
    check_authority(ctx, caller, session, p.epoch)
    if session.ended:
        raise ended_error(session)
    if session.facts.owner:
        make_orphan(ctx, caller, session, RELEASED)
    return b"{}"


def make_orphan(ctx: Context, caller: Caller, session: Session, why: str) -> None:
    """Make a live session an orphan, with a full timeout in which to be claimed."""
    now_us = ctx.now_us()
    owner = session.facts.owner
    ctx.tx.change(session)
    changes = counted_hold(session, now_us) | {"owner": "", "orphan": why, "instance": ""}
    _set_owner(ctx, caller, session, changes, now_us)
    ctx.events.note("released" if why == RELEASED else "orphaned", now_us, session, reason=why, owner=owner)


def _set_owner(ctx: Context, caller: Caller, session: Session, changes: dict[str, Any], now_us: int) -> None:
    """Change the facts of a session, its owner among them."""
    ctx.lift(session)
    ctx.tx.clear_restored(session)
    session.change_facts(**changes)
    session.known_timeout_s = None
    session.host = None
    if session.facts.owner:
        session.beat_us = max(session.beat_us, now_us)
    session.next_version(now_us)
    ctx.watch(caller, session)
    ctx.tx.log(session, session.record(HistoryMode.KEEP, b"", 0, []), ctx.clock.mono())


def drain(ctx: Context, caller: Caller, p: DrainParams) -> bytes:
    """{"on":true}"""
    if p.on is not ctx.draining:
        ctx.draining = p.on
        ctx.events.note("server.drain", ctx.now_us(), drain=p.on)
    return encode_json({"drain": p.on, "sessions": ctx.table.index.live})


def _claimer_id(caller: Caller, worker_id: str) -> str:
    """The worker id of a claim. A registered connection may claim for its own worker only.

    Raises:
        ForbiddenError: it is the id of another worker.
    """
    if caller.worker and worker_id != caller.worker:
        raise ForbiddenError(f"this connection is registered as {caller.worker} and can't claim for another worker")
    return checked_worker(worker_id)
