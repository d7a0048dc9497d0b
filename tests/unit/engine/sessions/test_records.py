"""Bodies of the journal's records, as bytes."""

from __future__ import annotations

import msgspec
import pytest

from callstate_client.engine.sessions.head import Metrics
from callstate_client.engine.sessions.records import (
    GoneRecord,
    HistoryMode,
    OpResult,
    Record,
    StateRecord,
    TurnsRecord,
    decode_record,
    encode_record,
)

STATE = StateRecord(
    "a", 2**62, 3, -5, 7, "active", b'"id":"a"', "sip", "CA1", Metrics(1, 2, 3, 4, 5, 6, b',"x":1'),
    HistoryMode.APPEND, b"{}", 1, "w1", {"app": "sales"}, 2.5, 60.0, "gone", "{}", 9, True, True,
    [OpResult("op", b"{}")],
)  # fmt: skip
RECORDS: list[Record] = [
    STATE,
    TurnsRecord("a", 1, 2, Metrics(-(2**63), 2**63 - 1), HistoryMode.AMEND, b'{"role":"user"}', 1, [], 7),
    TurnsRecord("a", 1, 2, Metrics(), HistoryMode.KEEP, b"", 0, [OpResult("x", b"1"), OpResult("y", b"2")]),
    GoneRecord("a", 5, 2, True),
    GoneRecord("a", 5, 2, False),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_back(record: Record) -> None:
    assert decode_record(encode_record(record)) == record


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_half_a_record_is_none(record: Record) -> None:
    body = encode_record(record)
    for length in range(len(body)):
        with pytest.raises(msgspec.MsgspecError):
            decode_record(body[:length])


def test_a_kind_nobody_knows_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_record(msgspec.msgpack.encode([99, "a"]))


def test_a_record_of_an_older_daemon_has_defaults_for_what_came_later() -> None:
    older = msgspec.msgpack.decode(encode_record(STATE))[:14]
    read = decode_record(msgspec.msgpack.encode(older))
    assert isinstance(read, StateRecord)
    assert (read.owner, read.labels, read.ops, read.reaped) == ("", {}, [], False)


def test_an_amendment_of_an_older_daemon_is_of_the_last_turn() -> None:
    older = msgspec.msgpack.decode(encode_record(RECORDS[1]))[:9]
    read = decode_record(msgspec.msgpack.encode(older))
    assert isinstance(read, TurnsRecord)
    assert (read.mode, read.index) == (HistoryMode.AMEND, -1)


def test_a_turn_costs_little_more_than_itself() -> None:
    turn = b"x" * 500
    record = TurnsRecord("call-1", 2**50, 2**50, Metrics(20, 1, 9000, 9000), HistoryMode.APPEND, turn, 1, [])
    assert len(encode_record(record)) < 500 + 80
