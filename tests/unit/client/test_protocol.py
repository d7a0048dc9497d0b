from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from callstate_client import protocol as p
from callstate_client.errors import (
    ConflictError,
    DocumentError,
    InternalError,
    InvalidParamsError,
    SessionNotFoundError,
)
from callstate_client.lines import LineSplitter

Feed = Callable[[bytes], Iterator[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    yield from (data[i : i + 1] for i in range(len(data)))


def by_three(data: bytes) -> Iterator[bytes]:
    yield from (data[i : i + 3] for i in range(0, len(data), 3))


def split(feed: Feed, data: bytes, limit: int = 10) -> tuple[list[bytes | None], LineSplitter]:
    splitter = LineSplitter(limit)
    return [line for piece in feed(data) for line in splitter.feed(piece)], splitter


@pytest.mark.parametrize("feed", [whole, byte_by_byte, by_three])
@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"a\n", [b"a"]),
        (b"\n\n", [b"", b""]),
        (b"a\nbc\n", [b"a", b"bc"]),
        (b"123456789\n", [b"123456789"]),
        (b"1234567890\n", [None]),
        (b"1234567890123\nok\n", [None, b"ok"]),
        (b"ok\n1234567890\nok\n", [b"ok", None, b"ok"]),
        (b"a\r\n", [b"a\r"]),
    ],
)
class TestLineSplitter:
    def test_lines(self, feed: Feed, data: bytes, lines: list[bytes | None]) -> None:
        found, splitter = split(feed, data)
        assert found == lines
        assert splitter.pending == 0

    def test_with_data_behind(self, feed: Feed, data: bytes, lines: list[bytes | None]) -> None:
        found, splitter = split(feed, data + b"tail")
        assert found == lines
        assert splitter.pending == 4
        assert splitter.feed(b"\n") == [b"tail"]


def test_an_endless_line_takes_no_memory() -> None:
    splitter = LineSplitter(100)
    for _ in range(1000):
        assert splitter.feed(b"x" * 99) == []
        assert splitter.pending < 100
    assert splitter.feed(b"\nok\n") == [None, b"ok"]


def test_a_request_line() -> None:
    params = p.LoadParams(session_id="c1", history=20)
    line = p.encode_request(7, "session.load", params)
    expected = b'{"jsonrpc":"2.0","id":7,"method":"session.load","params":{"session_id":"c1","history":20}}\n'
    assert line == expected
    request = msgspec.json.decode(line, type=p.Request)
    assert (request.id, request.method) == (7, "session.load")


def test_what_is_not_given_is_not_sent() -> None:
    line = p.encode_request(1, "session.end", p.EndParams(session_id="c1"))
    assert line.endswith(b'"params":{"session_id":"c1"}}\n')
    assert p.encode_request(1, "server.ping") == b'{"jsonrpc":"2.0","id":1,"method":"server.ping"}\n'


def test_a_notification_has_no_id() -> None:
    assert b'"id"' not in p.encode_request(None, "server.ping")


def test_params_that_are_not_jsons_are_refused() -> None:
    with pytest.raises(InvalidParamsError):
        p.encode_request(1, "session.end", p.EndParams(session_id="\ud800"))


@pytest.mark.parametrize(
    "params_type",
    [cls for _, cls in inspect.getmembers(p, inspect.isclass) if issubclass(cls, p.Params) and cls is not p.Params],
)
def test_a_mistyped_param_does_not_pass(params_type: type[p.Params]) -> None:
    with pytest.raises(msgspec.ValidationError, match="if_versoin"):
        msgspec.json.decode(b'{"if_versoin":1}', type=params_type)


@pytest.mark.parametrize(
    ("line", "request_id"),
    [
        (b'{"jsonrpc":"2.0","id":7,"result":{}}', 7),
        (b'{"jsonrpc":"2.0","id":9223372036854775807,"error":{}}', 2**63 - 1),
        (b'{"jsonrpc":"2.0","id":null,"error":{}}', None),
        (b'{"jsonrpc":"2.0","id":"7","result":{}}', None),
        (b'{"jsonrpc":"2.0","id":-7,"result":{}}', None),
        (b'{"jsonrpc":"2.0", "id":7,"result":{}}', None),
        (b'{"jsonrpc":"2.0","id":7', None),
        (b'{"jsonrpc":"2.0","method":"event"}', None),
        (b"", None),
    ],
)
def test_whose_reply_it_is(line: bytes, request_id: int | None) -> None:
    assert p.reply_id(line) == request_id


def reply(result: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"result":%b}' % result


