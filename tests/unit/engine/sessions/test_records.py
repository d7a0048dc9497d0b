"""Bodies of the journal's records, as bytes."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import structs

from callstate_client.engine.sessions.facts import Facts
from callstate_client.engine.sessions.head import CallMetrics
from callstate_client.engine.sessions.records import (
    HistoryMode,
    OpResult,
    Record,
    RemovalRecord,
    StateRecord,
    TurnsRecord,
    decode_record,
    encode_record,
)

FACTS = Facts(
    epoch=3, owner="w1", labels={"app": "sales"}, heartbeat_timeout_s=2.5, max_duration_s=60.0,
    ended_reason="gone", ended_detail="{}", ended_us=9, reaped=True,
)  # fmt: skip
STATE = StateRecord(
    session_id="a", version=2**62, updated_us=-5, beat_us=7, status="active", fields=b'"id":"a"', provider="sip",
    call_id="CA1", metrics=CallMetrics(1, 2, 3, 4, 5, 6, b',"x":1'), mode=HistoryMode.APPEND, turns=b"{}", count=1,
    facts=FACTS, maybe_stored=True, ops=[OpResult("op", b"{}")],
)  # fmt: skip
STATE_V3 = [
    1, "a", 2**62, 3, -5, 7, "active", b'"id":"a"', "sip", "CA1", [1, 2, 3, 4, 5, 6, b',"x":1'], 2, b"{}", 1, "w1",
    {"app": "sales"}, 2.5, 60.0, "gone", "{}", 9, True, True, [["op", b"{}"]], "left", "on_hold", 11, 2, 1, None,
    [4, 3], "i1",
]  # fmt: skip
"""The same as formats 1 to 3 wrote it, with the members that came last."""
RECORDS: list[Record] = [
    STATE,
    TurnsRecord("a", 1, 2, CallMetrics(-(2**63), 2**63 - 1), HistoryMode.AMEND, b'{"role":"user"}', 1, [], 7),
    TurnsRecord("a", 1, 2, CallMetrics(), HistoryMode.KEEP, b"", 0, [OpResult("x", b"1"), OpResult("y", b"2")]),
    RemovalRecord("a", 5, 2, True),
    RemovalRecord("a", 5, 2, False),
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


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_record(msgspec.msgpack.encode([99, "a"]))


def test_a_state_of_an_older_daemon_is_read_as_one_of_now() -> None:
    facts = structs.replace(
        FACTS,
        orphan="left",
        status_before="on_hold",
        claimed_us=11,
        handovers=2,
        crashes=1,
        raised=(4, 3),
        instance="i1",
    )
    assert decode_record(msgspec.msgpack.encode(STATE_V3)) == structs.replace(STATE, facts=facts)


def test_a_record_of_an_older_daemon_has_defaults_for_what_came_later() -> None:
    read = decode_record(msgspec.msgpack.encode(STATE_V3[:14]))
    assert isinstance(read, StateRecord)
    assert (read.facts, read.ops, read.maybe_stored, read.base) == (Facts(epoch=3), [], False, None)


def test_an_amendment_of_an_older_daemon_is_of_the_last_turn() -> None:
    older = msgspec.msgpack.decode(encode_record(RECORDS[1]))[:9]
    read = decode_record(msgspec.msgpack.encode(older))
    assert isinstance(read, TurnsRecord)
    assert (read.mode, read.index) == (HistoryMode.AMEND, -1)


def test_a_turn_costs_little_more_than_itself() -> None:
    turn = b"x" * 500
    record = TurnsRecord("call-1", 2**50, 2**50, CallMetrics(20, 1, 9000, 9000), HistoryMode.APPEND, turn, 1, [])
    assert len(encode_record(record)) < 500 + 80
