"""Members of a session, its metrics or a turn: their JSON, and names that Go would mistake for defined ones."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from callstate_client.errors import DocumentError
from callstate_client.model import documents, go_json
from callstate_client.model.wellformed import cleaned

_encode = msgspec.json.Encoder(decimal_format="number").encode


def encode_members(members: Any) -> bytes:
    """The result of `to_members` or `to_dict`, or a part of it, as JSON.

    Raises:
        DocumentError: a value can't be written as JSON.
    """
    try:
        try:
            return _encode(members)
        except RecursionError:
            return go_json.encode(members)
        except UnicodeEncodeError:
            # as builtins, so that text in structs can be cleaned; Raw is kept
            return _encode(cleaned(msgspec.to_builtins(members, builtin_types=(bytes, msgspec.Raw))))
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise DocumentError(f"the state can't be written as JSON: {error}") from error


def check_shadows(extra: Collection[str], known: frozenset[str], holder: str) -> None:
    """Check that no extra member has the name of a defined one, in upper or lower case: Go ignores case.

    Args:
        extra: the names of the extra members.
        known: the names of the defined ones.
        holder: what they are members of, for the error.

    Raises:
        DocumentError: one has.
    """
    if not known.isdisjoint(extra):
        own = next(name for name in extra if name in known)
        raise DocumentError(f"{own!r} is a member of {holder} of its own: set it there, not in extra")
    name = documents.shadowed(extra, known)
    if name is not None:
        raise DocumentError(
            f"{name!r}, a further member of {holder}, is another spelling of {go_json.fold(name)!r}"
        )


def check_turn_names(extra: Collection[str]) -> None:
    """Like `check_shadows`, for the extra members of a turn."""
    check_shadows(extra, documents.TURN_NAMES, "a turn")
