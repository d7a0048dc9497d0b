"""Any JSON, such as that of unknown members, which are passed through: how much there is of it, and whether it can
be written again."""

from __future__ import annotations

from collections.abc import Generator
from itertools import chain
from typing import Any, Final

import msgspec
from msgspec import Raw

from callstate_client.engine.sessions.decode_errors import params_error, undecodable
from callstate_client.engine.sessions.json_steps import without_long_strings
from callstate_client.errors import InvalidParamsError, ParseError, TooLargeError
from callstate_client.model.go_json import INT64_MAX, INT64_MIN, join_members
from callstate_client.protocol.params import MAX_DEPTH

HEAD_PARTS: Final = 10_000
"""Objects, arrays and members in one value of a head, such as `recovery_data`: each costs up to a microsecond."""

LONG_BYTES: Final = 64 * 1024
"""Longer values are checked in steps: of a megabyte, each takes one to five milliseconds."""

MANY_QUOTES: Final = 20_000
"""Texts with more are not split at them."""

DIGITS_TO_0: Final = bytes.maketrans(b"123456789", b"000000000")
"""For `bytes.translate`: of all digits then only 0 is left, so that a number or a time can be found by its form."""

_NO_MARKS: Final = bytes(set(range(256)) - set(b"{[:,"))

_LONG: Final = b"0" * 19
"""The fewest digits of an integer beyond 64 bits."""

BACKSLASH: Final = ord("\\")
"""Searched for before an escape: one byte is found ten times as fast as several, and few turns have any."""

_any = msgspec.json.decode


def check_parts(data: bytes | Raw, path: str, most: int) -> None:
    """Refuse JSON of too many objects, arrays and members, before it is decoded.

    Raises:
        TooLargeError: there are more than `most`.
    """
    text = bytes(data)
    if len(text) <= most or _parts(_bare(text)) <= most:
        return
    # of the beginning first, as removing strings takes long: most of what is refused has too many there
    if count_parts(text[: 16 * most]) > most or count_parts(text) > most:
        raise TooLargeError(f"more than {most} objects, arrays and members at {path}")


def count_parts(text: bytes) -> int:
    """How many objects, arrays and members there are in a JSON text, which may be cut off; ten numbers of an array
    count as one."""
    return _parts(_without_strings(text))


def _bare(text: bytes) -> bytes:
    """A JSON text without its strings, where they are found at once; else the text as it is."""
    if len(text) < LONG_BYTES or BACKSLASH in text or text.count(b'"') > MANY_QUOTES:
        return text
    return b"".join(text.split(b'"')[::2])


def _without_strings(text: bytes) -> bytes:
    """A JSON text, perhaps cut off, without its strings."""
    if BACKSLASH in text:  # only strings have any: an escaped quote ends none
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(text.split(b'"')[::2])


def _parts(text: bytes) -> int:
    """As `count_parts`, at most, as some of these characters may be text."""
    marks = text.translate(None, _NO_MARKS)  # in one pass: there are few of them
    commas = marks.count(b",")
    return len(marks) - commas + commas // 10


def check_json(data: bytes | Raw, path: str, depth: int, most: int = HEAD_PARTS) -> Any:
    """Check every value of a member that is passed through.

    Args:
        data: the member's JSON.
        path: its path, for the error.
        depth: its nesting depth in the message.
        most: objects, arrays and members in it.

    Returns:
        the decoded value.
    """
    text = bytes(data)
    check_parts(text, path, most)
    return _checked(text, _decoded(text, path), path, depth)


def json_in_steps(data: bytes | Raw, path: str, depth: int, most: int = HEAD_PARTS) -> Generator[None, None, Any]:
    """As `check_json`, in steps if it is long."""
    text = bytes(data)
    if len(text) <= LONG_BYTES:
        return check_json(text, path, depth, most)
    check_parts(text, path, most)
    yield
    value = _decoded(text, path)
    yield
    return _checked(_bare(text), value, path, depth)


def shortened_in_steps(data: bytes | Raw, path: str) -> Generator[None, None, bytes]:
    """A JSON text with something shorter for its long strings, which are checked, if decoding them takes long.

    Raises:
        ParseError: one of them, or the text, is not UTF-8 or not JSON.
    """
    text = bytes(data)
    if len(text) <= LONG_BYTES or (text.isascii() and BACKSLASH not in text):
        return text
    try:
        return (yield from without_long_strings(text))
    except ValueError as error:
        raise undecodable(error, path) from error


def _decoded(text: bytes, path: str) -> Any:
    try:
        return _any(text)
    except msgspec.ValidationError as error:  # a number out of range
        raise params_error(error, path) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise undecodable(error, path) from error


def _checked(text: bytes, value: Any, path: str, depth: int) -> Any:
    """Check a decoded value; `text`: its JSON, perhaps without the strings."""
    containers = text.count(b"{") + text.count(b"[")  # at most: some may be text
    has_long = _LONG in text.translate(DIGITS_TO_0)
    if containers > MAX_DEPTH - depth or has_long:  # else too few to be nested too deep, and no number that long
        _check_nodes(value, path, depth, integers=has_long)
    return value


def _check_nodes(value: Any, path: str, depth: int, *, integers: bool) -> None:
    """Check nesting and, if asked, integers, level by level."""
    level = [value]
    while level:
        if integers and any(type(node) is int and not INT64_MIN <= node <= INT64_MAX for node in level):
            raise InvalidParamsError(f"an integer beyond 64 bits at {path}", path=path, expected="int64")
        containers = [node for node in level if type(node) is dict or type(node) is list]
        if containers and depth >= MAX_DEPTH:
            raise ParseError(f"nested deeper than {MAX_DEPTH} at {path}", path=path)
        below = chain.from_iterable(node.values() if type(node) is dict else node for node in containers)
        level = list(below) if integers else [node for node in below if type(node) is dict or type(node) is list]
        depth += 1


def check_members(members: dict[str, Raw], path: str, depth: int) -> None:
    """As `check_json`, for members that are passed through, at the path and depth of their object."""
    if len(members) > 1:  # all at once, as there may be thousands
        try:
            check_json(join_members(members), path, depth - 1)
        except (InvalidParamsError, ParseError):
            pass  # each by itself, for the path
        else:
            return
    for name, value in members.items():
        check_json(value, f"{path}.{name}", depth)


def members_in_steps(members: dict[str, Raw], path: str, depth: int) -> Generator[None]:
    """As `check_members`, in steps."""
    short: dict[str, Raw] = {}
    for name, value in members.items():
        short[name] = Raw((yield from shortened_in_steps(value, f"{path}.{name}")))
    members = short
    if len(members) > 1:
        try:
            yield from json_in_steps(join_members(members), path, depth - 1)
        except (InvalidParamsError, ParseError):
            yield
        else:
            return
    for name, value in members.items():
        yield from json_in_steps(value, f"{path}.{name}", depth)
