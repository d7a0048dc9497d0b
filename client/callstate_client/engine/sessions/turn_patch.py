"""A merge patch (RFC 7396) of a turn: applied, and checked in steps if it is long. Pure: no I/O.

Long texts of it stay as they were sent: decoded, checked with the turn, and encoded again, a megabyte takes 30 ms.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

import msgspec
from msgspec import Raw

from callstate_client.engine.sessions.validation.turns import check_turn, turn_in_steps
from callstate_client.engine.sessions.validation.values import (
    LONG_BYTES,
    check_json,
    json_in_steps,
    shortened_in_steps,
)
from callstate_client.errors import InvalidParamsError
from callstate_client.model import documents, go_json
from callstate_client.model.merge import merge_text

DEPTH: Final = 4
"""How deep the members of a turn are nested in a `session.save`."""


def amended_turn(turn: bytes, patch: Raw | dict[str, Any], path: str) -> bytes:
    """A turn with a merge patch applied, validated; a dict is one that was checked."""
    if isinstance(patch, dict):
        return merge_text(turn, patch)
    changes = check_json(patch, path, DEPTH)
    if not isinstance(changes, dict):
        raise InvalidParamsError(f"Expected object at {path}", path=path, expected="object")
    documents.refuse_shadows(changes, documents.TURN_NAMES, path)
    after = merge_text(turn, changes)
    members = go_json.raw_members(after)
    touched = {name: members[name] for name in documents.TURN_NAMES if changes.get(name) is not None}
    check_turn(go_json.join_members(touched), path)
    return after


def changes_in_steps(patch: Raw, path: str) -> Generator[None, None, dict[str, Any]]:
    """What a patch changes, for `amended_turn`.

    Raises:
        InvalidParamsError, ParseError, TooLargeError: it is not valid.
    """
    text = bytes(patch)
    short = yield from shortened_in_steps(text, path)
    value = yield from json_in_steps(short, path, DEPTH)
    if not isinstance(value, dict):
        raise InvalidParamsError(f"Expected object at {path}", path=path, expected="object")
    yield
    members = go_json.raw_members(text)
    documents.refuse_shadows(members, documents.TURN_NAMES, path)
    yield
    touched = {name: members[name] for name in documents.TURN_NAMES if members.get(name, b"null") != b"null"}
    yield from turn_in_steps(go_json.join_members(touched), path)
    changes: dict[str, Any] = {}
    for name, given in members.items():
        is_text = len(given) > LONG_BYTES and given[:1] != b"{"  # an object is a patch itself
        changes[name] = Raw(given) if is_text else msgspec.json.decode(given)
        if len(given) > LONG_BYTES:
            yield
    return changes
