"""session.end and session.delete. Each is headed by a sample of its params."""

from __future__ import annotations

from msgspec import UnsetType

from callstate_client.engine.interfaces import Caller
from callstate_client.engine.rules.authority import check_authority, check_epoch, holder_of
from callstate_client.engine.rules.context import Context
from callstate_client.engine.rules.param_checks import checked_word
from callstate_client.engine.sessions.ops import DELETED
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.validation.values import check_json
from callstate_client.engine.verbs.changing import complete_head, repeatable
from callstate_client.errors import InvalidParamsError, SessionNotFoundError, UnreadableError
from callstate_client.protocol.ids import MAX_DETAIL_BYTES
from callstate_client.protocol.params import DeleteParams, EndParams


def end(ctx: Context, caller: Caller, p: EndParams) -> bytes:
    """{"session_id":"c1","reason":"caller_hangup","detail":{"cause":16}}"""
    reason = checked_word(p.reason, "$.params.reason") or "completed"
    detail = b"" if isinstance(p.detail, UnsetType) else bytes(p.detail)
    if len(detail) > MAX_DETAIL_BYTES:  # kept beside the document, in memory and in the store's meta
        raise InvalidParamsError(
            f"longer than {MAX_DETAIL_BYTES} bytes at $.params.detail",
            path="$.params.detail", expected=f"at most {MAX_DETAIL_BYTES} bytes",
        )  # fmt: skip
    if detail:
        check_json(detail, "$.params.detail", 2)
    session, done = repeatable(ctx, p)
    if done is not None:
        return done
    if session.ended:  # a repeat changes nothing; with another epoch it is not a repeat
        if p.epoch is not None:
            check_epoch(ctx, caller, session, p.epoch)
        return b'{"version":%d}' % session.version
    check_authority(ctx, caller, session, p.epoch)
    result = end_session(ctx, caller, session, reason, detail=detail.decode(), op=p.op)
    ctx.events.note("ended", session.facts.ended_us, session, reason=reason, own=holder_of(caller, session))
    return result


def end_session(
    ctx: Context,
    caller: Caller,
    session: Session,
    reason: str,
    *,
    detail: str = "",
    reaped: bool = False,
    op: str | None = None,
) -> bytes:
    """End a live session, for its worker, for an operator, or (`reaped`) for the engine itself.

    A reaped session's `updated_at` is its last sign of life, otherwise it is the current time.

    Args:
        ctx: the sessions.
        caller: the sender of the request, or the engine.
        session: the session.
        reason: why it ends.
        detail: what the worker gave in addition to the reason, as JSON.
        reaped: the engine ends it: a claim within the retention revives it.
        op: under which this may be repeated.

    Returns:
        the result of `session.end`.
    """
    now_us = ctx.now_us()
    updated_us = session.updated_us if reaped else now_us
    ctx.tx.change(session)
    session.change_facts(status_before=session.doc.status, reaped=reaped, ended_detail=detail)
    session.doc.status = "ended"
    session.doc.updated_us = updated_us
    return complete_head(ctx, caller, session, False, now_us, op, None, reason)


def delete(ctx: Context, caller: Caller, p: DeleteParams) -> bytes:
    """{"session_id":"c1","op":"w7-32"}"""
    checked_word(p.op, "$.params.op")
    done = ctx.table.tombstones.repeated(p.session_id, p.op)
    if done is not None:
        return done
    try:
        session = ctx.lookup(p.session_id)
    except UnreadableError:
        session = ctx.unreadable(p.session_id)
    if session is None:
        raise SessionNotFoundError(f"no session {p.session_id}")
    if p.op in session.ops:
        return session.ops[p.op]
    check_authority(ctx, caller, session, p.epoch)
    now_us = ctx.now_us()
    ctx.events.note("deleted", now_us, session, reason="deleted", own=holder_of(caller, session))
    ctx.tx.remove(session, max(session.version + 1, now_us), ctx.clock.mono(), p.op)
    ctx.liveness.forget(session)
    ctx.decide_departure(session.id)
    return DELETED
