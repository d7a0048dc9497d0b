"""The verbs that change a session. Each is headed by a sample of its params."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, Raw

from callstate_client.engine.context import DELETED, Context, ended_error
from callstate_client.engine.interfaces import Caller
from callstate_client.engine.names import checked_word
from callstate_client.engine.sessions.records import HistoryMode, TurnsRecord
from callstate_client.engine.sessions.session import Entry
from callstate_client.engine.sessions.validation import (
    TurnDoor,
    check_json,
    check_turn,
    check_turns,
    completed,
    is_whole,
)
from callstate_client.errors import (
    ConflictError,
    InvalidParamsError,
    SessionNotFoundError,
    UnreadableError,
)
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


def add_turn(ctx: Context, caller: Caller, p: AddTurnParams) -> bytes:
    """{"session_id":"c1","turn":{"role":"user","content":"hello","duration_ms":900},"op":"w7-31"}"""
    if (p.turn is UNSET) == (p.turns is UNSET):
        raise InvalidParamsError(
            "one of `turn` and `turns` at $.params", path="$.params", expected="one of turn and turns"
        )
    entry, done = _changeable(ctx, caller, p)
    if done is not None:
        return done
    now_us = ctx.clock.wall_us()
    turns, checked = _turns(p, now_us)
    doc = entry.doc
    ctx.check_growth(entry, doc.size + len(turns))
    ctx.cache.change(entry)
    doc.metrics = doc.metrics.with_turns(checked)
    doc.append(turns, len(checked))
    if ctx.events.wants_turns:
        ctx.events.note("turn", now_us, entry, turn_count=doc.turn_count)
    return _turned(ctx, caller, entry, now_us, p, HistoryMode.APPEND, turns, len(checked), with_count=True)


def _turns(p: AddTurnParams, now_us: int) -> tuple[bytes, Sequence[TurnDoor]]:
    """The turns of the request, checked, comma-joined, each with all of its members."""
    if not isinstance(p.turn, msgspec.UnsetType):
        turns = bytes(p.turn)
        checked: Sequence[TurnDoor] = (check_turn(turns, "$.params.turn"),)
    else:
        array = bytes(p.turns) if isinstance(p.turns, Raw) else b""
        if array[:1] != b"[":
            raise InvalidParamsError("Expected array at $.params.turns", path="$.params.turns", expected="array")
        turns, checked = array[1:-1].strip(), check_turns(array, "$.params.turns")
    if not all(map(is_whole, checked)):
        turns = completed(turns, format_us(now_us))
    return turns, checked


def amend_turn(ctx: Context, caller: Caller, p: AmendTurnParams) -> bytes:
    """{"session_id":"c1","set":{"content":"as far as it was spoken","interrupted":true},"role":"agent"}"""
    entry, done = _changeable(ctx, caller, p)
    if done is not None:
        return done
    doc = entry.doc
    place = doc.find_turn(p.index, p.role)
    turn = doc.amended(place, p.set, "$.params.set")
    added = len(turn) - len(place.parts[place.at])
    if added > 0:  # what makes room is taken at the limit, too
        ctx.check_size(doc.size + added)
    else:
        doc.full = False
    ctx.cache.change(entry)
    doc.replace_turn(place, turn)
    return _turned(ctx, caller, entry, ctx.now_us(), p, HistoryMode.AMEND, turn, 1, index=place.index)


def record_interruption(ctx: Context, caller: Caller, p: RecordInterruptionParams) -> bytes:
    """{"session_id":"c1"}"""
    entry, done = _changeable(ctx, caller, p)
    if done is not None:
        return done
    ctx.cache.change(entry)
    entry.doc.metrics = entry.doc.metrics.with_interruption()
    return _turned(ctx, caller, entry, ctx.now_us(), p, HistoryMode.KEEP, b"", 0)


def update(ctx: Context, caller: Caller, p: UpdateParams) -> bytes:
    """{"session_id":"c1","set":{"status":"on_hold","recovery_data":{"node":"menu"},"campaign":null}}"""
    entry, done = _changeable(ctx, caller, p)
    if done is not None:
        return done
    if p.if_version is not None and p.if_version != entry.version:
        raise ConflictError(f"the session has version {entry.version}", version=entry.version)
    head = entry.doc.patched(p.set, "$.params.set")
    if entry.ended and head.status != "ended":
        raise ended_error(entry)  # a late word on the status is no new call: a save revives, or a claim
    ctx.check_size(len(head.fields) + entry.doc.history_bytes)
    now_us = ctx.now_us()
    was_ended = entry.ended
    ctx.cache.change(entry)
    entry.doc.take_head(head, now_us)
    result = _head_changed(ctx, caller, entry, was_ended, now_us, p.op, p.epoch)
    if entry.ended and not was_ended:
        ctx.events.note("ended", now_us, entry, reason=entry.ended_reason)
    return result


def end(ctx: Context, caller: Caller, p: EndParams) -> bytes:
    """{"session_id":"c1","reason":"caller_hangup","detail":{"cause":16}}"""
    reason = checked_word(p.reason, "$.params.reason") or "completed"
    detail = b"" if isinstance(p.detail, msgspec.UnsetType) else bytes(p.detail)
    if len(detail) > MAX_DETAIL_BYTES:  # kept beside the document, in memory and in the store's meta
        raise InvalidParamsError(
            f"longer than {MAX_DETAIL_BYTES} bytes at $.params.detail",
            path="$.params.detail", expected=f"at most {MAX_DETAIL_BYTES} bytes",
        )  # fmt: skip
    if detail:
        check_json(detail, "$.params.detail", 2)
    entry, done = _repeatable(ctx, p)
    if done is not None:
        return done
    if entry.ended:  # a repeat changes nothing; one of an epoch before is no repeat
        if p.epoch is not None:
            ctx.check_epoch(caller, entry, p.epoch)
        return b'{"version":%d}' % entry.version
    ctx.check_authority(caller, entry, p.epoch)
    result = end_session(ctx, caller, entry, reason, detail=detail.decode(), op=p.op)
    ctx.events.note("ended", entry.ended_us, entry, reason=reason)
    return result


def end_session(
    ctx: Context,
    caller: Caller,
    entry: Entry,
    reason: str,
    *,
    detail: str = "",
    reaped: bool = False,
    op: str | None = None,
) -> bytes:
    """End a live session: by its worker, an operator, or (`reaped`) by the daemon itself.

    A reaped session's `updated_at` is its last sign of life; what ends otherwise, ends now.
    """
    now_us = ctx.now_us()
    updated_us = entry.updated_us if reaped else now_us
    ctx.cache.change(entry)
    entry.status_before = entry.doc.status
    entry.doc.status = "ended"
    entry.doc.updated_us = updated_us
    entry.reaped = reaped
    entry.ended_detail = detail
    return _head_changed(ctx, caller, entry, False, now_us, op, None, reason)


def delete(ctx: Context, caller: Caller, p: DeleteParams) -> bytes:
    """{"session_id":"c1","op":"w7-32"}"""
    checked_word(p.op, "$.params.op")
    done = ctx.cache.done_before(p.session_id, p.op)
    if done is not None:
        return done
    try:
        entry = ctx.lookup(p.session_id)
    except UnreadableError:
        entry = ctx.unreadable(p.session_id)
    if entry is None:
        raise SessionNotFoundError(f"no session {p.session_id}")
    if p.op in entry.ops:
        return entry.ops[p.op]
    ctx.check_authority(caller, entry, p.epoch)
    now_us = ctx.now_us()
    ctx.events.note("deleted", now_us, entry, reason="deleted")
    ctx.cache.remove(entry, max(entry.version + 1, now_us), ctx.clock.mono(), p.op, DELETED)
    ctx.liveness.forget(entry.id)
    ctx.see_to_departure(entry.id)
    return DELETED


# -- shared -------------------------------------------------------------------------------------------------


def _repeatable(ctx: Context, p: Mutation) -> tuple[Entry, bytes | None]:
    """The session, and the result where this very mutation was done before."""
    op = p.op
    entry = ctx.cache.entries.get(p.session_id) or ctx.find(p.session_id)
    if op is None:
        return entry, None
    if not (0 < len(op) <= MAX_NAME_BYTES and op.isascii()):
        checked_word(op, "$.params.op")
    return entry, entry.ops.get(op)


def _changeable(ctx: Context, caller: Caller, p: Mutation) -> tuple[Entry, bytes | None]:
    """As `_repeatable`, and whoever asks may change it.

    Raises:
        FencedError, SessionEndedError: no.
    """
    entry, done = _repeatable(ctx, p)
    if done is None and (entry.host or entry.reaped or _is_doubtful(caller, entry, p.epoch)):
        ctx.check_writable(caller, entry, p.epoch)
    return entry, done


def _is_doubtful(caller: Caller, entry: Entry, epoch: int | None) -> bool:
    """Whether the owner's own word is not all there is to see."""
    return (
        (epoch is not None and epoch != entry.epoch)
        or entry.owner not in ("", caller.worker)
        or entry.instance != caller.instance
    )


