"""session.save: a session is created, extended or replaced. Headed by a sample of its params."""

from __future__ import annotations

import msgspec
from msgspec import Raw, structs

from callstate_client.engine.context import (
    DELETED,
    OVERTIME,
    Context,
    ended_error,
)
from callstate_client.engine.interfaces import Caller
from callstate_client.engine.names import checked_id, checked_labels, checked_word
from callstate_client.engine.sessions.document import HEAD_REST_BYTES, Document
from callstate_client.engine.sessions.head import Head, read_head
from callstate_client.engine.sessions.merging import blind_base
from callstate_client.engine.sessions.records import HistoryMode
from callstate_client.engine.sessions.session import Entry
from callstate_client.engine.sessions.validation import PlainHead, check_turns
from callstate_client.engine.verbs.save_delta import MARK, Extending
from callstate_client.errors import (
    ConflictError,
    InvalidParamsError,
    SessionNotFoundError,
    StoreUnavailableError,
    UnreadableError,
)
from callstate_client.model.times import format_us
from callstate_client.protocol.messages import encode_json
from callstate_client.protocol.params import (
    SaveParams,
)

_members = msgspec.json.Decoder(dict[str, Raw]).decode


def save(ctx: Context, caller: Caller, p: SaveParams | Extending) -> bytes:
    """{"session":{"id":"c1","provider":"twilio","history":[…],…},"if_version":0,"labels":{"app":"sales"}}"""
    extends = isinstance(p, Extending)
    p = p.params if isinstance(p, Extending) else p

    def created_at(session_id: str) -> str:
        entry = ctx.known(session_id)
        return format_us(ctx.now_us()) if entry is None else entry.doc.created_at

    head = read_head(p.session, "$.params.session", created_at)
    if p.op is not None:
        checked_word(p.op, "$.params.op")
    labels = None if p.labels is None else checked_labels(p.labels)
    entry = ctx.cache.entries.get(head.session_id)
    if entry is None:
        entry, unverified = _asked_for(ctx, p, head.session_id)
        if entry is None:
            entry = _new(ctx, caller, p, head, unverified)
            mode, turns, count = _history(ctx, entry, head, created=True)
            return _saved(ctx, caller, entry, p, labels, head, mode, turns, count, was_ended=False, created=True)
    if p.op in entry.ops:
        return entry.ops[p.op]
    if p.if_version is not None and p.if_version != entry.version:
        raise _conflict(entry, p.if_version)
    if _is_anew(entry, p, head):
        ctx.check_epoch(caller, entry, p.epoch)
    else:
        ctx.check_writable(caller, entry, p.epoch)
    if not extends:
        mode, turns, count = _history(ctx, entry, head, created=False)
    else:
        mode, turns, count = _extension(ctx, entry, head)
    return _saved(ctx, caller, entry, p, labels, head, mode, turns, count, was_ended=entry.ended, created=False)


def _conflict(entry: Entry, if_version: int) -> ConflictError:
    """Says what is there; to who wanted to create it also how it stands."""
    text, about = f"the session has version {entry.version}", {}
    if if_version == 0:
        about["status"] = entry.doc.status
        if entry.ended:
            error = ended_error(entry)
            text, about = error.message, about | error.data
    return ConflictError(text, version=entry.version, **about)


def _is_anew(entry: Entry, p: SaveParams, head: Head) -> bool:
    """Whether a call that is over is begun anew under its id, by somebody who knows that it is over: such a save is
    no late word."""
    return entry.ended and p.if_version is not None and head.status != "ended"


def _asked_for(ctx: Context, p: SaveParams, session_id: str) -> tuple[Entry | None, bool]:
    """A session that is not hot, where there is one; and whether nobody can know.

    Raises:
        StoreUnavailableError: nobody can know, and the save is for one that is there.
    """
    checked_id(session_id, "$.params.session.id")
    try:
        return ctx.lookup(session_id), False
    except StoreUnavailableError:
        if p.if_version or p.epoch is not None:
            raise
        return None, True
    except UnreadableError:
        entry = ctx.unreadable(session_id)
        if entry is None or not p.if_version:
            raise  # nothing is created over it; whoever names its version has seen it, and replaces it
        return entry, False


def _new(ctx: Context, caller: Caller, p: SaveParams, head: Head, unverified: bool) -> Entry:
    if p.if_version:
        raise ConflictError("there is no such session", version=0)
    if p.epoch is not None:
        raise SessionNotFoundError(f"no session {head.session_id}")
    ctx.check_room()
    entry = Entry(head.session_id, Document(head, ctx.now_us()))
    grave = ctx.cache.floor(head.session_id)
    entry.version, entry.epoch = grave.version, grave.epoch
    # a late repeat of a deletion meant the one before: it must not delete this one
    entry.ops = {op: result for op, result in grave.ops.items() if result == DELETED}
    entry.owner, entry.instance = caller.worker, caller.instance
    entry.unverified = unverified
    if unverified:
        given = _given(p.session)
        entry.base = blind_base(entry, given, labels=p.labels is not None, create=p.if_version == 0)
    return entry


