"""The turns of one request, checked in steps if they are many. Pure: no I/O.

A line may have ten thousand turns, or one that is a megabyte long. They are cut at commas, and each piece is
checked by itself: other clients need not wait for all of them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Generator
from typing import Final

from callstate_client.engine.sessions.tail import cut_run
from callstate_client.engine.sessions.validation.parts import parts_in_steps
from callstate_client.engine.sessions.validation.turns import TURNS_PARTS, IncomingTurn, check_turns
from callstate_client.engine.sessions.validation.values import shortened_in_steps
from callstate_client.errors import InvalidParamsError, ParseError, TooLargeError

LONG_BYTES: Final = 64 * 1024
"""Longer texts are checked in steps."""

MANY: Final = 300
"""So are those with more objects: empty turns take three bytes, and as long to check as others."""

PIECE_BYTES: Final = 2048
"""Bytes checked in one step: up to 700 turns, in two milliseconds if each has to be completed."""

MOST_TURNS: Final = 20_000
"""Turns in one request. A line has room for 15,000 with all of their members."""

Checked = tuple[bytes, list[IncomingTurn]]
"""Turns, comma-joined without brackets, and decoded, perhaps without long texts."""


def are_many(turns: bytes) -> bool:
    """Whether turns are to be checked in steps."""
    return len(turns) > LONG_BYTES or (len(turns) > 2 * MANY and turns.count(b"{") > MANY)


def check_some(turns: bytes, path: str, first: int = 0) -> list[IncomingTurn]:
    """Validate and decode turns.

    Args:
        turns: comma-joined, no brackets.
        path: of their array, for errors.
        first: the index of the first one in it.

    Raises:
        InvalidParamsError, ParseError: a turn is invalid; the error has its path.
        TooLargeError: there are too many, or one has too many members.
    """
    try:
        return check_turns(b"[%b]" % turns, path)
    except (InvalidParamsError, ParseError) as error:
        if not first:
            raise
        place = _moved(str(error.data.get("path", path)), path, first)
        raise type(error)(
            _moved(error.message, path, first), path=place, expected=error.data.get("expected")
        ) from error


def check_many(turns: bytes, path: str, first: int = 0) -> Generator[None, None, list[Checked]]:
    """As `check_some`, in steps: the turns are JSON whose values are not checked yet."""
    yield from parts_in_steps(turns, path, TURNS_PARTS)
    pieces = yield from cut_run(turns, sys.maxsize, PIECE_BYTES)
    checked: list[Checked] = []
    number = 0
    for piece, _ in pieces:
        short = yield from shortened_in_steps(piece, path)
        some = check_some(short, path, first + number)
        number += len(some)
        if number > MOST_TURNS:
            raise TooLargeError(f"more than {MOST_TURNS} turns at {path}", path=path)
        checked.append((piece, some))
        yield
    return checked


def _moved(text: str, path: str, by: int) -> str:
    """A text with the indexes behind a path raised."""
    return re.sub(rf"(?<={re.escape(path)}\[)\d+(?=\])", lambda index: str(int(index[0]) + by), text)
