"""Sessions as JSON documents, for programs. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from callstate_client.cli.render.text import masked
from callstate_client.store import Record


def record_document(record: Record, *, history: bool, show_numbers: bool = True) -> dict[str, Any]:
    """A session as `session.load` (or, without history, `session.list`) returns it."""
    state = record.state
    document: Any = msgspec.Raw(state.to_json()) if history else state.to_members(with_history=False)
    if not history and not show_numbers:
        document["from"], document["to"] = masked(state.from_), masked(state.to)
    members: dict[str, Any] = {
        "session": document,
        "turn_count": record.turn_count,
        "version": record.version,
        "epoch": record.epoch,
        "labels": record.labels,
    }
    if history:
        members["history_from"] = record.history_from
    if record.owner is not None:
        members["owner"] = record.owner
    if record.ended_reason is not None:
        members["ended_reason"] = record.ended_reason
    if record.ended_detail is not None:
        members["ended_detail"] = record.ended_detail
    return members