def test_members_of_a_newer_daemon_are_skipped() -> None:
    line = b'{"jsonrpc":"2.0","id":1,"news":1,"result":{"version":3,"more":{}}}'
    assert p.decode_version(line) == p.VersionResult(version=3)


@pytest.mark.parametrize("decode", [p.decode_version, p.decode_load, p.decode_empty, p.decode_list])
def test_an_error_reply_raises_its_class(decode: Callable[[bytes], object]) -> None:
    line = (
        b'{"jsonrpc":"2.0","id":1,"error":{"code":-32003,"message":"m",'
        b'"data":{"kind":"conflict","retryable":false,"version":8}}}'
    )
    with pytest.raises(ConflictError, match="m") as caught:
        decode(line)
    assert caught.value.version == 8


def test_an_error_without_data() -> None:
    with pytest.raises(SessionNotFoundError):
        p.decode_load(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32001}}')


@pytest.mark.parametrize(
    "line", [b'{"jsonrpc":"2.0","id":1}', reply(b"3"), reply(b'{"version":"3"}'), reply(b'{"version":3'), b"\xff"]
)
def test_what_no_daemon_sends_is_an_internal_error(line: bytes) -> None:
    with pytest.raises(InternalError):
        p.decode_version(line)


def test_a_load() -> None:
    line = reply(b'{"session":{"id":"c1"},"version":3,"epoch":4,"turn_count":0,"labels":{"a":"b"},"owner":"w"}')
    result = p.decode_load(line)
    assert result.session.id == "c1"
    assert (result.version, result.epoch, result.labels, result.owner) == (3, 4, {"a": "b"}, "w")
    assert result.session.history_from == 0


def test_a_load_with_members_we_do_not_know() -> None:
    result = p.decode_load(reply(b'{"session":{"id":"c1","campaign":7},"version":3}'))
    assert result.session.extra == {"campaign": 7}


@pytest.mark.parametrize(("turns", "first"), [(b'"history":[{},{}],', 3), (b'"history":[],', 5), (b"", 5)])
def test_what_came_in_part_is_known_to_be_a_part(turns: bytes, first: int) -> None:
    line = reply(b'{"session":{%b"id":"c1"},"version":3,"turn_count":5}' % turns)
    assert p.decode_load(line).session.history_from == first


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
    result = p.decode_load(reply(LOADED % (recovery, turns, beside)))
    session = msgspec.json.decode(LOADED % (recovery, turns, beside))["session"]
    assert [turn.extra | {"content": turn.content} for turn in result.session.history] == [
        {"content": turn.get("content", "")} | {n: v for n, v in turn.items() if n not in ("role", "content")}
        for turn in session["history"] or []
    ]
    assert result.session.recovery_data == session["recovery_data"]
    assert (result.version, result.turn_count) == (3, 4)
    assert result.session.history_from == (2 if session["history"] else 4)


def test_the_turns_of_a_load_are_not_looked_at() -> None:
    line = reply(LOADED % (b"{}", TURNS.replace(b'"a"', b"#"), b""))
    state = p.decode_load(line).session
    assert state.history[-1].role == "agent"
    with pytest.raises(DocumentError):
        len(state.history)


def test_a_long_and_a_short_line_in_any_pieces() -> None:
    lines: list[bytes | None] = [b"x" * 3000, b"y", b"", b"z" * 700, b"v" * 5000]
    data = b"".join(line + b"\n" for line in lines if line is not None)
    for size in (1, 499, 501, 3000, 3001, 3002, len(data)):
        splitter = LineSplitter()
        pieces = (data[at : at + size] for at in range(0, len(data), size))
        assert [line for piece in pieces for line in splitter.feed(piece)] == lines
        assert splitter.pending == 0


@pytest.mark.parametrize("beside", [{}, {"op": "o"}, {"if_version": 0, "labels": {"a": '"session":0'}}])
def test_a_save_is_written_as_its_params_are(beside: dict[str, Any]) -> None:
    params = p.SaveParams(session=msgspec.Raw(b'{"id":"c1"}'), **beside)
    line = p.encode_request(7, "session.save", params)
    assert line == b'{"jsonrpc":"2.0","id":7,"method":"session.save","params":%b}\n' % p.encode_json(params)
    assert params.session == msgspec.Raw(b'{"id":"c1"}')


def test_a_save_that_is_not_json() -> None:
    with pytest.raises(InvalidParamsError):
        p.encode_request(7, "session.save", p.SaveParams(session=msgspec.Raw(b"{}"), op="\ud800"))
