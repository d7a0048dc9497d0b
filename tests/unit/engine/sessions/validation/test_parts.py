"""How much there is in a JSON text, counted without decoding it: against a count of what it decodes to."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callstate_client.engine.sessions.steps import finished
from callstate_client.engine.sessions.validation import parts
from callstate_client.engine.sessions.validation.parts import (
    WINDOW_BYTES,
    Marks,
    check_parts,
    count_parts,
    has_long_integer,
    parts_in_steps,
    running_marks,
)
from callstate_client.errors import TooLargeError

TEXTS = st.text(st.sampled_from('ab"\\[]{}:,1é\n'), max_size=8)
VALUES = st.recursive(
    st.none() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=20,
)


def counted(value: Any) -> Marks:
    """The same of a decoded value."""
    if isinstance(value, str):
        return Marks(strings=1)
    if not isinstance(value, dict | list):
        return Marks()
    members = len(value) if isinstance(value, dict) else 0
    found = Marks(1, members, max(len(value) - 1, 0), members)
    for inner in value.values() if isinstance(value, dict) else value:
        found = Marks(*map(sum, zip(found, counted(inner), strict=True)))
    return found


def has_long(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(has_long, value.values() if isinstance(value, dict) else value))
    return type(value) is int and not -(2**63) <= value < 2**63


def steps(work: Any) -> int:
    return sum(1 for _ in work)


@given(VALUES, st.integers(1, 9), st.booleans(), st.sampled_from([(",", ":"), (" , ", " : ")]))
def test_the_marks_of_any_text_are_those_of_what_it_decodes_to(
    value: Any, window: int, ascii_only: bool, separators: tuple[str, str]
) -> None:
    """Whatever its spelling, and wherever the windows end: within strings, and within escapes."""
    text = json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parts, "WINDOW_BYTES", window)
        assert [*running_marks(text)][-1] == counted(value)


def test_what_is_open_is_counted_where_a_text_is_cut_off() -> None:
    *_, marks = running_marks(b'{"a":[[1,{"b":"]}')
    assert marks.opened == 4


@given(VALUES, st.integers(1, 40))
def test_no_long_integer_is_overlooked(value: Any, window: int) -> None:
    text = json.dumps(value).encode()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parts, "WINDOW_BYTES", window)
        assert finished(has_long_integer(text)) or not has_long(value)


def test_digits_of_texts_are_no_integer() -> None:
    text = b'{"a":"%b","b":[12,13,14,15,16,17,18,19,20,21],"c":1}' % (b"9" * 50)
    assert finished(has_long_integer(text)) is False


@pytest.mark.parametrize(
    "item", [b'""', b'"["', b"[]", b"1", b'{"a":1}', b'"\\"["', b'"\\\\"', b" "], ids=lambda item: repr(item)[1:]
)
def test_a_step_looks_at_one_window_whatever_is_in_it(item: bytes) -> None:
    """Strings are removed by splitting at their quotes: of all of a text that took twenty milliseconds."""
    text = b"[%b]" % b",".join([item] * (1_000_000 // (len(item) + 1)))
    assert steps(running_marks(text)) >= len(text) // (WINDOW_BYTES + 1)
    assert steps(parts_in_steps(text, "$", len(text) - 1)) >= len(text) // (WINDOW_BYTES + 1)


def test_counting_ends_where_there_are_too_many() -> None:
    text = b"[%b]" % b",".join([b"[]"] * 300_000)
    done = 0
    with pytest.raises(TooLargeError, match=r"more than 10000 .* at \$\.x"):
        for _ in parts_in_steps(text, "$.x", 10_000):
            done += 1
    assert done <= 1
    with pytest.raises(TooLargeError):
        check_parts(text, "$.x", 10_000)


def test_ten_values_of_an_array_count_as_one_part() -> None:
    assert count_parts(b"[%b]" % b",".join([b"1"] * 100)) == 1 + 9
    assert count_parts(b'{"a":{"b":1}}') == 4
    assert count_parts(b"") == 0
