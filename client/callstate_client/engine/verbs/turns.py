"""The verbs that change turns. Each is headed by a sample of its params."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import UNSET

from callstate_client.engine.interfaces import Caller, Deferred, InSteps, Steps, in_steps
from callstate_client.engine.long_result import Result
from callstate_client.engine.rules.context import Context
from callstate_client.engine.rules.lifecycle import sign_of_life
from callstate_client.engine.sessions.document import UNCUT_BYTES
from callstate_client.engine.sessions.many_turns import are_many, check_many, check_some
from callstate_client.engine.sessions.records import HistoryMode, TurnsRecord
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.turn_patch import amended_turn, changes_in_steps
from callstate_client.engine.sessions.turn_search import find_turn, without_role
from callstate_client.engine.sessions.validation.turns import (
    IncomingTurn,
    check_turn,
    completed,
    is_whole,
    turn_in_steps,
    usual_turns,
)
from callstate_client.engine.sessions.validation.values import LONG_BYTES
from callstate_client.engine.verbs.changing import changeable
from callstate_client.errors import InvalidParamsError
from callstate_client.model.times import format_us
from callstate_client.protocol.params import AddTurnParams, AmendTurnParams, Mutation, RecordInterruptionParams

_APPEND: Final = HistoryMode.APPEND
"""Looked up once: a member of an enum takes several times as long as a global name."""


def add_turn(ctx: Context, caller: Caller, p: AddTurnParams) -> Result | Deferred | InSteps:
    """{"session_id":"c1","turn":{"role":"user","content":"hello","duration_ms":900},"op":"w7-31"}"""
    one, several = p.turn, p.turns
    if (one is UNSET) == (several is UNSET):
        raise InvalidParamsError(
            "expected either `turn` or `turns` at $.params", path="$.params", expected="one of turn and turns"
        )
    session, done = changeable(ctx, caller, p)
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
    session, done = changeable(ctx, caller, p)
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
    session, done = changeable(ctx, caller, p)
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
    session, done = changeable(ctx, caller, p)
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
    session, done = changeable(ctx, caller, p)
    return (yield from _amend_cut(ctx, caller, session, p, changes)) if done is None else done


def _amend_cut(
    ctx: Context, caller: Caller, session: Session, p: AmendTurnParams, changes: dict[str, Any] | None = None
) -> Steps:
    """Amend a turn of a history that may be long, of which a part may have been added at once."""
    without: Sequence[bytes] = ()
    if p.index is None and p.role is not None:
        yield from session.doc.cut_all()
        without = yield from without_role(session.doc, p.role)
    else:
        at = session.doc.uncut(p.index)
        if at is not None:
            yield from session.doc.cut_at(at)
    ctx.table.weigh_if_hot(session)
    session, done = changeable(ctx, caller, p)
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
        ctx, caller, session, p: those of the verb.
        without: chunks of the history that have no turn of the role.
        changes: the patch, if it was checked.
    """
    doc = session.doc
    place = find_turn(doc, p.index, p.role, without)
    turn = amended_turn(place.text, p.set if changes is None else changes, "$.params.set")
    added = len(turn) - len(place.text)
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
    session, done = changeable(ctx, caller, p)
    if done is not None:
        return done
    if p.op is not None:  # its result is kept
        ctx.check_share(session, len(p.op))
    ctx.tx.change(session)
    session.doc.metrics = session.doc.metrics.with_interruption()
    return _complete_turns(ctx, caller, session, ctx.now_us(), p, HistoryMode.KEEP, b"", 0)


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
