"""Merge patches (RFC 7396) of a session's head and of a turn, and what they make of a local view."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from callstate_client import checks
from callstate_client.errors import ConflictError, InvalidParamsError
from callstate_client.history import Turn, decode_turn
from callstate_client.merge import merge_patch
from callstate_client.model import SessionMetrics, SessionState, encode_members
from callstate_client.times import format_time

UNPATCHABLE: Final = frozenset({"id", "history", "updated_at"})
"""The id is the session's name, turns have verbs of their own, and `updated_at` is the store's to set."""


def head_patch(changes: dict[str, Any]) -> dict[str, Any]:
    """The patch that changes by SessionState's names stand for.

    Raises:
        InvalidParamsError: one of them can't be patched.
        DocumentError: a value can't be kept.
    """
    patch: dict[str, Any] = {}
    for name, value in changes.items():
        member = "from" if name == "from_" else name
        if member in UNPATCHABLE:
            place = f"$.params.set.{member}"
            raise InvalidParamsError(f"`{member}` can't be patched", path=place, expected="nothing")
        if isinstance(value, datetime):
            patch[member] = format_time(value)
        elif isinstance(value, SessionMetrics):
            patch[member] = value.to_dict()
        else:
            checks.check_free(value, member)
            patch[member] = value
    return patch


def turn_patch(content: str | None, duration_ms: int | None, extra: dict[str, Any] | None) -> dict[str, Any]:
    """The patch of a turn. Members of `extra` stand beside the others, as in the turn itself."""
    patch: dict[str, Any] = {}
    if content is not None:
        patch["content"] = content
    if duration_ms is not None:
        patch["duration_ms"] = duration_ms
    if extra:
        checks.check_free(extra, "a turn")
        patch |= extra
    return patch


def patch_state(state: SessionState, patch: dict[str, Any]) -> None:
    """Change a state in place as the patch says; its history stays the object it is.

    Raises:
        DocumentError: the outcome is no session.
    """
    members = merge_patch(state.to_members(with_history=False), patch)
    patched = SessionState.from_json(encode_members(members))
    for name in SessionState.__slots__:
        if name not in ("_history", "history_from"):
            setattr(state, name, getattr(patched, name))


def find_turn(state: SessionState, index: int | None, role: str | None) -> int:
    """Which turn is meant, from 0.

    Args:
        state: whose history, which is there as a whole.
        index: from 0, or negative from the end; None: the last.
        role: without an index the last turn of this role is meant; with one that turn must have it.

    Raises:
        ConflictError: there is no such turn.
    """
    history = state.history
    if index is None and role is not None:
        for place in reversed(range(len(history))):
            if history[place].role == role:
                return place
        raise ConflictError("the session has no turn of this role to amend")
    asked = -1 if index is None else index
    place = asked if asked >= 0 else asked + len(history)
    if not 0 <= place < len(history):
        raise ConflictError(f"there is no turn {asked} to amend: the session has {len(history)}")
    if role is not None and history[place].role != role:
        raise ConflictError(f"turn {asked} is another role's")
    return place


def find_last_turn(state: SessionState, role: str | None) -> Turn:
    """The last turn, or the last one of a role.

    Raises:
        ConflictError: there is no such turn.
    """
    # not by `find_turn`: to count the turns of a long history takes longer than to look at its end
    if role is not None:
        return state.history[find_turn(state, None, role)]
    if not state.history:
        raise ConflictError("the session has no turn to amend")
    return state.history[-1]


def patched_turn(turn: Turn, patch: dict[str, Any]) -> Turn:
    """What the patch makes of a turn, as a new one.

    Raises:
        DocumentError: the outcome is no turn.
    """
    return decode_turn(encode_members(merge_patch(turn.to_dict(), patch)))


def patch_turn(state: SessionState, index: int, patch: dict[str, Any]) -> Turn:
    """Put what the patch makes of a turn in its place.

    Raises:
        IndexError: there is none.
        DocumentError: the outcome is no turn.
    """
    turn = state.history[index] = patched_turn(state.history[index], patch)
    return turn
