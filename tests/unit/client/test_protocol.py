from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator

import msgspec
import pytest

from callstate_client import protocol as p
from callstate_client.errors import ConflictError, InternalError, InvalidParamsError, SessionNotFoundError
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
