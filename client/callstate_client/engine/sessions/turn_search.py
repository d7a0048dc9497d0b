"""Finding a turn of a history, by its index or as the last one of a role. Pure.

Only the chunk that has it is parsed, and of a long one only the end.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence, Set
from typing import Any, Final

import msgspec
from msgspec import Struct

from callstate_client.engine.sessions.document import Document, Place
from callstate_client.engine.sessions.tail import last_turns
from callstate_client.errors import ConflictError
from callstate_client.model import go_json

__all__ = ["find_turn", "without_role"]

ROLES_AT_FIRST: Final = 32
"""How many of the last turns are searched first for a role."""


class _Role(Struct):
    role: Any = ""


_decode = msgspec.json.decode
_role_list = msgspec.json.Decoder(list[_Role]).decode


def find_turn(doc: Document, index: int | None, role: str | None = None, without: Sequence[bytes] = ()) -> Place:
    """Find a turn.

    Args:
        index: from 0, or negative from the end; None: the last.
        role: without an index, the last turn of this role; with one, the turn must have this role.
        without: chunks known to have no turn of this role.

    Raises:
        ConflictError: there is no such turn.
    """
    if index is None and role is not None:
        return _last_of(doc, role, {id(chunk) for chunk in without})
    asked = -1 if index is None else index
    index = asked if asked >= 0 else asked + doc.turn_count
    if not 0 <= index < doc.turn_count:
        raise ConflictError(f"there is no turn {asked} to amend: the session has {doc.turn_count}")
    place = _place(doc, index)
    if role is not None and _roles(b"[%b]" % place.text)[0] != role:
        raise ConflictError(f"turn {asked} has another role")
    return place


def without_role(doc: Document, role: str) -> Generator[None, None, list[bytes]]:
    """Look for the last turn of a role in steps; returns chunks that have none, as `find_turn` takes them."""
    known: dict[int, bytes] = {}
    while True:
        chunk = next((each for each in reversed(doc.chunks) if id(each) not in known), None)
        if chunk is None or _last_role(chunk, role) is not None:
            return [*known.values()]
        known[id(chunk)] = chunk
        yield


def _place(doc: Document, index: int) -> Place:
    """The location of an existing turn."""
    at, before = doc.chunk_of(index)
    behind = before + doc.counts[at]
    start, parts = last_turns(doc.chunks[at], behind - index)
    return Place(index, at, start, parts, index - behind + len(parts))


def _last_of(doc: Document, role: str, without: Set[int]) -> Place:
    behind = doc.turn_count
    for chunk in reversed(range(len(doc.chunks))):
        turns = doc.chunks[chunk]
        if id(turns) in without:
            behind -= doc.counts[chunk]
            continue
        start, parts = last_turns(turns, ROLES_AT_FIRST)
        at = _last_role(turns[start:], role)
        if at is None and start:
            start, parts = last_turns(turns, doc.counts[chunk])
            at = _last_role(turns, role)
        if at is not None:
            return Place(behind - len(parts) + at, chunk, start, parts, at)
        behind -= doc.counts[chunk]
    raise ConflictError("the session has no turn of this role to amend")


def _last_role(turns: bytes, role: str) -> int | None:
    """The index of the last of these turns with a role."""
    roles = _roles(b"[%b]" % turns)
    return next((at for at in reversed(range(len(roles))) if roles[at] == role), None)


def _roles(turns: bytes) -> list[str]:
    try:
        return [str(turn.role) for turn in _role_list(turns)]
    except RecursionError:
        return [str(_decode(go_json.raw_members(turn).get("role", b'""'))) for turn in go_json.raw_list(turns)]
