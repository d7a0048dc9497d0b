"""Three-way merge of a session: our state, the store's, and their last known common ancestor, the merge base.

A save accepted while the store was unreachable omits what it does not change, and a journal may be older than the
store after a restore or a power loss. In both cases both sides may have changed since the merge base. Each part is
merged by the usual rule: if ours still equals the base, theirs is taken, else ours. Our turns are appended to the
store's. Pure: no clock, no I/O.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import Raw, structs

from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.facts import NOT_ENDED
from callstate_client.engine.sessions.head import CallMetrics, Head
from callstate_client.engine.sessions.ops import KEPT_OPS
from callstate_client.engine.sessions.records import MergeBase
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.turn_search import find_turn
from callstate_client.model.metrics import Responses

T = TypeVar("T")

_members = msgspec.json.Decoder(dict[str, Raw]).decode
_COUNTS = ("turn_count", "interruption_count", "user_speech_duration_ms", "agent_speech_duration_ms")


def blind_base(session: Session, given: frozenset[str], *, labels: bool, create: bool) -> MergeBase:
    """The base of a session saved while the store is unreachable: empty, with the given members counting as ours.

    Args:
        session: as the save made it.
        given: the members of the document that the save named; without `history` where that is empty, as in a new
            state: it empties nothing that nobody has seen.
        labels: whether it gave any.
        create: it was to create the session (`if_version: 0`). If the store turns out to have one, that one's
            history and counts are not replaced: turns are appended, counts added.
    """
    ours = _members(b"{%b}" % session.doc.fields)
    left_out = {name: value for name, value in ours.items() if name not in given and name != "id"}
    emptied = {name: Raw(b"0") for name in given & {"recovery_data", "call_id"} if name not in ours}
    return MergeBase(
        fields=_joined(left_out | emptied),
        status=None if "status" in given else session.doc.status,
        labels=None if labels else {},
        metrics=None
        if "metrics" in given and session.doc.metrics != CallMetrics() and not create
        else CallMetrics(),
        turns=-1 if "history" in given and not create else 0,
    )


def merge(session: Session, base: MergeBase, theirs: Session) -> None:
    """Merge the store's state into a session; the caller handles epochs and versions."""
    history = _history(session, base, theirs)
    metrics = _metrics(session.doc.metrics, base.metrics, theirs.doc.metrics)
    _merge_head(session, base, theirs, metrics)
    if history is not None:
        session.doc.take_history(history)
    _merge_facts(session, base, theirs)
    session.ops = dict([*(theirs.ops | session.ops).items()][-KEPT_OPS:])
    session.beat_us = max(session.beat_us, theirs.beat_us)


def take_document(session: Session, theirs: Session) -> None:
    """Replace our document with the store's."""
    doc, other = session.doc, theirs.doc
    head = Head(session.id, other.fields, other.provider, other.call_id, other.status, other.metrics, None)
    doc.take_head(head, other.updated_us)
    doc.updated_text = other.updated_text
    doc.take_history(other)


def _either(ours: T, base: T | None, theirs: T) -> T:
    return theirs if ours == base else ours


def _merge_head(session: Session, base: MergeBase, theirs: Session, metrics: CallMetrics) -> None:
    was_ended, before = session.ended, session.doc.status
    status = _either(before, base.status, theirs.doc.status)
    if base.version == 0 and theirs.ended and not was_ended:
        status = before  # a new call under a reused id stays live
    fields = _fields(session, base, theirs)
    head = Head(session.id, fields, _text(fields, "provider"), _text(fields, "call_id"), status, metrics, None)
    session.doc.take_head(head, max(session.doc.updated_us, theirs.doc.updated_us))
    if session.ended and not was_ended:
        end = theirs.facts
        session.change_facts(
            status_before=before, ended_reason=end.ended_reason, ended_detail=end.ended_detail,
            ended_us=end.ended_us, reaped=end.reaped,
        )  # fmt: skip
    elif was_ended and not session.ended:
        session.change_facts(**NOT_ENDED)


def _fields(session: Session, base: MergeBase, theirs: Session) -> bytes:
    mine, known, other = (_members(b"{%b}" % each) for each in (session.doc.fields, base.fields, theirs.doc.fields))
    merged: dict[str, Raw] = {}
    for name in other | mine:
        value = other.get(name) if name != "id" and _same(mine.get(name), known.get(name)) else mine.get(name)
        if value is not None:
            merged[name] = value
    return _joined(merged)


def _same(a: Raw | None, b: Raw | None) -> bool:
    if a is None or b is None:
        return a is b
    return bytes(a) == bytes(b) or msgspec.json.decode(a) == msgspec.json.decode(b)


def _joined(members: dict[str, Raw]) -> bytes:
    return b",".join(b"%b:%b" % (msgspec.json.encode(name), bytes(value)) for name, value in members.items())


def _text(fields: bytes, name: str) -> str:
    value = _members(b"{%b}" % fields).get(name)
    return "" if value is None else msgspec.json.decode(value, type=str)


def _metrics(ours: CallMetrics, base: CallMetrics | None, theirs: CallMetrics) -> CallMetrics:
    if base is None:
        return ours
    counted = {name: getattr(theirs, name) + getattr(ours, name) - getattr(base, name) for name in _COUNTS}
    rest = {
        name: _either(getattr(ours, name), getattr(base, name), getattr(theirs, name))
        for name in ("first_response_ms", "average_response_ms", "extra")
    }
    merged = structs.replace(theirs, **counted, **rest)
    if not (ours.has_responses or theirs.has_responses):
        return merged
    mine, before, others = ours.responses(), base.responses(), theirs.responses()
    first_ms = others.first_ms or mine.first_ms
    count, total_ms = mine.count - before.count, mine.total_ms - before.total_ms
    if count < 0 or total_ms < 0:  # ours were set to something else
        return merged
    return merged.with_responses(Responses.of(first_ms, others.count + count, others.total_ms + total_ms))


def _history(session: Session, base: MergeBase, theirs: Session) -> Document | None:
    """The store's turns with our amendments, then ours since the base; None: only ours."""
    if base.turns < 0:
        return None
    merged = theirs.doc
    for index in base.amended:
        if index < merged.turn_count:
            place = find_turn(session.doc, index)
            merged.replace_turn(find_turn(merged, index), bytes(place.text))
    since = session.doc.turn_count - base.turns
    merged.append(session.doc.last_turns(since), since)
    return merged


def _merge_facts(session: Session, base: MergeBase, theirs: Session) -> None:
    """Merge labels and timeouts."""
    facts, other = session.facts, theirs.facts
    timeout_s = _either(facts.heartbeat_timeout_s, base.heartbeat_timeout_s, other.heartbeat_timeout_s)
    if base.version == 0 and facts.heartbeat_timeout_s is not None:
        timeout_s = max(timeout_s or 0.0, facts.heartbeat_timeout_s)  # its worker sends heartbeats by this one
    limit_s = facts.max_duration_s
    if not theirs.ended or session.ended:  # otherwise the old call's limit would end the new one
        limit_s = _either(limit_s, base.max_duration_s, other.max_duration_s)
    session.change_facts(
        labels=_either(facts.labels, base.labels, other.labels),
        heartbeat_timeout_s=timeout_s,
        max_duration_s=limit_s,
    )
