from __future__ import annotations

import msgspec
import pytest

from callstate_client.errors import DocumentError, InternalError
from callstate_client.protocol.load_reply import decode_claim_next, decode_load


def reply(result: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"result":%b}' % result


def test_a_load() -> None:
    line = reply(b'{"session":{"id":"c1"},"version":3,"epoch":4,"turn_count":0,"labels":{"a":"b"},"owner":"w"}')
    result = decode_load(line)
    assert result.session.id == "c1"
    assert (result.version, result.epoch, result.labels, result.owner) == (3, 4, {"a": "b"}, "w")
    assert result.session.history_from == 0


def test_a_load_with_members_we_do_not_know() -> None:
    result = decode_load(reply(b'{"session":{"id":"c1","campaign":7},"version":3}'))
    assert result.session.extra == {"campaign": 7}


@pytest.mark.parametrize(("turns", "first"), [(b'"history":[{},{}],', 3), (b'"history":[],', 5), (b"", 5)])
def test_a_partial_history_is_marked_as_partial(turns: bytes, first: int) -> None:
    line = reply(b'{"session":{%b"id":"c1"},"version":3,"turn_count":5}' % turns)
    assert decode_load(line).session.history_from == first


TURNS = b'[{"role":"user","content":"a"},{"role":"agent","content":"}]},\\"history_from\\":"}]'
LOADED = b'{"session":{"id":"c1","recovery_data":%b,"history":%b},"history_from":2,"turn_count":4,"version":3%b}'


@pytest.mark.parametrize("turns", [TURNS, b"[]", b"null", b"[ {} ]", b'[{"x":{"y":[{}]},"history_from":1}]'])
@pytest.mark.parametrize(
    "recovery",
    [
        b"{}",
        b'{"a":1,"history":[{"role":"x"}]}',
        b'{"a":1,"history":[{"role":"x"}],"history_from":7}',
        b'{"a":{"b":1,"history":[{}]},"history_from":7}',
        b'{"a":{"b":1,"history":[{"history":0}]},"history_from":7}',
        b'",\\"history\\":[{"',
        b'["history",",",":[{"]',
    ],
)
@pytest.mark.parametrize(
    "beside",
    [b"", b',"ended_detail":{"y":[{}]}', b',"ended_detail":{"q":{"y":[{}]},"history_from":9}'],
)
def test_a_load_is_what_a_full_parse_finds(turns: bytes, recovery: bytes, beside: bytes) -> None:
    result = decode_load(reply(LOADED % (recovery, turns, beside)))
    session = msgspec.json.decode(LOADED % (recovery, turns, beside))["session"]
    assert [turn.extra | {"content": turn.content} for turn in result.session.history] == [
        {"content": turn.get("content", "")} | {n: v for n, v in turn.items() if n not in ("role", "content")}
        for turn in session["history"] or []
    ]
    assert result.session.recovery_data == session["recovery_data"]
    assert (result.version, result.turn_count) == (3, 4)
    assert result.session.history_from == (2 if session["history"] else 4)


def test_the_turns_of_a_load_are_not_decoded() -> None:
    line = reply(LOADED % (b"{}", TURNS.replace(b'"a"', b"#"), b""))
    state = decode_load(line).session
    assert state.history[-1].role == "agent"
    with pytest.raises(DocumentError):
        len(state.history)


def test_a_claim_of_any_orphan() -> None:
    assert decode_claim_next(reply(b"null")) is None
    claimed = decode_claim_next(reply(b'{"session":{"id":"c1"},"version":3,"epoch":4}'))
    assert claimed is not None
    assert (claimed.session.id, claimed.epoch) == ("c1", 4)


@pytest.mark.parametrize(
    "line", [b"", reply(b"3"), reply(b'{"version":3}'), reply(b'{"session":{"id":"c1"'), b"\xff"]
)
def test_an_invalid_load_reply_is_refused(line: bytes) -> None:
    with pytest.raises(InternalError):
        decode_load(line)
