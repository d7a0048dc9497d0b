"""One hot session and its two other forms: the journal's record and the store's write."""

from __future__ import annotations

import json

import pytest

from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.facts import Facts
from callstate_client.engine.sessions.head import CallMetrics, read_head
from callstate_client.engine.sessions.ops import KEPT_OPS
from callstate_client.engine.sessions.records import (
    HistoryMode,
    OpResult,
    StateRecord,
    decode_record,
    encode_record,
)
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.stored import StoredMeta, StoredSession
from callstate_client.errors import UnreadableError
from callstate_client.model.times import MAX_US
from support.clock import START_US
from support.core import HOST, TIME, kept
from support.documents import GO_DOCUMENTS, count_turns, go_document

TURN = b'{"role":"user","content":"hi","timestamp":"2026-01-01T00:00:00.123456789Z"}'


def full_entry() -> Session:
    """A session in which nothing is as it begins."""
    head = read_head(
        b'{"id":"a","provider":"sip","call_id":"CA1","status":"ended","created_at":"2025-12-31T00:00:00Z","x":[1],'
        b'"metrics":{"turn_count":2,"p50":7},"recovery_data":{"node":"menu"}}',
        "$",
        lambda _: "",
    )
    session = Session("a", Document(head, START_US + 5))
    session.doc.replace_history(TURN + b"," + TURN, 2)
    session.version = 17
    session.facts = Facts(
        epoch=3, owner="w1", labels={"app": "sales"}, heartbeat_timeout_s=2.5, max_duration_s=60.0,
        ended_reason="gone", ended_detail='{"cause":16}', ended_us=START_US, reaped=True,
    )  # fmt: skip
    session.ops = {"op-1": b'{"version":17}'}
    session.beat_us = START_US + 9
    return session


def through_bytes(record: StateRecord) -> StateRecord:
    """The record as a replay reads it."""
    read = decode_record(encode_record(record))
    assert isinstance(read, StateRecord)
    return read


def test_a_snapshot_brings_back_everything() -> None:
    session = full_entry()
    back = Session.of_record(through_bytes(session.snapshot()), None)
    assert kept(back) == kept(session)
    assert back.beat_us == session.beat_us
    assert back.journaled


def test_a_snapshot_replaces_what_the_log_said_before() -> None:
    session = full_entry()
    before = Session("a", Document(read_head(b'{"id":"a","provider":"old"}', "$", lambda _: TIME), 1))
    before.doc.append(b"{}", 1)
    back = Session.of_record(through_bytes(session.snapshot()), before)
    assert kept(back) == kept(session)


def test_the_store_brings_back_what_it_is_given() -> None:
    session = full_entry()
    write = session.write(HOST)
    back = Session.of_stored("a", StoredSession(write.document, write.meta, write.beat_ms), HOST)
    assert back is not None
    assert kept(back) == kept(session)
    assert back.stored_version == session.version
    assert back.host is None
    assert not back.journaled


def test_an_ended_session_is_not_active_in_the_store() -> None:
    session = full_entry()
    assert session.write(HOST).active is False
    session.doc.status = "on_hold"
    assert session.write(HOST).active is True


def test_another_hosts_session_is_known_as_theirs() -> None:
    write = full_entry().write("other")
    back = Session.of_stored("a", StoredSession(write.document, write.meta), HOST)
    assert back is not None
    assert back.host == "other"


@pytest.mark.parametrize("name", GO_DOCUMENTS)
def test_what_go_wrote_is_nobodys_and_has_a_version(name: str) -> None:
    data = go_document(name)
    back = Session.of_stored("go-1", StoredSession(data, None, 0), HOST)
    assert back is not None
    assert back.host == ""
    # 0 would say that there is none: a save that is only to create would overwrite it
    assert back.version >= 1
    assert back.stored_version == back.version
    assert back.doc.turn_count == len(json.loads(data)["history"] or [])
    json.loads(back.doc.to_json(back.updated_us))


def test_go_writing_again_makes_another_version() -> None:
    data = go_document("plain")
    later = data.replace(b"10:00:03.5Z", b"10:00:03.500001Z")
    versions = [Session.of_stored("go-1", StoredSession(text, None), HOST) for text in (data, later)]
    assert versions[0] is not None
    assert versions[1] is not None
    assert versions[1].version > versions[0].version


