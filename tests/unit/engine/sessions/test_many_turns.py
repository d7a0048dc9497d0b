"""Turns of one request that are checked in steps: as all at once, and piece by piece."""

from __future__ import annotations

from typing import Any

import pytest

from callstate_client.engine.sessions.many_turns import (
    LONG_BYTES,
    MANY,
    MOST_TURNS,
    PIECE_BYTES,
    Checked,
    are_many,
    check_many,
    check_some,
)
from callstate_client.engine.sessions.validation.turns import TURN_PARTS, check_turns
from callstate_client.errors import InvalidParamsError, ParseError, TooLargeError

PATH = "$.params.turns"
PLAIN = b'{"role":"user","content":"{[,]} \\"x\\"","timestamp":"2026-01-01T00:00:00Z","duration_ms":7}'
NESTED = b'{"role":"tool","tool_calls":[{"id":"a","function":{"arguments":"{}"}},{}],"x":{"y":[1,2]}}'
LONG = b'{"content":"%b"}' % (b"x[{" * PIECE_BYTES)


def checked(turns: list[bytes], first: int = 0) -> tuple[int, list[Checked]]:
    """How many steps it takes, and the result."""
    steps = check_many(b" , ".join(turns), PATH, first)
    number = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return number, end.value
        number += 1


@pytest.mark.parametrize(
    "turns", [[PLAIN] * 2000, [NESTED] * 1000, [PLAIN, LONG, NESTED] * 50, [b"{}"] * 5000, [LONG]], ids=len
)
def test_pieces_together_are_what_was_given(turns: list[bytes]) -> None:
    steps, pieces = checked(turns)
    assert b",".join(piece for piece, _ in pieces) == b" , ".join(turns)
    contents = [turn.content for text in turns for turn in check_turns(b"[%b]" % text, PATH)]
    assert [turn.content for _, some in pieces for turn in some] == contents
    assert all(len(piece) <= 2 * PIECE_BYTES or len(some) == 1 for piece, some in pieces)
    assert steps >= len(pieces)


@pytest.mark.parametrize("first", [0, 500])
@pytest.mark.parametrize(
    ("bad", "place", "error"),
    [
        (b'{"role":7}', ".role", InvalidParamsError),
        (b"7", "", InvalidParamsError),
        (b'{"timestamp":"yesterday"}', ".timestamp", InvalidParamsError),
        (b'{"ROLE":"user"}', ".ROLE", InvalidParamsError),
        (b'{"x":%b1%b}' % (b"[" * 70, b"]" * 70), None, ParseError),
    ],
)
def test_an_error_has_the_place_in_all_of_them(bad: bytes, place: str | None, error: type[Any], first: int) -> None:
    turns = [PLAIN] * 700 + [bad] + [PLAIN] * 700
    with pytest.raises(error) as raised:
        checked(turns, first)
    if place is not None:
        assert f"{PATH}[{700 + first}]{place}" in raised.value.message
        assert raised.value.data["path"] == f"{PATH}[{700 + first}]{place}"


def test_there_are_limits() -> None:
    assert len(checked([b"{}"] * MOST_TURNS)[1]) > 1
    with pytest.raises(TooLargeError):
        checked([b"{}"] * (MOST_TURNS + 1))
    with pytest.raises(TooLargeError):
        check_some(b'{"x":[%b]}' % b",".join([b"{}"] * TURN_PARTS), PATH)
    check_some(b'{"content":"%b","x":1}' % (b"{[:" * TURN_PARTS), PATH)


def test_what_is_usual_is_checked_at_once() -> None:
    assert not are_many(b",".join([b'{"content":"hello"}'] * MANY))
    assert are_many(b",".join([b"{}"] * (MANY + 1)))
    assert are_many(b'{"content":"%b"}' % (b"x" * LONG_BYTES))
