"""`callstate tail`: prints events as they happen, one per line, until it is interrupted."""

from __future__ import annotations

import argparse
import asyncio
from typing import Final

from rich.text import Text

from callstate_client.api import CallStore
from callstate_client.cli import output, values
from callstate_client.cli.command import Command
from callstate_client.cli.output import Output, printable
from callstate_client.protocol.events import DEFAULT_TYPES, GAP, TYPES, Cursor, Event

_EVENT_STYLES = {
    "created": "green",
    "recovered": "green",
    "claimed": "green",
    "suspect": "bold yellow",
    "orphaned": "bold yellow",
    "fenced": "yellow",
    "expired": "bold red",
    "store.down": "bold red",
    "session.full": "bold red",
    "journal.full": "bold red",
    GAP: "bold red",
}
_GAPS = {
    "restart": "the daemon restarted",
    "overrun": "the daemon no longer has all of them",
}


async def _tail(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    """Print events until the store is closed."""
    last: Cursor | None = args.since
    try:
        async for event in store.events(*args.types, since=args.since):
            last = event.cursor
            if out.as_json:
                out.line(event.to_members())
            else:
                out.text(event_line(event))
    except asyncio.CancelledError:
        if last is not None and not out.as_json:  # in JSON each line has its cursor
            output.error(f"to resume from here: --since {last.stream}:{last.seq}")
        raise
    return 0


def event_line(event: Event) -> Text:
    """One event: its time (UTC), type and details."""
    line = Text(event.at.strftime("%H:%M:%S.%f")[:-3], style="dim")
    line.append(f"  {printable(event.type):<14}", style=_EVENT_STYLES.get(event.type, "bold"))
    if event.type == GAP:
        why = _GAPS.get(event.reason or "", printable(event.reason or ""))
        return line.append(f"  events are missing: {why}; `callstate ls` shows the current state", style="bold red")
    for name, value in {
        "session": event.session_id,
        "owner": event.owner,
        "worker": event.worker_id,
        "epoch": event.epoch or None,
        "reason": event.reason,
        "evidence": event.evidence,
        "until": event.deadline and event.deadline.strftime("%H:%M:%S"),
        "turns": event.turn_count,
        "drain": None if event.drain is None else ("on" if event.drain else "off"),
        "error": event.error,
    }.items():
        if value is not None:
            line.append(f"  {name}=", style="dim").append(printable(str(value)))
    return line


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--type",
        metavar="T",
        choices=sorted(TYPES),
        action="append",
        default=[],
        dest="types",
        help=f"only events of this type; may be repeated. One of {', '.join(sorted(DEFAULT_TYPES))}; "
        "or turn, which is frequent (default: all but turn)",
    )
    parser.add_argument(
        "--since",
        metavar="STREAM:SEQ",
        type=values.cursor,
        help="resume after this event, as far as the daemon still has the events that followed",
    )


COMMAND: Final = Command("tail", "print events as they happen, one per line, until interrupted", _tail, add=_add)
