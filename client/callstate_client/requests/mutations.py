"""Requests that change one session other than by saving it whole. Each has an `op`, so it may be sent twice."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from callstate_client import protocol
from callstate_client.errors import MethodNotFoundError
from callstate_client.model.members import encode_members
from callstate_client.model.times import format_time, now_text
from callstate_client.model.turn import TurnWire
from callstate_client.model.wellformed import turn_values
from callstate_client.requests import replies, validation
from callstate_client.requests.patches import turn_patch
from callstate_client.requests.prepared import PreparedRequest


def add_turn(
    session_id: str,
    role: str,
    content: str,
    duration_ms: int,
    at: datetime | None,
    extra: dict[str, Any] | None,
    op: str,
) -> PreparedRequest[int]:
    """Append a turn."""
    validation.check_session_id(session_id)
    role, content, duration_ms = turn_values(role, content, duration_ms)
    turn: Any = TurnWire(role, content, now_text() if at is None else format_time(at), duration_ms)
    if extra:
        validation.check_extra(extra)
        turn = msgspec.structs.asdict(turn) | extra
    params = protocol.Written((encode_members(_AddTurn(session_id, turn, op)),))
    return PreparedRequest("session.add_turn", params, replies.version, session_id)


class _AddTurn(Struct, gc=False):
    """The params of an `add_turn` before encoding."""

    session_id: str
    turn: Any
    op: str


def amend_turn(
    session_id: str,
    index: int | None,
    role: str | None,
    content: str | None,
    duration_ms: int | None,
    extra: dict[str, Any] | None,
    op: str,
) -> PreparedRequest[int]:
    """Patch a turn: the last one if neither index nor role is given."""
    patch = msgspec.Raw(encode_members(turn_patch(content, duration_ms, extra)))
    params = protocol.AmendTurnParams(session_id=session_id, set=patch, index=index, role=role, op=op)
    return _mutation("session.amend_turn", params)


def check_amendable(index: int | None, role: str | None, features: Collection[str]) -> None:
    """Check that a daemon with these features can amend this turn.

    Raises:
        MethodNotFoundError: it only amends the last turn.
    """
    if (index is not None or role is not None) and protocol.AMEND_INDEX not in features:
        raise MethodNotFoundError("this daemon is too old to amend any turn but the last")


def record_interruption(session_id: str, op: str) -> PreparedRequest[int]:
    """Count an interruption."""
    params = protocol.RecordInterruptionParams(session_id=session_id, op=op)
    return _mutation("session.record_interruption", params)


def update(session_id: str, if_version: int | None, patch: dict[str, Any], op: str) -> PreparedRequest[int]:
    """Patch a session's head; the patch comes from `split_changes`."""
    encoded = msgspec.Raw(encode_members(patch))
    params = protocol.UpdateParams(session_id=session_id, set=encoded, if_version=if_version, op=op)
    return _mutation("session.update", params)


def end(session_id: str, reason: str | None, detail: Any, op: str) -> PreparedRequest[int]:
    """End a session."""
    params = protocol.EndParams(session_id=session_id, reason=reason, op=op)
    if detail is not None:
        validation.check_free(detail, "detail")
        encoded = encode_members(detail)
        validation.check_detail(encoded)
        params.detail = msgspec.Raw(encoded)
    return _mutation("session.end", params)


def _mutation(method: str, params: protocol.Mutation) -> PreparedRequest[int]:
    validation.check_session_id(params.session_id)
    return PreparedRequest(method, params, replies.version, params.session_id)


def delete(session_id: str, op: str, features: Collection[str]) -> PreparedRequest[None]:
    """Delete a session. A daemon without the feature DELETE_OP reports no error if there is none."""
    validation.check_session_id(session_id)
    if protocol.DELETE_OP not in features:
        return PreparedRequest("session.delete", protocol.DeleteParams(session_id=session_id), replies.nothing)
    return PreparedRequest(
        "session.delete", protocol.DeleteParams(session_id=session_id, op=op), replies.nothing, session_id
    )
