"""`callstate tail`: events as they come, a line each, until it is interrupted."""

from __future__ import annotations

import argparse
import asyncio

from callstate_client.api import CallStore
from callstate_client.cli import output, render
from callstate_client.cli.output import Output
from callstate_client.protocol.events import Cursor


async def tail(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    """Print what happens. It ends by itself only when the store is closed."""
    place: Cursor | None = args.since
    try:
        async for event in store.events(*args.types, since=args.since):
            place = event.cursor
            if out.as_json:
                out.line(event.to_members())
            else:
                out.text(render.event_line(event))
    except asyncio.CancelledError:
        if place is not None and not out.as_json:  # in JSON each line says its place
            output.error(f"to go on from here: --since {place.stream}:{place.seq}")
        raise
    return 0