def test_a_tombstone_is_no_session() -> None:
    assert Session.of_stored("a", StoredSession(None, StoredMeta(host=HOST, deleted=True)), HOST) is None


def test_what_is_no_session_document_is_refused() -> None:
    with pytest.raises(UnreadableError):
        Session.of_stored("a", StoredSession(b"[]", None), HOST)


def test_a_beat_beyond_all_time_does_no_harm() -> None:
    back = Session.of_stored("a", StoredSession(b'{"id":"a"}', None, 10**18), HOST)
    assert back is not None
    assert back.beat_us == MAX_US
    json.loads(back.doc.to_json(back.updated_us))


def test_a_mark_restores_all_but_beats_and_what_the_store_has() -> None:
    session = full_entry()
    before, mark = kept(session), session.mark()
    session.doc.take_head(read_head(b'{"id":"a","status":"active","provider":"z"}', "$", lambda _: TIME), 99)
    session.doc.append(TURN, 1)
    session.doc.metrics = CallMetrics()
    session.next_version(START_US + 50)
    session.facts = Facts(epoch=9, owner="w9")
    session.known_timeout_s = 7.0
    session.keep_op("op-2", b"{}")
    session.host, session.journaled = "other", True
    session.beat_us, session.stored_version, session.maybe_stored = START_US + 99, 12, True
    session.restore(mark)
    assert kept(session) == before
    assert (session.host, session.journaled, session.known_timeout_s) == (None, False, None)
    assert (session.beat_us, session.stored_version, session.maybe_stored) == (START_US + 99, 12, True)


def test_versions_grow_also_when_the_clock_goes_back() -> None:
    session = full_entry()
    assert session.next_version(START_US) == START_US
    assert session.next_version(START_US - 3_600_000_000) == START_US + 1
    assert session.next_version(START_US + 5) == START_US + 5


def test_updated_is_the_later_of_change_and_beat_while_it_lives() -> None:
    session = full_entry()
    assert session.updated_us == session.doc.updated_us, "ended: its last change"
    session.doc.status = "active"
    assert session.updated_us == session.beat_us


def test_the_last_sixteen_ops_are_kept() -> None:
    session = full_entry()
    session.ops = {}
    assert session.keep_op(None, b"{}") == []
    for number in range(KEPT_OPS + 3):
        assert session.keep_op(f"op-{number}", b"%d" % number) == [OpResult(f"op-{number}", b"%d" % number)]
    assert len(session.ops) == KEPT_OPS == 16
    assert session.ops == {f"op-{number}": b"%d" % number for number in range(3, KEPT_OPS + 3)}


@pytest.mark.parametrize(
    ("mode", "turns", "count", "index", "history"),
    [
        (HistoryMode.KEEP, b"", 0, -1, TURN + b"," + TURN),
        (HistoryMode.REPLACE, b"{}", 1, -1, b"{}"),
        (HistoryMode.REPLACE, b"", 0, -1, b""),
        (HistoryMode.APPEND, b'{"a":1},{"b":2}', 2, -1, TURN + b"," + TURN + b',{"a":1},{"b":2}'),
        (HistoryMode.AMEND, b'{"c":3}', 1, -1, TURN + b',{"c":3}'),
        (HistoryMode.AMEND, b'{"c":3}', 1, 0, b'{"c":3},' + TURN),
    ],
)
def test_what_a_record_does_to_the_history(
    mode: HistoryMode, turns: bytes, count: int, index: int, history: bytes
) -> None:
    session = full_entry()
    session.apply_turns(mode, turns, count, [], index)
    assert b",".join(session.doc.chunks) == history
    assert session.doc.turn_count == count_turns(history)


DELETED_US = 1_767_225_600_000_000  # 2026-01-01


@pytest.mark.parametrize(
    ("created", "found"),
    [
        ("2025-12-31T23:59:59Z", False),  # before the deletion: read before it, and written back
        ("2026-01-01T00:00:01Z", True),  # a new call under the id
        ("0001-01-01T00:00:00Z", True),  # not said
    ],
)
def test_what_is_written_back_over_a_deletion_stays_deleted(created: str, found: bool) -> None:
    document = b'{"id":"a","status":"active","created_at":"%b"}' % created.encode()
    stored = StoredSession(document, StoredMeta(host=HOST, version=DELETED_US), tombstone=DELETED_US)
    back = Session.of_stored("a", stored, HOST)
    assert (back is not None) is found
