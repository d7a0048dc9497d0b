"""What is passed through comes back as it is, or is refused."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import msgspec
import pytest

from callstate_client.errors import DocumentError
from callstate_client.model import free_values
from callstate_client.model.free_values import struct_members
from callstate_client.requests.validation import FREE_DEPTH, check_free


class Color(StrEnum):
    RED = "red"


def nested(depth: int) -> Any:
    value: Any = "x"
    for n in range(depth):
        value = [value, 1] if n % 2 else {"a": value, "b": None}
    return value


def endless() -> Any:
    value: list[Any] = []
    value += [value, value]
    return value


@pytest.mark.parametrize("value", [None, "x", 0, True, 1.5, [], {}, (1,), 2**63 - 1, -(2**63), nested(FREE_DEPTH)])
def test_storable_values_are_accepted(value: Any) -> None:
    check_free(value, "it")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), r"^it.* is nan"),
        (float("-inf"), "is -inf"),
        (2**63, "beyond 64 bits"),
        (-(2**63) - 1, "beyond 64 bits"),
        (nested(FREE_DEPTH + 1), "nested deeper"),
        (endless(), "nested deeper"),
    ],
)
def test_unstorable_values_are_refused(value: Any, says: str) -> None:
    for wrapped in (value, [0, value, "x"], {"a": {}, "b": {"c": (value,)}}):
        with pytest.raises(DocumentError, match=says):
            check_free(wrapped, "it")


class Step(msgspec.Struct, omit_defaults=True):
    node: str = "menu"
    since: datetime | None = None


@dataclass
class Path:
    steps: list[Step]


@pytest.mark.parametrize("value", [Step(), Path([Step("x", datetime(2026, 1, 2, tzinfo=UTC))]), Color.RED])
def test_types_that_are_read_again_as_what_they_are(value: Any) -> None:
    check_free({"a": [value]}, "it")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"x", r"^recovery_data\.a\[1\] is of type bytes"),
        ({1}, r"^recovery_data\.a\[1\] is of type set"),
        (datetime(2026, 1, 2, tzinfo=UTC), r"^recovery_data\.a\[1\] is of type datetime"),
        (Decimal("1.5"), r"^recovery_data\.a\[1\] is of type Decimal"),
        (uuid.UUID(int=1), r"^recovery_data\.a\[1\] is of type UUID"),
        (object(), r"^recovery_data\.a\[1\] is of type object"),
        (Step, r"^recovery_data\.a\[1\] is of type StructMeta"),
        ({"b": {7: "x"}}, r"^recovery_data\.a\[1\]\.b has a key that is not a string"),
        (float("nan"), r"^recovery_data\.a\[1\] is nan"),
        (2**63, r"^recovery_data\.a\[1\] is an integer beyond"),
        (Step(object()), r"^recovery_data\.a\[1\] has a value that JSON can't say"),  # type: ignore[arg-type]
        (msgspec.Raw(b"{bad"), r"^recovery_data\.a\[1\] is Raw that is not JSON on one line"),
        (msgspec.Raw(b'{\n"a":1}'), r"^recovery_data\.a\[1\] is Raw that is not JSON on one line"),
        (msgspec.Raw(b""), r"^recovery_data\.a\[1\] is Raw that is not JSON on one line"),
        (msgspec.Raw(b'"\xff"'), r"^recovery_data\.a\[1\] is Raw that is not JSON on one line"),
        (msgspec.Raw(b"[9223372036854775808]"), "is an integer beyond"),
        (msgspec.Raw(b"[" * 60 + b"]" * 60), "nested deeper"),
    ],
)
def test_values_that_would_change_in_json_are_refused_by_their_path(value: Any, says: str) -> None:
    with pytest.raises(DocumentError, match=says):
        check_free({"x": 1, "a": ["x", value]}, "recovery_data")


def test_raw_is_written_as_it_is() -> None:
    check_free({"a": msgspec.Raw(b'{"b": [1, null, "x"]}')}, "it")


def test_a_struct_that_contains_itself_is_refused() -> None:
    step = Step()
    step.node = step  # type: ignore[assignment]
    with pytest.raises(DocumentError, match=r"^it\.a has a value that JSON can't say"):
        check_free({"a": step}, "it")


def dicts(depth: int, inner: Any = "x") -> Any:
    for _ in range(depth):
        inner = {"a": inner, "b": 1, "c": None, "d": True}
    return inner


def test_dicts_of_plain_values_have_the_same_bounds() -> None:
    """They are what is saved most, and are looked at once; all else, and what is refused, part by part."""
    itself: dict[str, Any] = {}
    itself["a"] = itself
    assert free_values._is_usual(dicts(FREE_DEPTH), FREE_DEPTH)
    check_free(dicts(FREE_DEPTH), "it")
    for value, says in (
        (dicts(FREE_DEPTH + 1), "nested deeper"),
        (itself, "nested deeper"),
        (dicts(2, 2**63), r"^it\.a\.a is an integer beyond"),
        (dicts(2, {7: "x"}), r"^it\.a\.a has a key that is not a string"),
        (dicts(2, b"x"), r"^it\.a\.a is of type bytes"),
    ):
        with pytest.raises(DocumentError, match=says):
            check_free(value, "it")


class Name(str):
    """A text of a type of its own, as of an enum."""


def test_keys_may_be_texts_of_any_type_and_nothing_else() -> None:
    check_free({"a": {Name("b"): "x", "c": Name("d")}, Name("e"): {}}, "it")
    for other in (7, None, b"x", ("x",)):
        with pytest.raises(DocumentError, match="has a key that is not a string"):
            check_free({"a": {Name("b"): "x", other: "y"}}, "it")


def test_a_structs_members_are_all_there() -> None:
    assert struct_members(Step()) == {"node": "menu", "since": None}
    assert struct_members(Path([Step()])) == {"steps": [{}]}


def test_a_store_takes_integers_of_any_size_and_deeper_nesting() -> None:
    for value in (
        2**64,
        -(10**400),
        nested(FREE_DEPTH + 1),
        nested(2000),
        dicts(2000),
        msgspec.Raw(b"[1%b]" % (b"0" * 30)),
    ):
        free_values.check_free({"a": value}, "it", 2001, int64=False)
    for value, says in (
        (nested(2001), "nested deeper than 2001"),
        (endless(), "nested deeper than 2001"),
        (dicts(2000, float("nan")), "is nan"),
        (dicts(60, {1}), "is of type set"),
    ):
        with pytest.raises(DocumentError, match=says):
            free_values.check_free({"a": value}, "it", 2001, int64=False)
