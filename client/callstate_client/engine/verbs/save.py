"""session.save: creates, extends or replaces a session. Headed by a sample of its params.

A save contains the whole document, but usually repeats most of the history. The repeated part is compared with the
kept bytes and not parsed again; only new turns are validated and journaled. Without `history`, the history is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, Raw, structs

from callstate_client.engine.interfaces import Caller, Deferred, InSteps, Steps, in_steps
from callstate_client.engine.long_result import Result
from callstate_client.engine.rules.authority import check_epoch, check_writable, holder_of, is_holder
from callstate_client.engine.rules.context import Context
from callstate_client.engine.rules.lifecycle import retime, settle_status, tell_timeout
from callstate_client.engine.rules.param_checks import checked_id, checked_labels, checked_word
from callstate_client.engine.rules.refusals import version_conflict
from callstate_client.engine.sessions.document import HEAD_REST_BYTES, Document
from callstate_client.engine.sessions.facts import Facts
from callstate_client.engine.sessions.head import Head, ReadHead, read_in_steps, read_now
from callstate_client.engine.sessions.many_turns import are_many, check_many, check_some
from callstate_client.engine.sessions.merging import blind_base
from callstate_client.engine.sessions.ops import DELETED
from callstate_client.engine.sessions.records import HistoryMode
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.validation.heads import PlainHead
from callstate_client.engine.sessions.validation.values import LONG_BYTES
from callstate_client.engine.sessions.weight import head_growth, labels_weight
from callstate_client.engine.user import User
from callstate_client.engine.verbs.save_delta import MARK, Extending
from callstate_client.errors import (
    ConflictError,
    SessionNotFoundError,
    StoreUnavailableError,
    UnreadableError,
)
from callstate_client.model.times import format_us
from callstate_client.protocol.messages import encode_json
from callstate_client.protocol.params import Creator, SaveParams

_members = msgspec.json.Decoder(dict[str, Raw]).decode


_HISTORY: Final = "$.params.session.history"


class _ManyUncheckedError(Exception):
    """A save has many turns that are to be checked first.

    Args:
        turns: comma-joined.
        first: the index of the first one in the history.
    """

    def __init__(self, turns: bytes, first: int) -> None:
        super().__init__(len(turns))
        self.turns = turns
        self.first = first


def save(ctx: Context, caller: Caller, p: SaveParams | Extending) -> Result | Deferred | InSteps:
    """{"session":{"id":"c1","provider":"twilio","history":[…],…},"if_version":0,"labels":{"app":"sales"}}"""
    params = p.params if isinstance(p, Extending) else p
    if isinstance(params.session, PlainHead):
        ctx.ask_first(params.session.id, "$.params.session.id")
    if _is_long(params.session):
        return in_steps(_save_long(ctx, caller, _whole(ctx, p)))
    try:
        return _save(ctx, caller, p, {})
    except _ManyUncheckedError as many:
        whole = _spelled_out(ctx, params, many.turns) if isinstance(p, Extending) else params
        return in_steps(_save_many(ctx, caller, whole, many))


def _is_long(session: Raw | PlainHead) -> bool:
    """Whether the head, or what is not known to be the history, takes long to check."""
    if isinstance(session, Raw):
        return len(session) > LONG_BYTES
    return session.recovery_data is not UNSET and len(session.recovery_data) > LONG_BYTES


def _whole(ctx: Context, p: SaveParams | Extending) -> SaveParams:
    """A save with its whole history: until it is checked, the session may get others."""
    if not isinstance(p, Extending):
        return p
    session = p.params.session
    assert not isinstance(session, Raw)  # noqa: S101 - only a usual save is cut
    assert isinstance(session.history, Raw)  # noqa: S101 - at its history
    rest = bytes(session.history)[len(MARK) + 1 : -1].lstrip()
    return _spelled_out(ctx, p.params, rest[1:].lstrip())


def _save_long(ctx: Context, caller: Caller, p: SaveParams) -> Steps:
    """Check a long head, then save it."""
    yield
    read = yield from read_in_steps(p.session, "$.params.session")
    yield
    try:
        return _save(ctx, caller, p, {}, read)
    except _ManyUncheckedError as many:
        return (yield from _save_many(ctx, caller, p, many, read))


def _spelled_out(ctx: Context, p: SaveParams, turns: bytes) -> SaveParams:
    """A save with the kept turns in place of MARK: until its new turns are checked, others may be added."""
    session = p.session
    assert not isinstance(session, Raw)  # noqa: S101 - only a usual save is cut
    kept = ctx.table.sessions[session.id].doc.chunks
    history = Raw(b"[%b]" % b",".join((*kept, turns) if turns else kept))
    return structs.replace(p, session=structs.replace(session, history=history))


def _save_many(
    ctx: Context, caller: Caller, p: SaveParams, many: _ManyUncheckedError, read: ReadHead | None = None
) -> Steps:
    """Check many turns, then save them: what else the save does is decided by what is there at that time."""
    counts: dict[bytes, int] = {}
    while True:
        pieces = yield from check_many(many.turns, _HISTORY, many.first)
        counts[many.turns] = sum(len(some) for _, some in pieces)
        try:
            return _save(ctx, caller, p, counts, read)
        except _ManyUncheckedError as others:  # another change came first, so that others are new
            many = others


def _save(
    ctx: Context, caller: Caller, p: SaveParams | Extending, counts: Mapping[bytes, int],
    read: ReadHead | None = None,
) -> bytes:  # fmt: skip
    """Save; `counts`: the number of turns in texts that have been checked; `read`: the head, if it has been."""
    extends = isinstance(p, Extending)
    p = p.params if isinstance(p, Extending) else p

    def created_at(session_id: str) -> str:
        session = ctx.known(session_id)
        return format_us(ctx.now_us()) if session is None else session.doc.created_at

    read = read or read_now(p.session, "$.params.session")
    head = read.head(created_at)
    ctx.check_head(head.size)
    if p.op is not None:
        checked_word(p.op, "$.params.op")
    labels = None if p.labels is None else checked_labels(p.labels)
    if p.user is not None:
        ctx.access.check_operator(caller, "session.save with user")
    session = ctx.table.sessions.get(head.session_id)
    if session is None:
        session, unverified = _find_cold(ctx, p, head.session_id)
        if session is None:
            if ctx.guard is not None:
                ctx.guard.admit_save(caller, head.session_id, None)
            session = _new(ctx, caller, p, head, unverified)
            return _create(
                ctx, caller, session, p, labels, _history_change(ctx, session, head, counts, created=True)
            )
    if ctx.guard is not None:
        ctx.guard.admit_save(caller, session.id, session)
    if p.op in session.ops:
        return session.ops[p.op]
    if p.if_version is not None and p.if_version != session.version:
        raise version_conflict(session, p.if_version)
    if session.ended and _is_anew(p, head):
        check_epoch(ctx, caller, session, p.epoch)
        ctx.check_room(caller.user, session)
    else:
        check_writable(ctx, caller, session, p.epoch)
    change = (
        _extension(ctx, session, head, counts)
        if extends
        else _history_change(ctx, session, head, counts, created=False)
    )
    ctx.check_share(session, _growth(session, head, labels, change), ends=head.status == "ended")
    return _replace(ctx, caller, session, p, labels, head, change)


def _is_anew(p: SaveParams, head: Head) -> bool:
    """Whether a save of an ended session begins a new call under its id. A caller that gives the current version
    knows that it has ended, so this is not a late save."""
    return p.if_version is not None and head.status != "ended"


def _find_cold(ctx: Context, p: SaveParams, session_id: str) -> tuple[Session | None, bool]:
    """A session that is not hot, if there is one; and whether the store is unavailable, so that this is unknown.

    Raises:
        StoreUnavailableError: it is unknown, and the save is meant for an existing session.
    """
    checked_id(session_id, "$.params.session.id")
    try:
        return ctx.lookup(session_id), False
    except StoreUnavailableError:
        if p.if_version or p.epoch is not None:
            raise
        return None, True
    except UnreadableError:
        session = ctx.unreadable(session_id)
        if session is None or not p.if_version:
            raise  # nothing is created over it; only a caller that gives its version has seen it and may replace it
        return session, False


def _new(ctx: Context, caller: Caller, p: SaveParams, head: Head, unverified: bool) -> Session:
    if p.if_version:
        raise ConflictError("there is no such session", version=0)
    if p.epoch is not None:
        raise SessionNotFoundError(f"no session {head.session_id}")
    ctx.check_room(caller.user)
    tombstone = ctx.table.tombstones.predecessor(head.session_id)
    user = p.user or caller.user
    facts = Facts(epoch=tombstone.epoch, owner=caller.worker, instance=caller.instance, uid=user.uid, gid=user.gid)
    session = Session(head.session_id, Document(head, ctx.now_us()), facts)
    session.version = tombstone.version
    # a late repeat of the deletion is meant for the previous session: it must not delete this one
    session.ops = {op: result for op, result in tombstone.ops.items() if result == DELETED}
    session.maybe_stored = unverified
    if unverified:
        given = _given(p.session) - (frozenset() if head.history else {"history"})
        session.base = blind_base(session, given, labels=p.labels is not None, create=p.if_version == 0)
    return session


def _given(session: Raw | PlainHead) -> frozenset[str]:
    """The members that a save gives."""
    if isinstance(session, Raw):
        return frozenset(_members(session))
    default = PlainHead(id="")
    names = zip(session.__struct_fields__, session.__struct_encode_fields__, strict=True)
    return frozenset(written for name, written in names if getattr(session, name) != getattr(default, name))


class _HistoryChange(NamedTuple):
    """What a save does to the history."""

    mode: HistoryMode
    turns: bytes = b""
    """New turns, comma-joined."""
    turn_count: int = 0
    """The number of new turns."""


_KEEP: Final = _HistoryChange(HistoryMode.KEEP)


def _history_change(
    ctx: Context, session: Session, head: Head, counts: Mapping[bytes, int], *, created: bool
) -> _HistoryChange:
    """What a save does to the history; turns that it repeats are not parsed."""
    history_bytes = session.doc.history_bytes if head.history is None else len(head.history)
    ctx.check_size(head.size + HEAD_REST_BYTES + history_bytes)
    if head.history is None:
        return _KEEP
    rest = None if created else session.doc.extension(head.history)
    if rest is None:
        return _HistoryChange(HistoryMode.REPLACE, head.history, _count(head.history, 0, counts))
    if not rest:
        return _KEEP
    return _HistoryChange(HistoryMode.APPEND, rest, _count(rest, session.doc.turn_count, counts))


def _growth(session: Session, head: Head, labels: dict[str, str] | None, change: _HistoryChange) -> int:
    """Bytes that a save adds to an existing session."""
    added = head_growth(session, head) + len(change.turns)
    if change.mode is HistoryMode.REPLACE:
        added -= session.doc.history_bytes
    if labels is not None:
        added += labels_weight(labels) - labels_weight(session.facts.labels)
    return added


def _extension(ctx: Context, session: Session, head: Head, counts: Mapping[bytes, int]) -> _HistoryChange:
    """Like `_history_change`, for a history in which MARK stands for all kept turns."""
    rest = (head.history or b"")[len(MARK) :].lstrip()
    ctx.check_size(head.size + HEAD_REST_BYTES + session.doc.history_bytes + len(rest))
    if not rest:
        return _KEEP
    turns = rest[1:].lstrip()
    return _HistoryChange(HistoryMode.APPEND, turns, _count(turns, session.doc.turn_count, counts))


def _count(turns: bytes, first: int, counts: Mapping[bytes, int]) -> int:
    """Check turns, the first of which gets this index; returns their number."""
    if not are_many(turns):
        return len(check_some(turns, _HISTORY, first))
    if turns not in counts:
        raise _ManyUncheckedError(turns, first)
    return counts[turns]


def _create(
    ctx: Context, caller: Caller, session: Session, p: SaveParams, labels: dict[str, str] | None,
    change: _HistoryChange,
) -> bytes:  # fmt: skip
    """Make a new session hot."""
    ctx.tx.create(session)
    return _complete(ctx, caller, session, p, labels, change, was_ended=False, created=True)


def _replace(
    ctx: Context, caller: Caller, session: Session, p: SaveParams, labels: dict[str, str] | None, head: Head,
    change: _HistoryChange,
) -> bytes:  # fmt: skip
    """Replace a session's head, and revive it if it had ended and no longer has."""
    ctx.tx.change(session)
    was_ended = session.ended
    anew = was_ended and _is_anew(p, head)
    session.doc.take_head(head, ctx.now_us())
    if anew:
        _begin_anew(caller, session, p.user or caller.user)
    elif was_ended and not session.ended and not session.facts.owner and caller.worker:
        # reviving a session without an owner claims it: it may have had another one
        session.change_facts(
            epoch=session.facts.epoch + 1, owner=caller.worker, instance=caller.instance, orphan=""
        )
    return _complete(ctx, caller, session, p, labels, change, was_ended=was_ended, created=False)


