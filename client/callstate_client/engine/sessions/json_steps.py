"""JSON texts of megabytes, split and checked in steps: each takes msgspec milliseconds. Pure: no I/O.

A text is checked in pieces, cut at commas, however deep. A piece is made a text of its own by opening the brackets
that it closes, and closing those that it leaves open:

    {"a":[1,2,3],"b":4}    cut at the second comma:    {"a":[1,2]} and {"":[3],"b":4}

A string that is long is checked by itself, in pieces too, and read as `""` where it was.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Generator, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from callstate_client.model import go_json

PIECE_BYTES: Final = 32 * 1024
"""About how long a piece is: a quarter of a millisecond."""

WINDOW_BYTES: Final = 2048
"""How far marks are looked for in one step: there may be one at each byte."""

STAND_IN: Final = b'"%b"' % (b"x" * 4096)
"""What a long string is read as where its length may matter: too long for any member that has a bound."""

MEMBERS_A_STEP: Final = 500
"""Members of an object taken apart in one step."""

UTF8_BYTES: Final = 256 * 1024
"""Bytes decoded in one step, in the same time."""

Mark = tuple[int, int, int]
"""A bracket, comma or string: its first byte, where it begins, and where it ends."""

_QUOTE, _COMMA, _COLON, _BACKSLASH, _U = b'",:\\u'
_CLOSERS: Final = {ord("["): ord("]"), ord("{"): ord("}")}
_SPACE: Final = b" \t\n\r"
_AFTER_SPACE: Final = re.compile(rb"[ \t\n\r]*+")
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_NO_BRACKETS: Final = rb'(?:[^\[\]{}"]++|' + _STRING + rb")*+"
_MARK: Final = re.compile(  # flat objects and arrays as a whole: most of what there is
    rb"%b|\{%b\}|\[%b\]|[\"\[\]{},]" % (_STRING, _NO_BRACKETS, _NO_BRACKETS), re.DOTALL
)
_NAME: Final = re.compile(_STRING, re.DOTALL)
_INSIDE: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_HIGH: Final = re.compile(rb"\\u[dD][89abAB]")
_decode: Final = msgspec.json.decode


def marks(text: bytes, at: int = 0, last: int | None = None, flat: Sequence[object] = ()) -> Iterator[Mark | None]:
    """The brackets and commas of a JSON text, and the strings longer than WINDOW_BYTES, but those in objects and
    arrays that are shorter and have none in them; and some more of these. None after each step.

    Args:
        text: JSON, which is not checked.
        at, last: the part of it that is wanted.
        flat: while there is something in it, short objects and arrays without others in them are yielded too.

    Raises:
        ValueError: a string does not end.
    """
    last = len(text) if last is None else last
    while at < last:
        until = min(at + WINDOW_BYTES, last)
        for found in _MARK.finditer(text, at, until):
            start, end = found.span()
            first = text[start]
            if end > start + 1:
                if flat and first != _QUOTE:
                    yield first, start, end
                continue
            if first == _QUOTE:  # it reaches beyond the window
                until = end = yield from _string_end(text, start)
            yield first, start, end
            if first == _QUOTE:
                break
        at = until
        yield None


def _string_end(text: bytes, start: int) -> Generator[None, None, int]:
    """Where a string ends."""
    at = start + 1
    while at < len(text):
        quote = text.find(_QUOTE, at, at + PIECE_BYTES)
        until = at + PIECE_BYTES if quote < 0 else quote
        if text.find(_BACKSLASH, at, until) < 0:
            if quote >= 0:
                return quote + 1
            at = until
            yield
            continue
        found = _INSIDE.match(text, at, at + PIECE_BYTES)
        end = at if found is None else found.end()
        if end < len(text) and text[end] == _QUOTE:
            return end + 1
        if end == at:
            break
        at = end
        yield
    raise ValueError(f"the string at byte {start} does not end")


def check_utf8(text: bytes) -> Generator[None]:
    """Raise UnicodeDecodeError, a ValueError, if a text is not UTF-8."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    for start in range(0, len(text), UTF8_BYTES):
        decode(text[start : start + UTF8_BYTES])
        yield
    decode(b"", final=True)


class Member(NamedTuple):
    """A member of an object in a text: its name, as it is written, and where its value is."""

    name: bytes
    start: int
    end: int


def members_in_steps(text: bytes) -> Generator[None, None, list[Member]]:
    """The members of an object in order, repeated ones too. Whether their values are JSON is not checked.

    Raises:
        ValueError: it is not an object.
    """
    start = _behind_space(text, 0) + 1
    if text[start - 1 : start] != b"{":
        raise ValueError("Expected `object`")
    depth, spans = 1, list[tuple[int, int]]()
    for mark in marks(text, start):
        if mark is None:
            yield
            continue
        byte, at, end = mark
        if byte in b"[{":
            depth += 1
        elif byte in b"]}":
            depth -= 1
        if not depth or (depth == 1 and byte == _COMMA):
            spans.append((start, at))
            start = end
        if not depth:
            break
    if depth or text[start - 1] != ord("}") or text[start:].strip(_SPACE):
        raise ValueError("Expected `object`")
    if len(spans) == 1 and _behind_space(text, spans[0][0]) >= spans[0][1]:
        return []
    spans.reverse()
    members: list[Member] = []
    while spans:
        members.append(_member(text, *spans.pop()))
        if not len(members) % MEMBERS_A_STEP:
            yield
    return members


