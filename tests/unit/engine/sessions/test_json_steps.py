"""Long JSON texts are split and checked in steps as they are at once, wherever the pieces end."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callstate_client.engine.sessions import json_steps
from callstate_client.engine.sessions.json_steps import (
    check_in_steps,
    check_string,
    check_utf8,
    members_in_steps,
    without_long_strings,
)
from callstate_client.engine.sessions.steps import finished
from callstate_client.model import go_json

T = TypeVar("T")

TEXTS = st.text(st.sampled_from('ab"\\\n{}[],:é😀 '), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**19) | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=30,
)


@pytest.fixture(params=[(8, 16), (64, 32)], ids=str)
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short windows, and pieces that have room for one pair of surrogates."""
    window, piece = request.param
    monkeypatch.setattr(json_steps, "WINDOW_BYTES", window)
    monkeypatch.setattr(json_steps, "PIECE_BYTES", piece)
    monkeypatch.setattr(json_steps, "UTF8_BYTES", piece)


@pytest.fixture
def narrow(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows in which no string is long."""
    monkeypatch.setattr(json_steps, "WINDOW_BYTES", 8)


def spelled(value: Any, ascii_only: bool, indent: int | None) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()


def count(steps: Generator[None, None, T]) -> int:
    return sum(1 for _ in steps)


def is_json(text: bytes) -> bool:
    try:
        go_json.decode_any(text)
    except ValueError:
        return False
    return True


def is_checked(text: bytes) -> bool:
    try:
        finished(check_in_steps(text))
    except ValueError:
        return False
    return True


@pytest.mark.usefixtures("small")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_what_is_json_passes(value: Any, ascii_only: bool, indent: int | None) -> None:
    finished(check_in_steps(spelled(value, ascii_only, indent)))


@pytest.mark.usefixtures("small")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    VALUES, st.integers(0), st.sampled_from([b"", *(bytes([each]) for each in b'[]{},:"\\ 1xu\n')]), st.booleans()
)
def test_damage_is_found(value: Any, at: int, instead: bytes, ascii_only: bool) -> None:
    text = spelled(value, ascii_only, None)
    at %= len(text)
    damaged = text[:at] + instead + text[at + 1 :]
    try:
        damaged.decode()
    except UnicodeDecodeError:
        return
    assert is_checked(damaged) is is_json(damaged)


@pytest.mark.usefixtures("small")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(TEXTS, VALUES, max_size=5), st.booleans(), st.sampled_from([None, 1]))
def test_members_are_found(value: dict[str, Any], ascii_only: bool, indent: int | None) -> None:
    text = spelled(value, ascii_only, indent)
    found = [(go_json.decode(name), text[start:end]) for name, start, end in finished(members_in_steps(text))]
    assert found == go_json.members(text)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "text",
    [b"", b" ", b"[]", b"7", b"{", b"}", b'{"a":1', b'{"a":1}}', b'{"a":1}{', b'{"a":1},{"b":2}', b'{"a":1,}',
     b"{,}", b'{"a"}', b'{"a" 1}', b"{a:1}", b'x{"a":1}', b'{"a":1}x', b'{"a":"', b'{"a', b'{"a":1,"b'],
)  # fmt: skip
def test_what_is_no_object_has_no_members(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"object|name|end"):
        finished(members_in_steps(text))


@pytest.mark.usefixtures("small")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["a", "é", "😀", "\\n", "\\\\", '\\"', "\\u00e9", "\\ud83d\\ude00", "\\u0000"])))
def test_escapes_and_characters_are_not_cut(parts: list[str]) -> None:
    text = f'"{"".join(parts)}"'.encode()
    finished(check_string(text, 0, len(text)))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "wrong", ["\\x", "\\u12", "\\ud83d", "\\ude00", "\\ud83d\\ud83d", "\\ud83dx", "\n", "\\u00eg"]
)
@pytest.mark.parametrize("before", ["", "a" * 7, "\\\\" * 9])
@pytest.mark.parametrize("after", ["", "z" * 9])
def test_a_string_with_a_wrong_escape_is_refused(wrong: str, before: str, after: str) -> None:
    text = f'"{before}{wrong}{after}"'.encode()
    with pytest.raises(ValueError, match=r"JSON|escape|character|surrogate|truncated"):
        finished(check_string(text, 0, len(text)))


@pytest.mark.usefixtures("small")
def test_bytes_that_are_not_utf8_are_refused() -> None:
    finished(check_utf8("é😀".encode() * 50))
    for wrong in (b"\xff", "é".encode()[:1]):
        with pytest.raises(UnicodeDecodeError):
            finished(check_utf8("é".encode() * 50 + wrong))


@pytest.mark.usefixtures("narrow")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUES, st.booleans())
def test_all_but_long_strings_stays(value: Any, ascii_only: bool) -> None:
    text = spelled(value, ascii_only, None)
    short = finished(without_long_strings(text))
    assert _marked(json.loads(short)) == _marked(json.loads(text), ascii_only)


def _marked(value: Any, ascii_only: bool | None = None) -> Any:
    """A value with a mark for each string that is long as it is written, or is the stand-in for one."""
    if isinstance(value, str):
        is_long = ascii_only is not None and len(spelled(value, ascii_only, None)) > json_steps.PIECE_BYTES
        return "long" if is_long or value == json.loads(json_steps.STAND_IN) else value
    if isinstance(value, dict):
        return {_marked(name, ascii_only): _marked(each, ascii_only) for name, each in value.items()}
    if isinstance(value, list):
        return [_marked(each, ascii_only) for each in value]
    return value


def test_nesting_beyond_gos_is_refused() -> None:
    depth = go_json.GO_DEPTH
    finished(check_in_steps(b"[" * depth + b"]" * depth))
    with pytest.raises(ValueError, match="nested deeper"):
        finished(check_in_steps(b"[" * (depth + 1) + b"]" * (depth + 1)))


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"[1],{}," * 200_000 + b"1]",
        b'{"a":"' + rb"\n\u00e9" * 200_000 + b'"}',
        b'{"a":' + b" " * 10**6 + b"1}",
    ],
    ids=["containers", "escapes", "spaces"],
)
def test_a_megabyte_takes_many_steps(text: bytes) -> None:
    assert count(check_in_steps(text)) > len(text) // (2 * json_steps.PIECE_BYTES)
