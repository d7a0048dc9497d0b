"""How much there is in a JSON text: counted without decoding it, so that too much is refused before anything does.

The characters that structure a text are counted outside of its strings, in windows: each takes a fraction of a
millisecond whatever is in it, and the caller stops once it has counted enough. Pure.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Final, NamedTuple

from msgspec import Raw

from callstate_client.engine.sessions.steps import finished
from callstate_client.errors import TooLargeError

WINDOW_BYTES: Final = 32 * 1024
"""Looked at in one step."""

DIGITS_TO_0: Final = bytes.maketrans(b"123456789", b"000000000")
"""For `bytes.translate`: of all digits then only 0 is left, so that a number or a time can be found by its form."""

BACKSLASH: Final = ord("\\")
"""Searched for before an escape: one byte is found ten times as fast as several, and few turns have any."""

LONG_INTEGER: Final = b"0" * 19
"""The fewest digits of an integer beyond 64 bits, each made 0."""

_NOT_COUNTED: Final = bytes(set(range(256)) - set(b'"{[:,]}'))
_NOT_DIGITS: Final = bytes(set(_NOT_COUNTED) - set(b"0123456789"))


class Marks(NamedTuple):
    """What a text has, or the beginning of one.

    Args:
        containers: objects and arrays.
        members: members of objects.
        commas: between members, and between values of arrays.
        strings: names of members included.
        opened: objects and arrays that are not closed.
    """

    containers: int = 0
    members: int = 0
    commas: int = 0
    strings: int = 0
    opened: int = 0

    @property
    def parts(self) -> int:
        """Objects, arrays and members, each of which costs up to a microsecond once it is decoded; ten values of an
        array count as one."""
        return self.containers + self.members + self.commas // 10


def running_marks(text: bytes) -> Iterator[Marks]:
    """What a text has up to the end of each window; of one that is not JSON, something."""
    containers = members = commas = quotes = closed = 0
    for outside, quoted in _outside_strings(text, _NOT_COUNTED):
        containers += outside.count(b"{") + outside.count(b"[")
        members += outside.count(b":")
        commas += outside.count(b",")
        quotes += quoted
        closed += outside.count(b"}") + outside.count(b"]")
        yield Marks(containers, members, commas, quotes // 2, containers - closed)


def has_long_integer(text: bytes) -> Generator[None, None, bool]:
    """Whether a text may have an integer beyond 64 bits; certainly, if it has."""
    before = b""
    for outside, _ in _outside_strings(text, _NOT_DIGITS):
        digits = before + outside.translate(DIGITS_TO_0)
        if LONG_INTEGER in digits:
            return True
        before = digits[-len(LONG_INTEGER) :]
        yield
    return False


def _outside_strings(text: bytes, others: bytes) -> Iterator[tuple[bytes, int]]:
    """What is outside of strings but for `others`, and the number of quotes, of each window."""
    at, inside = 0, 0
    while at < len(text):
        window = text[at : at + WINDOW_BYTES]
        if BACKSLASH in window:
            backslashes = len(window) - len(window.rstrip(b"\\"))
            if backslashes % 2:  # what it escapes belongs to it
                window = text[at : at + WINDOW_BYTES + 1]
            at += len(window)
            window = window.replace(b"\\\\", b"").replace(b'\\"', b"")
        else:
            at += len(window)
        window = window.translate(None, others)
        quotes = window.count(b'"')
        pieces = window.replace(b'""', b"").split(b'"')  # empty now, or side by side: what is outside stays
        yield b"".join(pieces[inside::2]), quotes
        inside = (inside + quotes) % 2


def count_parts(text: bytes) -> int:
    """How many parts (`Marks.parts`) a JSON text has."""
    marks = Marks()
    for marks in running_marks(text):  # noqa: B007 - the last ones
        pass
    return marks.parts


def check_parts(data: bytes | Raw, path: str, most: int) -> None:
    """Like `parts_in_steps`, in one go."""
    if len(data) > most:
        finished(parts_in_steps(data, path, most))


def parts_in_steps(data: bytes | Raw, path: str, most: int) -> Generator[None]:
    """Refuse JSON of too many objects, arrays and members, before it is decoded.

    Raises:
        TooLargeError: there are more than `most`.
    """
    text = bytes(data)
    if len(text) <= most:
        return
    for marks in running_marks(text):
        if marks.parts > most:
            raise TooLargeError(f"more than {most} objects, arrays and members at {path}", path=path)
        yield
