from __future__ import annotations

from typing import Any

import pytest

from callstate_client.checks import FREE_DEPTH, check_free, check_session_id
from callstate_client.errors import DocumentError, InvalidParamsError


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
def test_what_can_be_kept(value: Any) -> None:
    check_free(value, "it")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), "it holds nan"),
        (float("-inf"), "it holds -inf"),
        (2**63, "beyond 64 bits"),
        (-(2**63) - 1, "beyond 64 bits"),
        (nested(FREE_DEPTH + 1), "nested deeper"),
        (endless(), "nested deeper"),
    ],
)
def test_what_can_not(value: Any, says: str) -> None:
    for wrapped in (value, [0, value, "x"], {"a": {}, "b": {"c": (value,)}}):
        with pytest.raises(DocumentError, match=says):
            check_free(wrapped, "it")


@pytest.mark.parametrize("bad", ["", "a b", "@a", "active", "a\n", "x" * 257, None, 7, ["a"], b"a"])
def test_what_is_no_session_id(bad: Any) -> None:
    for _ in range(2):  # known to be bad the second time
        with pytest.raises(InvalidParamsError):
            check_session_id(bad)
    check_session_id("a")
