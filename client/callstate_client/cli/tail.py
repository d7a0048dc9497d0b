"""`callstate tail`: prints events as they happen, one per line, until it is interrupted."""

from __future__ import annotations

import argparse
import asyncio

from rich.text import Text

from callstate_client.api import CallStore
from callstate_client.cli import output
from callstate_client.cli.output import Output, printable
from callstate_client.protocol.events import GAP, Cursor, Event

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


async def tail(store: CallStore, args: argparse.Namespace, out: Output) -> int:
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
