"""Values that are passed through, such as recovery data: whether JSON keeps them as they are.

msgspec writes much that comes back as something else, or not at all: NaN as null, a set as a list, bytes as text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import is_dataclass
from typing import Any, Final

import msgspec

from callstate_client.errors import DocumentError
from callstate_client.model import go_json
from callstate_client.model.go_json import INT64_MAX, INT64_MIN

USUAL_DEPTH: Final = 56
"""Deepest nesting of what is looked at by recursion, which is faster; deeper values are gone through one by one."""

_CONTAINERS: Final = (dict, list, tuple)

_TEXT: Final = frozenset((str,))


def check_free(value: Any, place: str, deepest: int, *, int64: bool) -> None:
    """Check a value that is passed through: it must come back as it is.

    msgspec Structs and dataclasses are accepted, since they are read with the same type again. Tuples come back as
    lists. Raw is checked as what it says: it is written as it is, and a line of the protocol has to stay one.

    Args:
        value: the value to send or to save.
        place: its name in the error.
        deepest: how deep it may be nested.
        int64: whether integers beyond 64 bits are refused.

    Raises:
        DocumentError: it is nested too deeply, or has an integer beyond 64 bits, NaN or infinity (they would become
            null), something that would come back as something else (bytes, sets, datetimes, decimals, keys that are
            not strings …), or Raw that is not JSON on one line.
    """
    if _is_usual(value, min(deepest, USUAL_DEPTH)):
        return
    # depth first: a value that contains itself soon exceeds the depth
    todo: list[tuple[Iterable[Any], int]] = [((value,), 1)]
    while todo:
        nodes, depth = todo.pop()
        for node in nodes:
            kind = type(node)
            if kind is str or kind is bool or node is None:
                continue
            why = None
            if isinstance(node, _CONTAINERS):
                if depth > deepest:
                    raise DocumentError(f"{place} is nested deeper than {deepest}")
                if isinstance(node, dict):
                    if not (_TEXT.issuperset(map(type, node)) or all(isinstance(key, str) for key in node)):
                        why = "has a key that is not a string"
                    todo.append((node.values(), depth + 1))
                else:
                    todo.append((node, depth + 1))
            elif is_struct(node) or isinstance(node, msgspec.Raw):
                said, why = _said(node)
                todo.append((said, depth))
            else:
                why = _why_not(node, int64=int64)
            if why is not None:
                raise DocumentError(f"{_place_of(node, value, place)} {why}")


def _is_usual(value: Any, depth: int) -> bool:
    """Whether this is a dict of plain values and such dicts, so many deep, as nearly all are, that can be kept."""
    if type(value) is not dict or not _TEXT.issuperset(map(type, value)):
        return False
    for node in value.values():
        kind = type(node)
        if kind is str or kind is bool or node is None:
            continue
        if kind is int:
            if not INT64_MIN <= node <= INT64_MAX:
                return False
        elif kind is not dict or depth <= 1 or not _is_usual(node, depth - 1):
            return False
    return True


def _why_not(node: Any, *, int64: bool) -> str | None:
    """Why a single value can't be kept; None if it can."""
    if isinstance(node, float):
        return None if math.isfinite(node) else f"is {node}, which JSON can't represent"
    if isinstance(node, int):
        return None if not int64 or INT64_MIN <= node <= INT64_MAX else "is an integer beyond 64 bits"
    if isinstance(node, str):
        return None
    return f"is of type {type(node).__name__}, which JSON would change"


def _members_of(struct: Any) -> dict[str, Any] | None:
    """The members of a Struct or dataclass; None if it has a value of a type that can't be written."""
    try:
        return struct_members(struct)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        return None


def _said(node: Any) -> tuple[tuple[Any, ...], str | None]:
    """What a Struct, a dataclass or Raw says, as one value; or why that can't be written."""
    if not isinstance(node, msgspec.Raw):
        members = _members_of(node)
        return ((), "has a value that JSON can't say") if members is None else ((members,), None)
    text = bytes(node)
    try:
        if b"\n" not in text:
            return (go_json.decode_any(text),), None
    except (ValueError, RecursionError):
        pass
    return (), "is Raw that is not JSON on one line"


def _place_of(wanted: Any, value: Any, place: str) -> str:
    """The path of a part of a value: `recovery_data.items[2].at`."""
    todo = [(value, place)]
    seen: set[int] = set()
    while todo:
        node, where = todo.pop()
        if node is wanted:
            return where
        if id(node) in seen:  # it may contain itself
            continue
        seen.add(id(node))
        if is_struct(node):
            node = _members_of(node)
        if isinstance(node, dict):
            todo += [(inner, f"{where}.{key}") for key, inner in node.items()]
        elif isinstance(node, list | tuple):
            todo += [(inner, f"{where}[{index}]") for index, inner in enumerate(node)]
    return place


def is_struct(value: object) -> bool:
    """Whether this is a Struct or a dataclass, which msgspec writes and reads."""
    return isinstance(value, msgspec.Struct) or (is_dataclass(value) and not isinstance(value, type))


def struct_members(value: Any) -> dict[str, Any]:
    """The JSON members of a Struct or dataclass, including those that its type omits as defaults."""
    members: dict[str, Any] = dict(msgspec.to_builtins(value))
    if isinstance(value, msgspec.Struct):
        for name, encoded in zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True):
            inner = getattr(value, name)
            if is_struct(inner):
                members[encoded] = struct_members(inner)
            elif encoded not in members and inner is not msgspec.UNSET:
                members[encoded] = msgspec.to_builtins(inner)
    return members
