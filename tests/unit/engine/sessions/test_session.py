"""One hot session: its changes, their undoing, and its form for the journal."""

from __future__ import annotations

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
from support.clock import START_US
from support.core import TIME, kept
from support.documents import count_turns
from support.sessions import TURN, full_session


def through_bytes(record: StateRecord) -> StateRecord:
    """The record as a replay reads it."""
    read = decode_record(encode_record(record))
    assert isinstance(read, StateRecord)
    return read


def test_a_snapshot_brings_back_everything() -> None:
    session = full_session()
    back = Session.of_record(through_bytes(session.snapshot()), None)
    assert kept(back) == kept(session)
    assert back.beat_us == session.beat_us
    assert back.journaled


def test_a_snapshot_replaces_what_the_log_said_before() -> None:
    session = full_session()
    before = Session("a", Document(read_head(b'{"id":"a","provider":"old"}', "$", lambda _: TIME), 1))
    before.doc.append(b"{}", 1)
    back = Session.of_record(through_bytes(session.snapshot()), before)
    assert kept(back) == kept(session)


def test_a_mark_restores_all_but_beats_and_what_the_store_has() -> None:
    session = full_session()
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
    session = full_session()
    assert session.next_version(START_US) == START_US
    assert session.next_version(START_US - 3_600_000_000) == START_US + 1
    assert session.next_version(START_US + 5) == START_US + 5


def test_updated_is_the_later_of_change_and_beat_while_it_lives() -> None:
    session = full_session()
    assert session.updated_us == session.doc.updated_us, "ended: its last change"
    session.doc.status = "active"
    assert session.updated_us == session.beat_us


def test_the_last_sixteen_ops_are_kept() -> None:
    session = full_session()
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
def test_each_record_changes_the_history_as_specified(
    mode: HistoryMode, turns: bytes, count: int, index: int, history: bytes
) -> None:
    session = full_session()
    session.apply_turns(mode, turns, count, [], index)
    assert b",".join(session.doc.chunks) == history
    assert session.doc.turn_count == count_turns(history)
