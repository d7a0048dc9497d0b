from __future__ import annotations

import inspect
import pickle

import pytest

import callstate_client
from callstate_client import errors
from callstate_client.errors import BY_CODE, WireError, from_wire

CONTRACT = {
    -32700: ("parse_error", False),
    -32600: ("invalid_request", False),
    -32601: ("method_not_found", False),
    -32602: ("invalid_params", False),
    -32603: ("internal", False),
    -32001: ("not_found", False),
    -32002: ("session_ended", False),
    -32003: ("conflict", False),
    -32004: ("fenced", False),
    -32005: ("shutting_down", True),
    -32006: ("store_unavailable", True),
    -32007: ("overloaded", True),
    -32008: ("too_large", False),
    -32009: ("forbidden", False),
    -32010: ("not_durable", True),
    -32011: ("unreadable", False),
}


def test_the_codes_are_the_contracts() -> None:
    assert {code: (cls.kind, cls.retryable) for code, cls in BY_CODE.items()} == CONTRACT


@pytest.mark.parametrize("code", CONTRACT)
def test_there_and_back(code: int) -> None:
    error = BY_CODE[code]("what happened", version=7)
    wire = error.to_wire()
    assert wire["data"]["kind"] == CONTRACT[code][0]
    assert wire["data"]["retryable"] is CONTRACT[code][1]
    again = from_wire(wire["code"], wire["message"], wire["data"])
    assert type(again) is BY_CODE[code]
    assert (again.message, again.data) == ("what happened", {"version": 7})


@pytest.mark.parametrize("retryable", [True, False])
def test_a_code_of_a_newer_daemon_keeps_what_it_says_of_itself(retryable: bool) -> None:
    error = from_wire(-32999, "new", {"kind": "new_kind", "retryable": retryable, "x": 1})
    assert type(error) is WireError
    assert (error.code, error.kind, error.retryable) == (-32999, "new_kind", retryable)
    assert error.data == {"x": 1}
    assert "-32999" in str(error)
    assert from_wire(**error.to_wire()).to_wire()["data"] == error.to_wire()["data"]
    assert (WireError.kind, WireError.retryable) == ("internal", False), "the class is as it was"


def test_a_code_of_a_newer_daemon_may_say_nothing_of_itself() -> None:
    error = from_wire(-32999, "new")
    assert (error.kind, error.retryable) == ("unknown", False)


def test_without_text_the_kind_speaks() -> None:
    assert str(errors.SessionNotFoundError()) == "not found"


def test_details_have_names() -> None:
    ended = errors.SessionEndedError("", ended_at="2026-01-01T00:00:00Z", reason="completed")
    assert (ended.ended_at, ended.reason) == ("2026-01-01T00:00:00Z", "completed")
    conflict = errors.ConflictError("", version=3, owner="w")
    assert (conflict.version, conflict.owner) == (3, "w")
    fenced = errors.FencedError("", epoch=3, owner="w", host="h")
    assert (fenced.epoch, fenced.owner, fenced.host) == (3, "w", "h")
    params = errors.InvalidParamsError("", path="$.params.x", expected="int")
    assert (params.path, params.expected) == ("$.params.x", "int")
    assert errors.InvalidParamsError("").path == "$.params"


def test_silence_is_worth_another_try_and_closing_is_not() -> None:
    assert errors.NoDaemonError.retryable
    assert errors.ConnectionLostError.retryable
    assert errors.RequestTimeoutError.retryable
    assert not errors.StoreClosedError.retryable


def test_they_are_also_what_python_calls_them() -> None:
    assert issubclass(errors.RequestTimeoutError, TimeoutError)
    assert issubclass(errors.ConnectionLostError, ConnectionError)
    assert issubclass(errors.DocumentError, ValueError)


def test_all_are_exported_by_the_package() -> None:
    ours = {name for name, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, Exception)}
    assert ours <= set(callstate_client.__all__)


def test_they_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(errors.ConflictError("m", version=3)))  # noqa: S301 - our own bytes
    assert (type(error), error.message, error.version) == (errors.ConflictError, "m", 3)
