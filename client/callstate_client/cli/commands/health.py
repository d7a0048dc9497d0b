"""`callstate health`: whether the daemon, its journal and its store are well; for people, and for probes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from rich.text import Text

from callstate_client.api import CallStore
from callstate_client.cli.command import Command
from callstate_client.cli.output import Output, printable

DRAINING: Final = 4
STORE: Final = 5
JOURNAL: Final = 6


class Check(NamedTuple):
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    status: int
    """The exit code if it is not well."""


def _add(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--live", action="store_true", help="only whether the daemon answers: for a liveness probe")
    which.add_argument(
        "--ready",
        action="store_true",
        help="only whether it accepts new calls: for a readiness probe. A store that is down is no failure here "
        "until store.max_dirty_bytes are waiting to be written to it",
    )


async def _health(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    started = time.perf_counter()
    await store.ping()
    answered = Check("daemon", True, f"answered in {(time.perf_counter() - started) * 1000:.3f} ms", 0)
    checks = [answered]
    if not args.live:
        stats = await store.stats()
        checks += checks_of(stats) if not args.ready else await _readiness(store, stats)
    status = max((check.status for check in checks if not check.ok), default=0)
    if out.as_json:
        details = {check.name: {"ok": check.ok, "detail": check.detail} for check in checks}
        out.document({"ok": not status, "checks": details})
    else:
        for check in checks:
            mark, style = ("ok", "green") if check.ok else ("failing", "bold red")
            out.text(Text.assemble(f"{check.name:<8} ", (f"{mark:<8}", style), printable(check.detail)))
    return status


async def _readiness(store: CallStore, stats: Mapping[str, Any]) -> list[Check]:
    """Like `checks_of`, but a store that is down is well as long as there is room for what waits for it."""
    journal, backing, drain = checks_of(stats)
    if stats["store"] == "up":
        return [journal, backing._replace(ok=True), drain]
    most = next(each.value for each in await store.settings() if each.key == "store.max_dirty_bytes")
    room = f"; {stats['dirty_bytes']} bytes of {most}"
    return [journal, backing._replace(ok=stats["dirty_bytes"] < float(most), detail=backing.detail + room), drain]


def checks_of(stats: Mapping[str, Any]) -> list[Check]:
    """What the result of `server.stats` says of journal, store and drain."""
    up, draining, journal = stats["store"] == "up", stats["draining"], stats["journal"]
    told = "up" if up else f"{stats['store']}: {stats.get('store_error', '')}".removesuffix(": ")
    if stats["dirty"]:
        told += f"; {stats['dirty']} sessions to be written, the oldest for {stats['oldest_dirty_s']:g} s"
    if stats["quarantined"]:
        told += f"; {stats['quarantined']} in quarantine"
    live = sum(count for status, count in stats["sessions"].items() if status != "ended")
    return [
        Check("journal", journal == "ok", f"{stats['journal_bytes']} bytes", JOURNAL),
        Check("store", up and not stats["quarantined"], told, STORE),
        Check("drain", not draining, f"{'on, no new calls' if draining else 'off'}; {live} live", DRAINING),
    ]


COMMAND: Final = Command(
    "health",
    "check the daemon, its journal and its store; for probes",
    _health,
    add=_add,
    exits={
        0: "all is well",
        DRAINING: "it is draining",
        STORE: "the store is down, or refuses something",
        JOURNAL: "the journal can't be written, so changes are refused",
    },
    description="Say whether the daemon answers, its journal can be written, its store takes everything, and new "
    "calls are accepted. Of several faults the exit code says the gravest, which is the highest number.",
)