def _complete(
    ctx: Context, caller: Caller, session: Session, p: SaveParams, labels: dict[str, str] | None,
    change: _HistoryChange, *, was_ended: bool, created: bool,
) -> bytes:  # fmt: skip
    """Complete a save after its head was set: history, facts, version, end or revival, events, journal."""
    now_us = ctx.now_us()
    session.host = None
    session.apply_turns(change.mode, change.turns, change.turn_count, [])
    before_s = session.facts.heartbeat_timeout_s
    given = _given_facts(p, labels)
    if given:
        session.change_facts(**given)
    if labels is not None:
        ctx.liveness.relabel(session.id, labels)
    version = session.next_version(now_us)
    session.doc.updated_us = now_us
    if created:
        ctx.events.note("created", now_us, session)
    settle_status(ctx, caller, session, was_ended, now_us, p.epoch)
    if session.ended:
        if not was_ended:
            reason = session.facts.ended_reason
            ctx.events.note("ended", now_us, session, reason=reason, own=holder_of(caller, session))
    elif not (p.heartbeat_timeout_s is None and p.max_duration_s is None):
        retime(ctx, caller, session, before_s)
    elif session.known_timeout_s is not None and is_holder(caller, session):
        tell_timeout(ctx, session)
    if created and session.base is not None and p.heartbeat_timeout_s is None:
        session.base = structs.replace(session.base, heartbeat_timeout_s=session.facts.heartbeat_timeout_s)
    result = _result(session, version, now_us)
    ops = session.keep_op(p.op, result)
    # a new session is journaled whole
    record = None if created else session.record(change.mode, change.turns, change.turn_count, ops)
    ctx.tx.log(session, record, ctx.clock.mono())
    return result


