"""Sessions as JSON documents, for programs. Pure."""

from __future__ import annotations

from copy import copy
from typing import Any

import msgspec

from callstate_client.cli.render.text import masked
from callstate_client.store import Record


def record_document(record: Record, *, history: bool, show_numbers: bool = False) -> dict[str, Any]:
    """A session as `session.load` (or, without history, `session.list`) returns it.

    Args:
        record: the session.
        history: with its history, and otherwise exactly as it is kept.
        show_numbers: leave phone numbers in full.
    """
    state = record.state
    if not show_numbers:
        state = copy(state)
        state.from_, state.to = masked(state.from_), masked(state.to)
    document: Any = msgspec.Raw(state.to_json()) if history else state.to_members(with_history=False)
    members: dict[str, Any] = {
        "session": document,
        "turn_count": record.turn_count,
        "version": record.version,
        "epoch": record.epoch,
        "labels": record.labels,
    }
    if history:
        members["history_from"] = record.history_from
    beside = {
        "owner": record.owner,
        "uid": record.uid,
        "gid": record.gid,
        "state": record.liveness,
        "restored": record.restored or None,
        "heartbeat_timeout_s": record.heartbeat_timeout_s,
        "max_duration_s": record.max_duration_s,
        "handovers": record.handovers or None,
        "ended_reason": record.ended_reason,
        "ended_detail": record.ended_detail,
    }
    return members | {name: value for name, value in beside.items() if value is not None}