def _turned(
    ctx: Context, caller: Caller, entry: Entry, now_us: int, p: Mutation, mode: HistoryMode, turns: bytes,
    count: int, *, with_count: bool = False, index: int = -1,
) -> bytes:  # fmt: skip
    """After a change of history or counters: version, sign of life, journal."""
    doc = entry.doc
    entry.host = None
    entry.version = version = max(entry.version + 1, now_us)
    doc.updated_us = now_us
    ctx.sign_of_life(caller, entry, now_us, p.epoch)
    if with_count:
        result = b'{"version":%d,"turn_count":%d}' % (version, doc.turn_count)
    elif index >= 0:
        result = b'{"version":%d,"index":%d}' % (version, index)
    else:
        result = b'{"version":%d}' % version
    ops = entry.keep_op(p.op, result) if p.op is not None else []
    record = TurnsRecord(entry.id, version, now_us, doc.metrics, mode, turns, count, ops, index)
    ctx.cache.log(entry, record, ctx.clock.mono())
    return result


def _head_changed(
    ctx: Context,
    caller: Caller,
    entry: Entry,
    was_ended: bool,
    now_us: int,
    op: str | None,
    epoch: int | None,
    reason: str = "completed",
) -> bytes:
    """After a change of the head: version, end or revival, journal."""
    entry.host = None
    version = entry.next_version(now_us)
    ctx.settle(caller, entry, was_ended, now_us, epoch, reason)
    result = b'{"version":%d}' % version
    record = entry.record(HistoryMode.KEEP, b"", 0, entry.keep_op(op, result))
    ctx.cache.log(entry, record, ctx.clock.mono())
    return result