def _given_facts(p: SaveParams, labels: dict[str, str] | None) -> dict[str, Any]:
    """The facts that a save gives."""
    given: dict[str, Any] = {}
    if labels is not None:
        given["labels"] = labels
    if p.heartbeat_timeout_s is not None:
        given["heartbeat_timeout_s"] = p.heartbeat_timeout_s
    if p.max_duration_s is not None:
        given["max_duration_s"] = p.max_duration_s
    return given


def _begin_anew(caller: Caller, session: Session, user: User | Creator) -> None:
    """Begin another call under the same id, with none of the previous one's timeouts; its owner is fenced off."""
    session.facts = Facts(
        epoch=session.facts.epoch + 1, owner=caller.worker, instance=caller.instance, labels=session.facts.labels,
        uid=user.uid, gid=user.gid,
    )  # fmt: skip
    session.known_timeout_s = None


def _result(session: Session, version: int, now_us: int) -> bytes:
    result = b'{"version":%d,"updated_at":"%b","epoch":%d' % (
        version,
        format_us(now_us).encode(),
        session.facts.epoch,
    )
    if session.unverified:
        result += b',"unverified":true'
    if session.facts.heartbeat_timeout_s is None:  # created as ended, so no heartbeats are expected
        return result + b"}"
    return result + b',"heartbeat_timeout_s":%b}' % encode_json(session.facts.heartbeat_timeout_s)
