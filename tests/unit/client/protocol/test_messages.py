from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from callstate_client import protocol as p
from callstate_client.errors import ConflictError, InternalError, InvalidParamsError, SessionNotFoundError
from callstate_client.protocol.load_reply import decode_list, decode_load


def test_a_request_line() -> None:
    params = p.LoadParams(session_id="c1", history=20)
    line = p.encode_request(7, "session.load", params)
    expected = b'{"jsonrpc":"2.0","id":7,"method":"session.load","params":{"session_id":"c1","history":20}}\n'
    assert line == expected
    request = msgspec.json.decode(line, type=p.Request)
    assert (request.id, request.method) == (7, "session.load")


def test_omitted_parameters_are_not_sent() -> None:
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


@pytest.mark.parametrize("decode", [p.decode_version, decode_load, p.decode_empty, decode_list])
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
        decode_load(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32001}}')


@pytest.mark.parametrize(
    "line", [b'{"jsonrpc":"2.0","id":1}', reply(b"3"), reply(b'{"version":"3"}'), reply(b'{"version":3'), b"\xff"]
)
def test_a_malformed_reply_is_an_internal_error(line: bytes) -> None:
    with pytest.raises(InternalError):
        p.decode_version(line)


@pytest.mark.parametrize("beside", [{}, {"op": "o"}, {"if_version": 0, "labels": {"a": '"session":0'}}])
def test_a_save_is_written_as_its_params_are(beside: dict[str, Any]) -> None:
    params = p.SaveParams(session=msgspec.Raw(b'{"id":"c1"}'), **beside)
    line = p.encode_request(7, "session.save", params)
    assert line == b'{"jsonrpc":"2.0","id":7,"method":"session.save","params":%b}\n' % p.encode_json(params)
    assert params.session == msgspec.Raw(b'{"id":"c1"}')


def test_a_save_that_is_not_json() -> None:
    with pytest.raises(InvalidParamsError):
        p.encode_request(7, "session.save", p.SaveParams(session=msgspec.Raw(b"{}"), op="\ud800"))


def test_encoded_json_is_written_unchanged() -> None:
    pieces = (b'{"session_id":', memoryview(b'"c1"'), msgspec.Raw(b',"x":1}'))
    line = p.encode_request(7, "session.load", p.Written(pieces))
    assert line == b'{"jsonrpc":"2.0","id":7,"method":"session.load","params":{"session_id":"c1","x":1}}\n'
