"""Find the last turns of a long run without parsing the earlier ones. Pure.

Turns are kept as comma-separated JSON objects. Splitting a run of megabytes, such as a transcript saved at once or
read back from the journal, takes tens of milliseconds, and most requests want only its end.

A turn begins at a `{` from which the rest parses as a list of objects. From a `{` inside a turn, more brackets are
closed than opened; from one inside a string, the number of remaining quotes is odd, which swaps the inside and the
outside of strings.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

import msgspec
from msgspec import Raw

from callstate_client.engine.sessions.json_steps import marks
from callstate_client.model import go_json

WINDOW_BYTES: Final = 4096
"""The first window for a few turns; quadrupled until it holds enough."""

TURN_BYTES: Final = 256
"""A typical turn's size."""

TRIES: Final = 32
"""How many `{` of a window are tried before the whole run is split: a turn may contain thousands."""

_COMMA: Final = ord(",")

cut: Final = msgspec.json.Decoder(list[Raw]).decode


def last_turns(turns: bytes, count: int) -> tuple[int, list[bytes]]:
    """Return the last turns of a run.

    Args:
        turns: comma-joined, no brackets.
        count: how many are wanted.

    Returns:
        the offset of the first turn returned, and the turns: at least `count`, or all.
    """
    window = max(WINDOW_BYTES, TURN_BYTES * count)
    while window < len(turns):
        found = _within(turns, len(turns) - window)
        if found is None:
            break
        if len(found[1]) >= count:
            return found
        window *= 4
    return 0, go_json.raw_list(b"[%b]" % turns)


def _within(turns: bytes, start: int) -> tuple[int, list[bytes]] | None:
    """The turns that begin at or after this offset; None if TRIES attempts don't find one."""
    for _ in range(TRIES):
        start = turns.find(b"{", start)
        if start < 0:
            return len(turns), []
        try:
            return start, [bytes(part) for part in cut(b"[%b]" % turns[start:])]
        except msgspec.DecodeError:
            start += 1
        except RecursionError:
            return None
    return None


def cut_run(
    turns: bytes, count: int, piece_bytes: int, begin: int = 0, end: int | None = None
) -> Generator[None, None, list[tuple[bytes, int]]]:
    """Cut a run at commas between turns, in steps; returns the pieces, and how many turns each has.

    Args:
        turns: comma-joined, no brackets.
        count: how many there are.
        piece_bytes: about how long the pieces are to be.
        begin, end: where the turns are in the text; by default they are all of it.
    """
    pieces: list[tuple[bytes, int]] = []
    end, left = len(turns) if end is None else end, count
    while end - begin > piece_bytes and left > 1:
        found = yield from _before(turns, end, piece_bytes)
        if found is None:
            break
        start, number = found
        comma = turns.rfind(b",", begin, start)
        if comma < 0:
            break
        pieces.append((turns[comma + 1 : end], number))
        end, left = comma, left - number
        yield
    else:
        pieces.append((turns[begin:end], left))
        return pieces[::-1]
    # turns that are longer than a piece, or whose texts are full of brackets
    return (yield from _cut_from_start(turns, left, piece_bytes, begin, end)) + pieces[::-1]


def _before(turns: bytes, end: int, size: int) -> Generator[None, None, tuple[int, int] | None]:
    """Where the first turn within so many bytes before an end begins, and the number of turns from there on."""
    start = end - size
    for _ in range(TRIES):
        start = turns.find(b"{", start, end)
        if start < 0:
            return None
        try:
            return start, len(cut(b"[%b]" % turns[start:end]))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            start += 1
            yield
    return None


def _cut_from_start(
    turns: bytes, count: int, piece_bytes: int, begin: int, last: int
) -> Generator[None, None, list[tuple[bytes, int]]]:
    """As `cut_run`, bracket by bracket: slower, and it finds every comma between turns."""
    pieces: list[tuple[bytes, int]] = []
    depth = number = 0
    start = first = begin  # where the piece begins, and the turn
    for mark in marks(turns, begin, last):
        if mark is None:
            yield
            continue
        byte, at, end = mark
        if byte in b"{[":
            depth += 1
        elif byte in b"}]":
            depth -= 1
        elif byte == _COMMA and not depth:
            if at - start > piece_bytes and number:  # a long turn gets a piece of its own
                pieces.append((turns[start : first - 1], number))
                start, number = first, 0
            number, first = number + 1, end
            if at - start >= piece_bytes:
                pieces.append((turns[start:at], number))
                start, number = first, 0
    if last - start > piece_bytes and number:
        pieces.append((turns[start : first - 1], number))
        start = first
    pieces.append((turns[start:last], count - sum(each for _, each in pieces)))
    return pieces
