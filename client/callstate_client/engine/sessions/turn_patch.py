"""A long merge patch (RFC 7396) of a turn, checked in steps. Pure: no I/O.

Its long texts stay as they were sent: decoded, checked with the turn, and encoded again, a megabyte takes 30 ms.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

import msgspec
from msgspec import Raw

from callstate_client.engine.sessions.validation.turns import turn_in_steps
from callstate_client.engine.sessions.validation.values import LONG_BYTES, json_in_steps, shortened_in_steps
from callstate_client.errors import InvalidParamsError
from callstate_client.model import documents, go_json

DEPTH: Final = 4
"""Of a turn's members in a save."""


def changes_in_steps(patch: Raw, path: str) -> Generator[None, None, dict[str, Any]]:
    """What a patch changes, for `Document.amended`.

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
