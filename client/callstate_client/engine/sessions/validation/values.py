"""Any JSON, such as that of unknown members, which are passed through: whether it can be written again."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

import msgspec
from msgspec import Raw

from callstate_client.engine.sessions.decode_errors import params_error, undecodable
from callstate_client.engine.sessions.json_steps import without_long_strings
from callstate_client.engine.sessions.steps import finished
from callstate_client.engine.sessions.validation.parts import (
    BACKSLASH,
    DIGITS_TO_0,
    LONG_INTEGER,
    check_parts,
    has_long_integer,
    parts_in_steps,
)
from callstate_client.errors import InvalidParamsError, ParseError
from callstate_client.model.go_json import INT64_MAX, INT64_MIN, join_members
from callstate_client.protocol.params import MAX_DEPTH

HEAD_PARTS: Final = 10_000
"""Objects, arrays and members in one value of a head, such as `recovery_data`: each costs up to a microsecond."""

LONG_BYTES: Final = 64 * 1024
"""Longer values are checked in steps: of a megabyte, each takes one to five milliseconds."""

NODES_A_STEP: Final = 5000
"""Values checked in one step once they are decoded."""

_any = msgspec.json.decode


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
    """Like `check_json`, in steps if it is long."""
    text = bytes(data)
    if len(text) <= LONG_BYTES:
        return check_json(text, path, depth, most)
    yield from parts_in_steps(text, path, most)
    has_long = yield from has_long_integer(text)
    value = _decoded(text, path)
    yield
    yield from _check_nodes(value, path, depth, integers=has_long)
    return value


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
    """Check a decoded value, whose JSON this is."""
    containers = text.count(b"{") + text.count(b"[")  # at most: some may be text
    has_long = LONG_INTEGER in text.translate(DIGITS_TO_0)
    if containers > MAX_DEPTH - depth or has_long:  # else too few to be nested too deep, and no number that long
        finished(_check_nodes(value, path, depth, integers=has_long))
    return value


def _check_nodes(value: Any, path: str, depth: int, *, integers: bool) -> Generator[None]:
    """Check nesting and, if asked, integers, level by level, in steps."""
    level = [value]
    while level:
        below: list[Any] = []
        for start in range(0, len(level), NODES_A_STEP):
            if start:
                yield
            nodes = level[start : start + NODES_A_STEP]
            if integers and any(map(_is_long_integer, nodes)):
                place = yield from _place_of_long_integer(value, path)
                raise InvalidParamsError(f"an integer beyond 64 bits at {place}", path=place, expected="int64")
            containers = [node for node in nodes if type(node) is dict or type(node) is list]
            if containers and depth >= MAX_DEPTH:
                raise ParseError(f"nested deeper than {MAX_DEPTH} at {path}", path=path)
            for node in containers:
                below += node.values() if type(node) is dict else node
        level = below if integers else [node for node in below if type(node) is dict or type(node) is list]
        depth += 1


def _is_long_integer(node: Any) -> bool:
    return type(node) is int and not INT64_MIN <= node <= INT64_MAX


def _place_of_long_integer(value: Any, path: str) -> Generator[None, None, str]:
    """Where the first integer beyond 64 bits is that `_check_nodes` comes to, found in steps like it.

    A node goes with its name and the node that it is in: a path for each would be too long, as names may be.
    """
    level: list[tuple[Any, Any, str]] = [(value, None, path)]
    while True:
        below: list[tuple[Any, Any, str]] = []
        for start in range(0, len(level), NODES_A_STEP):
            if start:
                yield
            for placed in level[start : start + NODES_A_STEP]:
                node = placed[0]
                if _is_long_integer(node):
                    return _spelled_out(placed)
                if type(node) is dict:
                    below += [(inner, placed, f".{name}") for name, inner in node.items()]
                elif type(node) is list:
                    below += [(inner, placed, f"[{index}]") for index, inner in enumerate(node)]
        level = below


def _spelled_out(placed: tuple[Any, Any, str]) -> str:
    """The path of a node of `_place_of_long_integer`."""
    names: list[str] = []
    inside: tuple[Any, Any, str] | None = placed
    while inside is not None:
        _, inside, name = inside
        names.append(name)
    return "".join(reversed(names))


def check_members(members: dict[str, Raw], path: str, depth: int) -> None:
    """Like `check_json`, for members that are passed through, at the path and depth of their object."""
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
    """Like `check_members`, in steps."""
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
