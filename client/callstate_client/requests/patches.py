"""Merge patches (RFC 7396) of a session and of a turn: made from a caller's arguments, and applied to a local
state.

`update()` takes changes by the names of SessionState. Those of the document become a patch, which the daemon
applies; labels and timeouts are not part of the document and are sent differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from difflib import get_close_matches
from typing import Any, Final, TypedDict

import msgspec

from callstate_client.errors import ConflictError, InvalidParamsError
from callstate_client.model import documents
from callstate_client.model.free_values import is_struct, struct_members
from callstate_client.model.members import encode_members
from callstate_client.model.merge import merge_patch
from callstate_client.model.metrics import SessionMetrics
from callstate_client.model.state import SessionState
from callstate_client.model.times import format_time, is_time
from callstate_client.model.turn import Turn, decode_turn
from callstate_client.model.wellformed import as_text, check_names, cleaned, whole_ms
from callstate_client.model.words import Status
from callstate_client.protocol.ids import MAX_DURATION_S, MAX_HEARTBEAT_TIMEOUT_S
from callstate_client.requests import validation

UNPATCHABLE: Final = frozenset({"id", "history", "updated_at"})
"""Members that can't be patched: the id names the session, turns have their own verbs, the store sets
`updated_at`."""


class Changes(TypedDict, total=False):
    """What `update()` takes, by SessionState's names. None removes a member, a dict patches its value.

    `extra` has members that SessionState does not name. A msgspec Struct or a dataclass as `recovery_data` replaces
    the value, and `labels` replace the former ones. Labels and timeouts, seconds, are not part of the document.
    """

    status: str
    call_id: str | None
    provider: str
    direction: str
    from_: str
    to: str
    created_at: datetime
    metrics: SessionMetrics | Mapping[str, Any]
    recovery_data: Any
    labels: Mapping[str, str]
    heartbeat_timeout_s: float
    max_duration_s: float
    extra: Mapping[str, Any]


class Beside(TypedDict, total=False):
    """The changes that are not part of the document."""

    labels: dict[str, str]
    heartbeat_timeout_s: float
    max_duration_s: float


_TEXTS: Final = {
    **{name: name for name in ("status", "call_id", "provider", "direction", "to")},
    "from": "from_",
}
"""The members that are texts, and their attributes."""

_WORDS: Final = frozenset({"status", "provider", "direction"})
_BESIDE: Final = frozenset(Beside.__annotations__)
_KNOWN: Final = frozenset(Changes.__annotations__)
_MEMBERS: Final = (_KNOWN - _BESIDE - {"extra", "from_"}) | UNPATCHABLE | {"from"}


class UnknownMemberError(InvalidParamsError, TypeError):
    """`update()` has no such argument. Also a TypeError, as for any unknown keyword."""


def split_changes(changes: Mapping[str, Any]) -> tuple[dict[str, Any], Beside]:
    """Split changes into the patch of the document and those that are not part of it.

    Raises:
        UnknownMemberError: there is no member of that name.
        InvalidParamsError: a member can't be changed, or not to that value.
        DocumentError: a value can't be kept.
    """
    patch: dict[str, Any] = {}
    beside: Beside = {}
    for name, value in changes.items():
        if name in _BESIDE:
            if value is None:
                raise InvalidParamsError(
                    f"`{name}` can't be taken away", path=f"$.params.{name}", expected="a value"
                )
            beside[name] = checked_beside(name, value)  # type: ignore[literal-required]
        elif name == "extra":
            further = {} if value is None else dict(value)
            check_names(further, frozenset(), "the session")
            for other, inner in further.items():
                if other in _MEMBERS:
                    raise InvalidParamsError(
                        f"`{other}` is a member of its own: pass it by its name, not in extra",
                        path=f"$.params.set.{other}",
                    )
                patch[other] = _patched(other, inner)
        elif name == "created_at" and value is None:
            pass  # which leaves it, and joined with an earlier patch would take that one's value away
        elif name in _KNOWN:
            member = "from" if name == "from_" else name
            patch[member] = _patched(member, value)
        else:
            raise _unchangeable(name)
    check_patch(patch, "$.params.set")
    for name in _TEXTS.keys() & patch.keys():
        if isinstance(patch[name], str):
            check = validation.check_word if name in _WORDS else validation.check_text
            check(patch[name], f"$.params.set.{name}")
    return patch, beside


def checked_beside(name: str, value: Any) -> Any:
    """Labels, or a timeout, as they are sent.

    JSON has neither NaN nor infinity: they would be sent as null, which is to leave the timeout as it is.

    Raises:
        InvalidParamsError: they exceed a limit.
    """
    if name == "labels":
        return validation.checked_labels(value)
    most = MAX_DURATION_S if name == "max_duration_s" else MAX_HEARTBEAT_TIMEOUT_S
    return validation.checked_seconds(value, f"$.params.{name}", most)


def check_patch(patch: Mapping[str, Any], path: str) -> None:
    """Check a document's patch.

    Raises:
        InvalidParamsError: it has a member that Go would take for a defined one, or recovery data that is not an
            object.
    """
    documents.refuse_shadows(patch, documents.SESSION_NAMES, path)
    if isinstance(patch.get("metrics"), Mapping):
        documents.refuse_shadows(patch["metrics"], documents.METRICS_NAMES, f"{path}.metrics")
    if not isinstance(patch.get("recovery_data"), Mapping | None):
        raise documents.not_object(f"{path}.recovery_data")


def _patched(member: str, value: Any) -> Any:
    if member == "created_at":
        if isinstance(value, datetime):
            return format_time(value)
        if isinstance(value, str) and not is_time(value):
            raise validation.wrong("$.params.set.created_at", "RFC 3339 time")
    if isinstance(value, SessionMetrics):
        return value.to_dict()
    validation.check_free(value, member)
    return cleaned(struct_members(value) if is_struct(value) else value)


def _unchangeable(name: str) -> InvalidParamsError:
    place = f"$.params.set.{name}"
    if name in UNPATCHABLE:
        return InvalidParamsError(f"`{name}` can't be patched", path=place, expected="nothing")
    close = get_close_matches(name, sorted(_KNOWN), 1)
    meant = f"did you mean `{close[0]}`? " if close else ""
    return UnknownMemberError(f"no member `{name}`: {meant}Further members go into extra={{…}}", path=place)


def turn_patch(content: str | None, duration_ms: int | None, extra: dict[str, Any] | None) -> dict[str, Any]:
    """The patch of a turn. Members of `extra` are inlined, as in the turn itself."""
    patch: dict[str, Any] = {}
    if content is not None:
        patch["content"] = as_text(content, "a turn's content")
    if duration_ms is not None:
        patch["duration_ms"] = whole_ms(duration_ms)
    if extra:
        validation.check_extra(extra)
        patch |= cleaned(extra)
    return patch


def patch_state(state: SessionState, patch: dict[str, Any]) -> None:
    """Apply a patch to a state in place; its history stays the same object.

    Raises:
        DocumentError: the result is not a session.
    """
    if not _patch_members(state, patch):
        # what the daemon makes of null: the status of a new call
        without = {"status": Status.PENDING}
        replace_head(state, without | merge_patch(state.to_members(with_history=False), patch))


def _patch_members(state: SessionState, patch: dict[str, Any]) -> bool:
    """Apply the usual patch, of texts and recovery data, without writing and reading the whole head; whether it is
    one. If not, nothing has changed."""
    recovery_data = state.recovery_data
    if not (recovery_data is None or type(recovery_data) is dict):
        return False
    for name, value in patch.items():
        if name == "recovery_data" and type(value) is dict:
            try:  # as it is read again
                recovery_data = msgspec.json.decode(encode_members(merge_patch(recovery_data, value)))
            except (msgspec.MsgspecError, ValueError, RecursionError):
                return False
        elif name not in _TEXTS or type(value) is not str:
            return False
    for name, value in patch.items():
        if name == "recovery_data":
            state.recovery_data = recovery_data
        else:
            setattr(state, _TEXTS[name], value)
    state.status_given = True
    return True


def replace_head(state: SessionState, members: dict[str, Any]) -> None:
    """Replace a state's members in place; its history stays the same object.

    Raises:
        DocumentError: they are not the members of a session.
    """
    state.take_over(SessionState.from_json(encode_members(members)), history=False)


def find_turn(state: SessionState, index: int | None, role: str | None) -> int:
    """The index, from 0, of the turn to amend.

    Args:
        state: the session, with its whole history.
        index: from 0, or negative from the end; None: the last turn.
        role: without an index, the last turn of this role; with one, the role that the turn must have.

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
        raise ConflictError(f"turn {asked} has another role")
    return place


def find_last_turn(state: SessionState, role: str | None) -> Turn:
    """The last turn, or the last turn of a role.

    Raises:
        ConflictError: there is no such turn.
    """
    # not by `find_turn`, which counts the turns: slow for a long history that is not decoded yet
    if role is not None:
        return state.history[find_turn(state, None, role)]
    if not state.history:
        raise ConflictError("the session has no turn to amend")
    return state.history[-1]


def patched_turn(turn: Turn, patch: dict[str, Any]) -> Turn:
    """A new turn: the given one with a patch applied.

    Raises:
        DocumentError: the result is not a turn.
    """
    return decode_turn(encode_members(merge_patch(turn.to_dict(), patch)))