def _member(text: bytes, first: int, last: int) -> Member:
    """The member in a part of a text."""
    name = _NAME.match(text, _behind_space(text, first), last)
    if name is None:
        raise ValueError("a member without a name")
    at = _behind_space(text, name.end())
    if text[at] != _COLON:
        raise ValueError("a name without a colon")
    while last > at and text[last - 1] in _SPACE:
        last -= 1
    return Member(name[0], min(_behind_space(text, at + 1), last), last)


def _behind_space(text: bytes, at: int) -> int:
    found = _AFTER_SPACE.match(text, at)
    return at if found is None else found.end()


def check_in_steps(text: bytes, outer: int = 0) -> Generator[None]:
    """Check that Go can read a JSON text, which is UTF-8.

    Args:
        text: the text.
        outer: in how many objects and arrays it is.

    Raises:
        ValueError: it is not JSON, has a lone surrogate or a number out of range, or is nested too deep.
    """
    piece = _Piece(b"")
    stack = bytearray()
    deepest: list[int] = []
    """What is open at the greatest depth that there may be: nothing may be in it, be it flat."""
    for mark in marks(text, flat=deepest):
        if mark is None:
            yield
            continue
        byte, start, end = mark
        if byte in b"[{":
            if deepest:
                raise ValueError(f"nested deeper than {go_json.GO_DEPTH}")
            stack.append(byte)
            if len(stack) + outer >= go_json.GO_DEPTH:
                deepest.append(byte)
        elif byte in b"]}":
            if not stack or _CLOSERS[stack.pop()] != byte:
                raise ValueError("a closing bracket without an opening one")
            deepest.clear()
            piece.low = min(piece.low, len(stack))
        elif byte == _QUOTE:
            if end - start > PIECE_BYTES:
                piece.take(text, start, b'""', end)
                yield from check_string(text, start, end)
        elif stack and start - piece.start > PIECE_BYTES:
            piece.take(text, start, b"", end)
            piece.check(bytes(stack))
            following = _behind_space(text, end)
            if text[following : following + 1] in b"]},":
                raise ValueError(f"nothing follows the comma at byte {start}")
            piece = _Piece(bytes(stack), end)
            yield
    if stack:
        raise ValueError("the text ends too early")
    piece.take(text, len(text), b"", len(text))
    piece.check(bytes(stack))


class _Piece:
    """Some of a text.

    Args:
        opened: the brackets that are open where it begins.
        start: where that is.
    """

    def __init__(self, opened: bytes, start: int = 0) -> None:
        self.start = start
        self.low = len(opened)
        """The fewest brackets that were open within it."""
        self._opened = opened
        self._parts: list[bytes] = []
        self._taken = start

    def take(self, text: bytes, until: int, instead: bytes, end: int) -> None:
        """Add the text from where the last part ended; what follows up to an end is read as something else."""
        self._parts += (text[self._taken : until], instead)
        self._taken = end

    def check(self, stack: bytes) -> None:
        """Decode it. `stack`: the brackets that are open behind it."""
        text = b"".join(self._parts)
        if text.rstrip(_SPACE)[-1:] in b"[{,:" and stack:
            raise ValueError("a comma follows nothing")
        outer = max(self.low - 1, 0)
        opening = b"".join(b"[" if each == ord("[") else b'{"":' for each in self._opened[outer:])
        if self._opened[outer:].endswith(b"{"):
            opening = opening[: -len(b'"":')]
        closing = bytes(_CLOSERS[each] for each in reversed(stack[outer:]))
        go_json.decode_any(b"%b%b%b" % (opening, text, closing))


def check_string(text: bytes, start: int, end: int) -> Generator[None]:
    """Check a string in a text that is UTF-8.

    Raises:
        ValueError: it has an escape that is none, or a lone surrogate.
    """
    at, last = start + 1, end - 1
    while at < last:
        until = min(at + PIECE_BYTES, last)
        if until < last:
            until = _between(text, at, until)
        try:
            _decode(b'"%b"' % text[at:until])
        except msgspec.MsgspecError as error:
            raise ValueError(str(error)) from error
        at = until
        yield


def _between(text: bytes, at: int, until: int) -> int:
    """The last place between two characters of a string, and not within an escape or a pair of surrogates.

    Args:
        text: has the string.
        at: such a place, more than 12 bytes before `until`.
        until: where to look from.
    """
    while text[until] & 0xC0 == 0x80:
        until -= 1
    for start in range(until - 1, until - 6, -1):
        if _begins_escape(text, at, start):
            if start + (6 if text[start + 1] == _U else 2) > until:
                until = start
            break
    if _HIGH.match(text, until - 6, until) and _begins_escape(text, at, until - 6):
        until -= 6
    return until


def _begins_escape(text: bytes, at: int, start: int) -> bool:
    """Whether an escape begins at a place, in a string of which another one is known to be between characters."""
    if text[start] != _BACKSLASH:
        return False
    before = text[at:start]
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 0


def without_long_strings(text: bytes) -> Generator[None, None, bytes]:
    """A JSON text, which is not checked, with STAND_IN for the strings that are longer than PIECE_BYTES, which are.

    Raises:
        ValueError: one of these is not JSON, or anything is not UTF-8.
    """
    yield from check_utf8(text)
    parts: list[bytes] = []
    taken = 0
    for mark in marks(text):
        if mark is None:
            yield
            continue
        byte, start, end = mark
        if byte == _QUOTE and end - start > PIECE_BYTES:
            yield from check_string(text, start, end)
            parts += (text[taken:start], STAND_IN)
            taken = end
    return b"".join((*parts, text[taken:])) if parts else text
