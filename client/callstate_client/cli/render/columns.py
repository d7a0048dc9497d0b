"""The columns that `callstate ls` can show, and sort by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from callstate_client.cli.output import printable
from callstate_client.cli.render.text import duration_text, masked, status_text
from callstate_client.cli.users import user_name
from callstate_client.store import Record


class Column(NamedTuple):
    """One column.

    Args:
        title: its head.
        cell: its text for a session; `at` is the current time.
        key: sessions are sorted by this.
        is_number: aligned to the right, and never shortened.
    """

    title: str
    cell: Callable[[Record, datetime], str]
    key: Callable[[Record], Any]
    is_number: bool = False


def _text(title: str, value: Callable[[Record], str]) -> Column:
    return Column(title, lambda record, _at: printable(value(record)), value)


def _count(title: str, value: Callable[[Record], int]) -> Column:
    return Column(title, lambda record, _at: str(value(record)), value, is_number=True)


def _age(title: str, since: Callable[[Record], datetime]) -> Column:
    def cell(record: Record, at: datetime) -> str:
        return duration_text(at - since(record))

    return Column(title, cell, lambda record: -since(record).timestamp(), is_number=True)


def state_text(record: Record) -> str:
    """What is unusual about a live session: `suspect` or `orphan`, and whether it is `restored`."""
    return ",".join(filter(None, (record.liveness, "restored" if record.restored else "")))


COLUMNS: Final[Mapping[str, Column]] = {
    "id": _text("ID", lambda record: record.state.id),
    "status": Column("STATUS", lambda record, _at: status_text(record).plain, lambda record: record.state.status),
    "state": _text("STATE", state_text),
    "owner": _text("OWNER", lambda record: record.owner or ""),
    "user": _text("USER", lambda record: user_name(record.uid)),
    "provider": _text("PROVIDER", lambda record: record.state.provider),
    "direction": _text("DIRECTION", lambda record: record.state.direction),
    "from": _text("FROM", lambda record: record.state.from_),
    "to": _text("TO", lambda record: record.state.to),
    "turns": _count("TURNS", lambda record: record.turn_count),
    "age": _age("AGE", lambda record: record.state.created_at),
    "seen": _age("SEEN", lambda record: record.state.updated_at),
    "call_id": _text("CALL ID", lambda record: record.state.call_id),
    "labels": _text("LABELS", lambda record: " ".join(f"{k}={v}" for k, v in sorted(record.labels.items()))),
    "reason": _text("REASON", lambda record: record.ended_reason or ""),
    "handovers": _count("HANDOVERS", lambda record: record.handovers),
    "epoch": _count("EPOCH", lambda record: record.epoch),
    "version": _count("VERSION", lambda record: record.version),
}
"""By the names that `--columns` and `--sort` take; `seen` is the time since the last sign of life."""

NUMBERS: Final = ("from", "to")
"""Columns of phone numbers, which are masked."""

USUAL: Final = ("id", "status", "state", "owner", "provider", "direction", "from", "to", "turns", "age", "seen")
"""What is shown without `--columns`."""

USERS: Final = "user"
"""The column that a daemon has to be asked for; `callstate ls` shows it if there are calls of several users."""

DROPPED_FIRST: Final = ("direction", "provider", "to", "from", "user", "turns")
"""The columns that are left out, in this order, if the terminal is too narrow for all."""


def cell(name: str, record: Record, at: datetime, *, show_numbers: bool) -> str:
    """The text of one cell."""
    text = COLUMNS[name].cell(record, at)
    return text if show_numbers or name not in NUMBERS else masked(text)
