"""The verbs that change a session. Each is headed by a sample of its params."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import UNSET, UnsetType

from callstate_client.engine.interfaces import Caller, Deferred, InSteps, Steps, in_steps
from callstate_client.engine.long_result import Result
from callstate_client.engine.rules.authority import check_authority, check_epoch, check_writable, holder_of
from callstate_client.engine.rules.context import Context, ended_error
from callstate_client.engine.rules.lifecycle import settle_status, sign_of_life
from callstate_client.engine.rules.param_checks import checked_word
from callstate_client.engine.sessions.document import UNCUT_BYTES
from callstate_client.engine.sessions.head_patch import (
    PatchedFields,
    checked_patch,
    fields_in_steps,
    patch_in_steps,
    patched_head,
    touches_fields,
)
from callstate_client.engine.sessions.many_turns import are_many, check_many, check_some
from callstate_client.engine.sessions.ops import DELETED
from callstate_client.engine.sessions.records import HistoryMode, TurnsRecord
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.turn_patch import changes_in_steps
from callstate_client.engine.sessions.validation.turns import (
    IncomingTurn,
    check_turn,
    completed,
    is_whole,
    turn_in_steps,
    usual_turns,
)
from callstate_client.engine.sessions.validation.values import LONG_BYTES, check_json
from callstate_client.engine.sessions.weight import head_growth
from callstate_client.errors import ConflictError, InvalidParamsError, SessionNotFoundError, UnreadableError
from callstate_client.model.times import format_us
from callstate_client.protocol.ids import MAX_DETAIL_BYTES, MAX_NAME_BYTES
from callstate_client.protocol.params import (
    AddTurnParams,
    AmendTurnParams,
    DeleteParams,
    EndParams,
    Mutation,
    RecordInterruptionParams,
    UpdateParams,
)

_APPEND: Final = HistoryMode.APPEND
"""Looked up once: a member of an enum takes several times as long as a global name."""

UPDATE_TRIES: Final = 4
"""How often a long update is prepared, if the session is updated meanwhile; then it is done in one go."""


def add_turn(ctx: Context, caller: Caller, p: AddTurnParams) -> Result | Deferred | InSteps:
    """{"session_id":"c1","turn":{"role":"user","content":"hello","duration_ms":900},"op":"w7-31"}"""
    one, several = p.turn, p.turns
    if (one is UNSET) == (several is UNSET):
        raise InvalidParamsError(
            "one of `turn` and `turns` at $.params", path="$.params", expected="one of turn and turns"
        )
    session, done = _changeable(ctx, caller, p)
    if done is not None:
        return done
    checked: Sequence[IncomingTurn] | None
    if one is not UNSET:
        turns = bytes(one)
        if len(turns) > LONG_BYTES:
            return in_steps(_add_long(ctx, caller, p, turns))
        checked = (check_turn(turns, "$.params.turn"),)
    else:
        array = b"" if several is UNSET else bytes(several)
        if array[:1] != b"[":
            raise InvalidParamsError("Expected array at $.params.turns", path="$.params.turns", expected="array")
        turns = array[1:-1].strip()
        if are_many(turns):
            return in_steps(_add_many(ctx, caller, p, turns))
        checked = usual_turns(array)
        if checked is None:
            checked = check_some(turns, "$.params.turns")
    now_us = ctx.clock.wall_us()
    return _add(ctx, caller, session, p, now_us, _whole(turns, checked, now_us), checked)


def _add_long(ctx: Context, caller: Caller, p: AddTurnParams, turns: bytes) -> Steps:
    """Add a turn that takes long to check."""
    yield
    turn = yield from turn_in_steps(turns, "$.params.turn")
    yield
    if not is_whole(turn):
        turns = completed(turns, format_us(ctx.clock.wall_us()))
        yield
    session, done = _changeable(ctx, caller, p)
    if done is not None:
        return done
    return _add(ctx, caller, session, p, ctx.clock.wall_us(), turns, (turn,))


def _add_many(ctx: Context, caller: Caller, p: AddTurnParams, turns: bytes) -> Steps:
    """Add many turns."""
    pieces = yield from check_many(turns, "$.params.turns")
    now_us = ctx.clock.wall_us()
    whole: list[bytes] = []
    checked: list[IncomingTurn] = []
    for piece, some in pieces:
        whole.append(_whole(piece, some, now_us))
        checked += some
        yield
    session, done = _changeable(ctx, caller, p)
    if done is not None:
        return done
    return _add(ctx, caller, session, p, ctx.clock.wall_us(), b",".join(whole), checked)


def _whole(turns: bytes, checked: Sequence[IncomingTurn], now_us: int) -> bytes:
    """Checked turns, comma-joined, each with all of its members."""
    return turns if all(map(is_whole, checked)) else completed(turns, format_us(now_us))


def _add(
    ctx: Context, caller: Caller, session: Session, p: AddTurnParams, now_us: int, turns: bytes,
    checked: Sequence[IncomingTurn],
) -> bytes:  # fmt: skip
    """Add checked turns."""
    doc = session.doc
    ctx.check_growth(session, doc.size + len(turns))
    ctx.tx.change(session)
    doc.metrics = doc.metrics.with_turns(checked)
    doc.append(turns, len(checked))
    if ctx.events.wants_turns:
        ctx.events.note("turn", now_us, session, turn_count=doc.turn_count)
    return _complete_turns(ctx, caller, session, now_us, p, _APPEND, turns, len(checked))


def amend_turn(ctx: Context, caller: Caller, p: AmendTurnParams) -> Result | Deferred | InSteps:
    """{"session_id":"c1","set":{"content":"as far as it was spoken","interrupted":true},"role":"agent"}"""
    session, done = _changeable(ctx, caller, p)
    if done is not None:
        return done
    doc = session.doc
    if len(p.set) > LONG_BYTES:
        return in_steps(_amend_long(ctx, caller, p))
    if doc.history_bytes > UNCUT_BYTES and (doc.uncut(p.index) is not None or p.role is not None):
        return in_steps(_amend_cut(ctx, caller, session, p))
    return _amend(ctx, caller, session, p)


def _amend_long(ctx: Context, caller: Caller, p: AmendTurnParams) -> Steps:
    """Amend a turn by a patch that takes long to check."""
    yield
    changes = yield from changes_in_steps(p.set, "$.params.set")
    yield
    session, done = _changeable(ctx, caller, p)
    return (yield from _amend_cut(ctx, caller, session, p, changes)) if done is None else done


def _amend_cut(
    ctx: Context, caller: Caller, session: Session, p: AmendTurnParams, changes: dict[str, Any] | None = None
) -> Steps:
    """Amend a turn of a history that may be long, of which a part may have been added at once."""
    without: Sequence[bytes] = ()
    if p.index is None and p.role is not None:
        yield from session.doc.cut_all()
        without = yield from session.doc.without_role(p.role)
    else:
        at = session.doc.uncut(p.index)
        if at is not None:
            yield from session.doc.cut_at(at)
    ctx.table.weigh_if_hot(session)
    session, done = _changeable(ctx, caller, p)
    return _amend(ctx, caller, session, p, without, changes) if done is None else done


def _amend(
    ctx: Context,
    caller: Caller,
    session: Session,
    p: AmendTurnParams,
    without: Sequence[bytes] = (),
    changes: dict[str, Any] | None = None,
) -> bytes:
    """Amend a turn.

    Args:
        ctx, caller, session, p: as of the verb.
        without: chunks of the history that have no turn of the role.
        changes: the patch, if it was checked.
    """
    doc = session.doc
    place = doc.find_turn(p.index, p.role, without)
    turn = doc.amended(place, p.set if changes is None else changes, "$.params.set")
    added = len(turn) - len(place.parts[place.at])
    if added > 0:  # a session at the limit may still be made smaller
        ctx.check_size(doc.size + added)
        ctx.check_share(session, added)
    else:
        doc.full = False
    ctx.tx.change(session)
    doc.replace_turn(place, turn)
    return _complete_turns(ctx, caller, session, ctx.now_us(), p, HistoryMode.AMEND, turn, 1, place.index)


def record_interruption(ctx: Context, caller: Caller, p: RecordInterruptionParams) -> bytes:
    """{"session_id":"c1"}"""
    session, done = _changeable(ctx, caller, p)
    if done is not None:
        return done
    if p.op is not None:  # its result is kept
        ctx.check_share(session, len(p.op))
    ctx.tx.change(session)
    session.doc.metrics = session.doc.metrics.with_interruption()
    return _complete_turns(ctx, caller, session, ctx.now_us(), p, HistoryMode.KEEP, b"", 0)


def update(ctx: Context, caller: Caller, p: UpdateParams) -> Result | Deferred | InSteps:
    """{"session_id":"c1","set":{"status":"on_hold","recovery_data":{"node":"menu"},"campaign":null}}"""
    session, done = _changeable(ctx, caller, p)
    if done is not None:
        return done
    if len(p.set) > LONG_BYTES:
        return in_steps(_update_long(ctx, caller, p))
    changes = checked_patch(p.set, "$.params.set")
    if len(session.doc.fields) > LONG_BYTES and touches_fields(changes):
        return in_steps(_update_long(ctx, caller, p, changes))
    return _update(ctx, caller, session, p, changes)


def _update_long(ctx: Context, caller: Caller, p: UpdateParams, changes: Mapping[str, Any] | None = None) -> Steps:
    """Update by a patch that takes long to check or to apply. `changes`: the patch, if it was checked."""
    yield
    if changes is None:
        changes = yield from patch_in_steps(p.set, "$.params.set")
        yield
    fields, tries = None, 0
    while True:
        session, done = _changeable(ctx, caller, p)
        if done is not None:
            return done
        if tries == UPDATE_TRIES or (fields is not None and fields.before is session.doc.fields):
            return _update(ctx, caller, session, p, changes, fields)
        fields = yield from fields_in_steps(session.doc, changes, "$.params.set")
        tries += 1
        yield


def _update(
    ctx: Context,
    caller: Caller,
    session: Session,
    p: UpdateParams,
    changes: Mapping[str, Any],
    fields: PatchedFields | None = None,
) -> bytes:
    """Update by a checked patch. `fields`: what it makes of the fields, if they were not changed meanwhile."""
    if p.if_version is not None and p.if_version != session.version:
        raise ConflictError(f"the session has version {session.version}", version=session.version)
    head = patched_head(session.doc, changes, "$.params.set", fields)
    if session.ended and head.status != "ended":
        raise ended_error(session)  # a late update does not start a new call: only a save or a claim revives
    ctx.check_head(head.size, session.doc.head_size)
    ctx.check_size(head.size + session.doc.history_bytes)
    ctx.check_share(session, head_growth(session, head), ends=head.status == "ended")
    now_us = ctx.now_us()
    was_ended = session.ended
    ctx.tx.change(session)
    session.doc.take_head(head, now_us)
    result = _complete_head(ctx, caller, session, was_ended, now_us, p.op, p.epoch)
    if session.ended and not was_ended:
        ctx.events.note("ended", now_us, session, reason=session.facts.ended_reason, own=holder_of(caller, session))
    return result


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
    session, done = _repeatable(ctx, p)
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
    return _complete_head(ctx, caller, session, False, now_us, op, None, reason)


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


# -- shared -------------------------------------------------------------------------------------------------


def _repeatable(ctx: Context, p: Mutation) -> tuple[Session, bytes | None]:
    """The session; and the earlier result if this mutation is a repeat."""
    op = p.op
    session = ctx.table.sessions.get(p.session_id) or ctx.find(p.session_id)
    if op is None:
        return session, None
    if not (0 < len(op) <= MAX_NAME_BYTES and op.isascii()):
        checked_word(op, "$.params.op")
    return session, session.ops.get(op)


def _changeable(ctx: Context, caller: Caller, p: Mutation) -> tuple[Session, bytes | None]:
    """As `_repeatable`, for a session that the caller may change.

    Raises:
        FencedError, SessionEndedError: it may not.
    """
    session, done = _repeatable(ctx, p)
    facts, epoch = session.facts, p.epoch
    if done is None and (  # not for the usual request, the owner's in the current epoch
        session.host
        or facts.reaped
        or (epoch is not None and epoch != facts.epoch)
        or (facts.owner and facts.owner != caller.worker)
        or facts.instance != caller.instance
    ):
        check_writable(ctx, caller, session, epoch)
    return session, done


def _complete_turns(
    ctx: Context, caller: Caller, session: Session, now_us: int, p: Mutation, mode: HistoryMode, turns: bytes,
    count: int, index: int = -1,
) -> bytes:  # fmt: skip
    """Complete a change of history or counters: version, sign of life, journal. `index`: of an amended turn."""
    doc = session.doc
    session.host = None
    session.version = version = max(session.version + 1, now_us)
    doc.updated_us = now_us
    sign_of_life(ctx, caller, session, now_us, p.epoch)
    if mode is _APPEND:
        result = b'{"version":%d,"turn_count":%d}' % (version, doc.turn_count)
    elif index >= 0:
        result = b'{"version":%d,"index":%d}' % (version, index)
    else:
        result = b'{"version":%d}' % version
    ops = session.keep_op(p.op, result) if p.op is not None else []
    record = TurnsRecord(session.id, version, now_us, doc.metrics, mode, turns, count, ops, index)
    ctx.tx.log(session, record, ctx.clock.mono())
    return result


def _complete_head(
    ctx: Context,
    caller: Caller,
    session: Session,
    was_ended: bool,
    now_us: int,
    op: str | None,
    epoch: int | None,
    reason: str = "completed",
) -> bytes:
    """Complete a change of the head: version, end or revival, journal."""
    session.host = None
    version = session.next_version(now_us)
    settle_status(ctx, caller, session, was_ended, now_us, epoch, reason)
    result = b'{"version":%d}' % version
    record = session.record(HistoryMode.KEEP, b"", 0, session.keep_op(op, result))
    ctx.tx.log(session, record, ctx.clock.mono())
    return result
