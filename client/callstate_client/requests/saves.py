"""Requests that save a state, whole or its head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from callstate_client import protocol
from callstate_client.model.history import Piece
from callstate_client.model.members import encode_members
from callstate_client.model.merge import merge_patch
from callstate_client.model.state import SessionState
from callstate_client.model.words import Status
from callstate_client.requests import replies, validation
from callstate_client.requests.mutations import update
from callstate_client.requests.patches import Beside, checked_beside
from callstate_client.requests.prepared import PreparedRequest
from callstate_client.requests.redaction import Redaction
from callstate_client.store import Record


def save(
    state: SessionState,
    if_version: int | None,
    labels: Mapping[str, str] | None,
    heartbeat_timeout_s: float | None,
    max_duration_s: float | None,
    op: str,
) -> PreparedRequest[protocol.SaveResult]:
    """Save a state, whole. Decoding the reply sets its `updated_at`."""
    beside = beside_state(labels, heartbeat_timeout_s, max_duration_s, op)
    return save_document(state, document(state), beside, if_version, None)


def document(state: SessionState, redaction: Redaction | None = None) -> Sequence[Piece]:
    """A state as JSON, in pieces.

    Args:
        state: the state, which is not changed.
        redaction: applied to each turn.

    Raises:
        DocumentError: it can't be saved.
        BeforeSendError: a turn can't be redacted.
    """
    validation.check_state(state)
    return (state if redaction is None else redaction.state(state)).pieces(validation.check_extra)


def beside_state(
    labels: Mapping[str, str] | None, heartbeat_timeout_s: float | None, max_duration_s: float | None, op: str
) -> dict[str, Any]:
    """The params of a save other than the state.

    Raises:
        InvalidParamsError: one of them exceeds a limit.
    """
    given = {"labels": labels, "heartbeat_timeout_s": heartbeat_timeout_s, "max_duration_s": max_duration_s}
    beside: dict[str, Any] = {
        name: checked_beside(name, value) for name, value in given.items() if value is not None
    }
    beside["op"] = op
    return beside


def save_document(
    state: SessionState,
    pieces: Sequence[Piece],
    beside: Mapping[str, Any],
    if_version: int | None,
    epoch: int | None,
) -> PreparedRequest[protocol.SaveResult]:
    """Save a state as it was when `document` encoded it. Decoding the reply sets its `updated_at`."""
    members = dict(beside)
    if if_version is not None:
        members["if_version"] = if_version
    if epoch is not None:
        members["epoch"] = epoch
    params = protocol.Written((b'{"session":', *pieces, b",", protocol.encode_params(members)[1:]))

    def result(line: bytes) -> protocol.SaveResult:
        saved = protocol.decode_save(line)
        state.saved_at(saved.updated_at)
        return saved

    return PreparedRequest("session.save", params, result, state.id)


REWRITES: Final = 10
"""How often a head is rewritten if another change came first, before the conflict is raised."""


def rewrite_head(
    record: Record, if_version: int | None, patch: dict[str, Any], beside: Beside, epoch: int | None, op: str
) -> PreparedRequest[int]:
    """Patch a session's head together with labels and timeouts, which only a save can change: the head as it was
    read, patched, without its history, and on condition that nothing has changed since."""
    version = record.version if if_version is None else if_version
    members = merge_patch(record.state.to_members(with_history=False), patch)
    if not record.state.is_active and members.get("status") != Status.ENDED:
        # a save would begin another call under the id; an update of an ended call's status is refused
        return update(record.state.id, version, patch, op)
    params = protocol.SaveParams(
        session=msgspec.Raw(encode_members(members)),
        if_version=version,
        epoch=epoch,
        op=op,
        **beside,
    )
    return PreparedRequest("session.save", params, replies.version, record.state.id)
