"""One session as people read it: what is known of it, and its conversation. Pure: the time is passed in."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import msgspec
from rich.table import Table
from rich.text import Text

from callstate_client.cli.output import printable
from callstate_client.cli.render.figures import json_text, pairs_table
from callstate_client.cli.render.text import duration_text, shown_numbers, status_text
from callstate_client.model.state import Role, Turn
from callstate_client.model.times import format_time
from callstate_client.model.tools import answered_call, tool_calls_of
from callstate_client.store import Record

_ROLE_STYLES: dict[str, str] = {
    Role.USER: "bold cyan",
    Role.AGENT: "bold green",
    Role.TOOL: "bold magenta",
    Role.SYSTEM: "dim",
}


_TOOL_STYLE: Final = "magenta"

PAUSE_S: Final = 5.0
"""A silence of this length between two turns is shown."""


def head_table(record: Record, at: datetime, *, show_numbers: bool) -> Table:
    """Everything about one session except its transcript."""
    state = record.state
    from_, to = shown_numbers(state, show_numbers=show_numbers)
    labels = " ".join(f"{name}={value}" for name, value in sorted(record.labels.items()))
    rows: dict[str, Text | str] = {
        "id": state.id,
        "status": status_text(record),
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
        rows["ended_detail"] = json_text(record.ended_detail)
    if state.recovery_data is not None:
        rows["recovery_data"] = json_text(state.recovery_data)
    rows |= {name: json_text(value) for name, value in state.extra.items()}
    return pairs_table({name: value for name, value in rows.items() if value})


def transcript_table(turns: list[Turn], first: int) -> Table:
    """The conversation: a turn per row, its words wrapped beside when and by whom they were said.

    Args:
        turns: the turns to show.
        first: index of the first one in the whole history.
    """
    table = Table(box=None, show_header=False, pad_edge=False)
    for justify in ("right", "left", "left", "right"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_column(overflow="fold")
    before: Turn | None = None
    for index, turn in enumerate(turns, start=first):
        pause_s = 0.0 if before is None else _pause_s(before, turn)
        if pause_s >= PAUSE_S:
            table.add_row("", "", "", "", Text(f"… {duration_text(timedelta(seconds=pause_s))}", style="dim"))
        table.add_row(
            Text(str(index + 1), style="dim"),
            Text(turn.timestamp.strftime("%H:%M:%S"), style="dim"),
            Text(printable(turn.role), style=_ROLE_STYLES.get(turn.role, "bold")),
            Text(f"{turn.duration_ms / 1000:.1f}s" if turn.duration_ms else "", style="dim"),
            turn_text(turn),
        )
        before = turn
    return table


def _pause_s(before: Turn, turn: Turn) -> float:
    """How long nothing was said between two turns, seconds. A turn is added when it is over."""
    return (turn.timestamp - before.timestamp).total_seconds() - turn.duration_ms / 1000


def turn_text(turn: Turn) -> Text:
    """A turn as it is read: what was said, which tools were called and what they returned, where it was
    interrupted."""
    extra = turn.to_dict() if turn.has_extra else {}
    lines = [Text(printable(line)) for line in turn.content.splitlines()]
    answered = answered_call(turn)
    if answered is not None:
        name = extra.get("name")
        called = f"{name} " if isinstance(name, str) else ""
        lines.insert(0, Text(printable(f"← {called}({answered})"), style=_TOOL_STYLE))
    for call in tool_calls_of(turn):
        function = call["function"]
        text = f"→ {function['name']}({_arguments(function['arguments'])}) ({call['id']})"
        lines.append(Text(printable(text), style=_TOOL_STYLE))
    if extra.get("interrupted") is True:
        if turn.content:
            lines[len(turn.content.splitlines()) - 1].append(" —", style="yellow")
        lines.append(Text("interrupted", style="yellow"))
    response_ms = extra.get("response_ms")
    if isinstance(response_ms, int | float):
        lines.append(Text(f"after {response_ms / 1000:.1f}s", style="dim"))
    return Text("\n").join(lines)


def _arguments(text: str) -> str:
    """The arguments of a call as names and values; whatever else the model wrote as it is."""
    try:
        arguments = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return text
    if not isinstance(arguments, dict):
        return text
    return ", ".join(f"{name}={json_text(value)}" for name, value in arguments.items())
