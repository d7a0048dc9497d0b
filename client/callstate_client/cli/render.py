"""Sessions and figures as tables. Pure: the current time is an argument, nothing is printed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from callstate_client.cli.output import PIPE_COLUMNS, printable
from callstate_client.model.state import Role, SessionState, Status, Turn
from callstate_client.model.times import format_time
from callstate_client.model.tools import answered_call, tool_calls_of
from callstate_client.store import Record

_STATUS_STYLES: dict[str, str] = {
    Status.ACTIVE: "green",
    Status.PENDING: "cyan",
    Status.ON_HOLD: "yellow",
    Status.TRANSFERRING: "yellow",
    Status.ENDED: "dim",
}
_ROLE_STYLES: dict[str, str] = {
    Role.USER: "bold cyan",
    Role.AGENT: "bold green",
    Role.TOOL: "bold magenta",
    Role.SYSTEM: "dim",
}


def masked(number: str) -> str:
    """A phone number or address, masked except for its last two digits."""
    digits = re.sub(r"\D", "", number)
    if not number:
        return ""
    return "***" + (digits[-2:] if len(digits) > 2 else "")


def duration_text(duration: timedelta) -> str:
    """A duration in its two largest units: `4s`, `3m20s`, `2h05m`, `3d04h`."""
    seconds = max(0, int(duration.total_seconds()))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 86400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 86400}d{seconds % 86400 // 3600:02d}h"


def sessions_table(records: list[Record], at: datetime, *, show_numbers: bool, width: int = PIPE_COLUMNS) -> Table:
    """Sessions, one per line.

    Args:
        at: the current time.
        show_numbers: show phone numbers in full.
        width: of the terminal. Ids are always shown whole, for they are what other commands take; columns that do
            not fit are left out, least needed first, and what is left is shortened.
    """
    columns = {name: [name] for name in _COLUMNS}
    for record in records:
        for name, cell in zip(columns, _row(record, at, show_numbers=show_numbers), strict=True):
            columns[name].append(cell)
    widths = {name: max(map(cell_len, cells)) for name, cells in columns.items()}
    for name in _DROPPED_FIRST:
        if _excess(widths, width) > 0:
            del widths[name]
    for name in ("OWNER", "STATUS"):
        shortened = widths[name] - max(0, _excess(widths, width))
        widths[name] = max(shortened, min(widths[name], len(name) + 1))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, needed in widths.items():
        table.add_column(name, no_wrap=True, width=needed, justify="right" if name in _RIGHT else "left")
    for number, record in enumerate(records, 1):
        cells = {name: Text(columns[name][number]) for name in widths}
        cells["STATUS"].stylize(_STATUS_STYLES.get(record.state.status, ""))
        table.add_row(*cells.values())
    return table


_COLUMNS = ("ID", "STATUS", "OWNER", "PROVIDER", "DIRECTION", "FROM", "TO", "TURNS", "AGE", "LAST SIGN")
_RIGHT = ("TURNS", "AGE", "LAST SIGN")
_DROPPED_FIRST = ("DIRECTION", "PROVIDER", "TO", "FROM", "TURNS")


def _excess(widths: Mapping[str, int], width: int) -> int:
    """How many columns of a terminal are missing for these, with two between each."""
    return sum(widths.values()) + 2 * (len(widths) - 1) - width


def _row(record: Record, at: datetime, *, show_numbers: bool) -> tuple[str, ...]:
    """The cells of one session, in the order of _COLUMNS."""
    state = record.state
    from_, to = _numbers(state, show_numbers=show_numbers)
    return (
        printable(state.id),
        _status(record).plain + (" restored" if record.restored else ""),
        printable(record.owner or ""),
        printable(state.provider),
        printable(state.direction),
        from_,
        to,
        str(record.turn_count),
        duration_text(at - state.created_at),
        duration_text(at - state.updated_at),
    )


def head_table(record: Record, at: datetime, *, show_numbers: bool) -> Table:
    """Everything about one session except its transcript."""
    state = record.state
    from_, to = _numbers(state, show_numbers=show_numbers)
    labels = " ".join(f"{name}={value}" for name, value in sorted(record.labels.items()))
    rows: dict[str, Text | str] = {
        "id": state.id,
        "status": _status(record),
        "call_id": state.call_id,
        "provider": state.provider,
        "direction": state.direction,
        "from": from_,
        "to": to,
        "created_at": f"{format_time(state.created_at)} ({duration_text(at - state.created_at)} ago)",
        "updated_at": f"{format_time(state.updated_at)} ({duration_text(at - state.updated_at)} ago)",
        "duration": duration_text(state.duration(at)),
        "owner": record.owner or "",
        "labels": labels,
        "version": str(record.version),
        "epoch": str(record.epoch),
        "turns": str(record.turn_count),
    }
    rows |= {name: str(value) for name, value in state.metrics.to_dict().items()}
    if record.ended_detail is not None:
        rows["ended_detail"] = _json(record.ended_detail)
    if state.recovery_data is not None:
        rows["recovery_data"] = _json(state.recovery_data)
    rows |= {name: _json(value) for name, value in state.extra.items()}
    return pairs_table({name: value for name, value in rows.items() if value})


def transcript_table(turns: list[Turn], first: int) -> Table:
    """The transcript of a session, a turn per row.

    Args:
        turns: the turns to show.
        first: index of the first one in the whole history.
    """
    table = Table(box=None, show_header=False, pad_edge=False)
    for justify in ("right", "left", "left", "right"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_column(overflow="fold")
    for index, turn in enumerate(turns, start=first):
        table.add_row(
            Text(str(index + 1), style="dim"),
            Text(turn.timestamp.strftime("%H:%M:%S"), style="dim"),
            Text(printable(turn.role), style=_ROLE_STYLES.get(turn.role, "bold")),
            Text(f"{turn.duration_ms / 1000:.1f}s", style="dim"),
            Text(printable(turn_text(turn))),
        )
    return table


def turn_text(turn: Turn) -> str:
    """A turn as it is read: content, tool calls, the call that it answers, whether it was interrupted."""
    lines = [turn.content] if turn.content else []
    lines += [
        f"→ {call['function']['name']}({call['function']['arguments']}) {call['id']}"
        for call in tool_calls_of(turn)
    ]
    answered = answered_call(turn)
    extra = turn.to_dict() if turn.has_extra else {}
    if answered is not None:
        name = extra.get("name")
        lines.insert(0, f"← {name if isinstance(name, str) else ''} {answered}".replace("  ", " "))
    if extra.get("interrupted") is True:
        lines.append("(interrupted)")
    return "\n".join(lines)


def figures_table(figures: Mapping[str, Any]) -> Table:
    """Nested figures (info, stats) as dotted names and values."""
    return pairs_table(dict(_flat(figures)))


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


def _numbers(state: SessionState, *, show_numbers: bool) -> tuple[str, str]:
    if show_numbers:
        return printable(state.from_), printable(state.to)
    return masked(state.from_), masked(state.to)


def _status(record: Record) -> Text:
    status = printable(record.state.status)
    reason = f" ({printable(record.ended_reason)})" if record.ended_reason else ""
    return Text(status + reason, style=_STATUS_STYLES.get(record.state.status, ""))


def pairs_table(rows: Mapping[str, Text | str]) -> Table:
    """Names in bold with their values, one per line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(printable(name)), value if isinstance(value, Text) else Text(printable(value)))
    return table


def _flat(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in figures.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
