"""Hangs up, at the provider, the calls that the daemon has ended because their workers were dead.

Where no worker takes a dead call over, the daemon ends the session, and the phone line stays open until somebody
tells the provider. This supervisor does: it follows `expired` events and keeps its place in them in a file, so that
one that is started anew goes on where it was. Where events are missing (the daemon restarted, or it was away for
too long) it looks at what has ended since. To hang up twice does no harm, so it may.

    python examples/supervisor.py --cursor /var/lib/voice/supervisor.cursor [--socket PATH]
"""

from __future__ import annotations

import argparse
import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from callstate_client import Cursor, SidecarStore, connect

REAPED = ("heartbeat_timeout", "worker_exited", "host_lost", "max_duration", "poisoned")
"""Why the daemon ends a session itself; whoever ends one otherwise hangs up himself."""

LOOK_BACK = timedelta(hours=1)
"""How far a gap may reach back: ended sessions are listed for `reaper.retention_s`, five minutes by default."""


class Provider:
    """In place of a telephone provider's client: hanging up twice is once."""

    def __init__(self) -> None:
        self._hung_up: set[str] = set()

    async def hang_up(self, call_id: str) -> None:
        """End the call on the line."""
        if call_id not in self._hung_up:
            self._hung_up.add(call_id)
            print(f"hung up {call_id}", flush=True)


class Place:
    """The last event that was seen to, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Cursor | None:
        """Where to go on; None for the first time."""
        return Cursor(*json.loads(self._path.read_text())) if self._path.exists() else None

    def save(self, cursor: Cursor) -> None:
        """Seen to, up to here; a crash leaves the old place or the new one."""
        draft = self._path.with_suffix(".new")
        draft.write_text(json.dumps(cursor))
        draft.replace(self._path)


async def reconcile(store: SidecarStore, provider: Provider) -> None:
    """Events are missing: look at what has ended."""
    print("reconciling", flush=True)
    async for record in store.sessions(status="ended", ended_since=datetime.now(UTC) - LOOK_BACK):
        if record.ended_reason in REAPED:
            await provider.hang_up(record.state.call_id or record.state.id)


async def supervise(store: SidecarStore, provider: Provider, place: Place) -> None:
    """For ever: hang up what expires."""
    async with store.events("expired", since=place.load()) as events:
        if events.cursor is not None:
            place.save(events.cursor)  # the first time there is none: a crash before the first event would miss it
        print("watching", flush=True)
        async for event in events:
            if event.type == "gap":
                await reconcile(store, provider)
            elif event.session_id is not None:
                await provider.hang_up(event.call_id or event.session_id)
            place.save(event.cursor)  # behind what was done: done twice is better than not at all


async def main() -> None:
    """As the arguments say."""
    parser = argparse.ArgumentParser(description="hang up calls that callstate has reaped")
    parser.add_argument("--cursor", type=Path, required=True, help="file that keeps the place in the events")
    parser.add_argument("--socket", help="the daemon's; found by itself where left out")
    args = parser.parse_args()
    async with connect(args.socket, register=False) as store:
        await supervise(store, Provider(), Place(args.cursor))


if __name__ == "__main__":
    asyncio.run(main())