def _given(session: Raw | PlainHead) -> frozenset[str]:
    """The members that a save names."""
    if isinstance(session, Raw):
        return frozenset(_members(session))
    default = PlainHead(id="")
    names = zip(session.__struct_fields__, session.__struct_encode_fields__, strict=True)
    return frozenset(written for name, written in names if getattr(session, name) != getattr(default, name))


def _history(ctx: Context, entry: Entry, head: Head, *, created: bool) -> tuple[HistoryMode, bytes, int]:
    """What a save does to the history; only what it adds is looked at."""
    path = "$.params.session.history"
    history_bytes = entry.doc.history_bytes if head.history is None else len(head.history)
    ctx.check_size(len(head.fields) + HEAD_REST_BYTES + history_bytes)
    if head.history is None:
        return HistoryMode.KEEP, b"", 0
    rest = None if created else entry.doc.extension(head.history)
    if rest is None:
        return HistoryMode.REPLACE, head.history, len(check_turns(b"[%b]" % head.history, path))
    if not rest:
        return HistoryMode.KEEP, b"", 0
    try:
        return HistoryMode.APPEND, rest, len(check_turns(b"[%b]" % rest, path))
    except InvalidParamsError:
        check_turns(b"[%b]" % head.history, path)  # says the place in the whole history
        raise


def _extension(ctx: Context, entry: Entry, head: Head) -> tuple[HistoryMode, bytes, int]:
    """What a save does whose history begins with the mark for all that is kept."""
    rest = (head.history or b"")[len(MARK) :].lstrip()
    ctx.check_size(len(head.fields) + HEAD_REST_BYTES + entry.doc.history_bytes + len(rest))
    if not rest:
        return HistoryMode.KEEP, b"", 0
    turns = rest[1:].lstrip()
    path = "$.params.session.history"
    try:
        return HistoryMode.APPEND, turns, len(check_turns(b"[%b]" % turns, path))
    except InvalidParamsError:
        check_turns(b"[%b,%b]" % (b",".join(entry.doc.chunks), turns), path)  # says the place in the whole history
        raise


def _saved(
    ctx: Context, caller: Caller, entry: Entry, p: SaveParams, labels: dict[str, str] | None, head: Head,
    mode: HistoryMode, turns: bytes, count: int, *, was_ended: bool, created: bool,
) -> bytes:  # fmt: skip
    now_us = ctx.now_us()
    if created:
        ctx.cache.create(entry)
    else:
        ctx.cache.change(entry)
        anew = _is_anew(entry, p, head)
        entry.doc.take_head(head, now_us)
        if anew:
            _begin_anew(caller, entry)
        elif was_ended and not entry.ended and not entry.owner and caller.worker:
            entry.epoch += 1  # whoever revives nobody's claims it: it may have been another's
            entry.owner, entry.instance, entry.orphan = caller.worker, caller.instance, ""
    entry.host = None
    entry.apply_turns(mode, turns, count, [])
    if labels is not None:
        entry.labels = labels
        ctx.liveness.relabel(entry.id, labels)
    before_s = entry.heartbeat_timeout_s
    if p.heartbeat_timeout_s is not None:
        entry.heartbeat_timeout_s = p.heartbeat_timeout_s
    if p.max_duration_s is not None:
        entry.max_duration_s = p.max_duration_s
    version = entry.next_version(now_us)
    entry.doc.updated_us = now_us
    if created:
        ctx.events.note("created", now_us, entry)
    ctx.settle(caller, entry, was_ended, now_us, p.epoch)
    if entry.ended and not was_ended:
        ctx.events.note("ended", now_us, entry, reason=entry.ended_reason)
    if not entry.ended and not (p.heartbeat_timeout_s is None and p.max_duration_s is None):
        ctx.retime(caller, entry, before_s)
    elif entry.known_timeout_s is not None and not entry.ended and ctx.is_holder(caller, entry):
        ctx.told(entry)
    if created and entry.base is not None and p.heartbeat_timeout_s is None:
        entry.base = structs.replace(entry.base, heartbeat_timeout_s=entry.heartbeat_timeout_s)
    result = _result(entry, version, now_us)
    record = entry.record(mode, turns, count, entry.keep_op(p.op, result))
    ctx.cache.log(entry, record, ctx.clock.mono())
    return result


def _begin_anew(caller: Caller, entry: Entry) -> None:
    """Another call under the same id: whoever had the one before has nothing more to say."""
    if entry.ended_reason == OVERTIME:  # else it would be ended again at once
        entry.max_duration_s = None
    entry.epoch += 1
    entry.owner, entry.instance, entry.orphan = caller.worker, caller.instance, ""
    entry.reaped, entry.status_before, entry.known_timeout_s = False, "", None
    entry.claimed_us = entry.handovers = entry.crashes = 0


def _result(entry: Entry, version: int, now_us: int) -> bytes:
    result = b'{"version":%d,"updated_at":"%b","epoch":%d' % (version, format_us(now_us).encode(), entry.epoch)
    if entry.is_blind:
        result += b',"unverified":true'
    if entry.heartbeat_timeout_s is None:  # ended from its first moment, so nobody waits for a beat
        return result + b"}"
    return result + b',"heartbeat_timeout_s":%b}' % encode_json(entry.heartbeat_timeout_s)
