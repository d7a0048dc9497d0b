"""`callstate workers`: the workers that a daemon knows."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import Final

from msgspec import UNSET
from rich.table import Table
from rich.text import Text

from callstate_client.api import CallStore
from callstate_client.cli.command import Command
from callstate_client.cli.output import Output, printable
from callstate_client.cli.render.text import duration_text
from callstate_client.model.times import now, parse_time
from callstate_client.protocol.results import WorkerInfo

_STYLES: Final = {"connected": "green", "away": "yellow", "exited": "bold yellow", "restored": "yellow"}


async def _workers(store: CallStore, _args: argparse.Namespace, out: Output) -> int:
    workers = [worker async for worker in store.workers()]
    if out.as_json:
        out.document(workers)
    elif workers:
        out.text(workers_table(workers, now()))
    else:
        out.text("no workers")
    return 0


def workers_table(workers: list[WorkerInfo], at: datetime) -> Table:
    """Workers, one per line.

    Args:
        workers: as the daemon lists them.
        at: the current time.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("ID", "STATE"):
        table.add_column(name, no_wrap=True)
    for name in ("PID", "CONNECTIONS", "SESSIONS", "SINCE"):
        table.add_column(name, no_wrap=True, justify="right")
    for worker in workers:
        table.add_row(
            Text(printable(worker.worker_id)),
            Text(printable(worker.state), style=_STYLES.get(worker.state, "")),
            "" if worker.pid is UNSET else f"{worker.pid}{'' if worker.watched else '?'}",
            str(worker.connections),
            str(worker.sessions),
            "" if worker.since is UNSET else duration_text(at - parse_time(worker.since)),
        )
    return table


COMMAND: Final = Command(
    "workers",
    "list the workers: process, connections, calls, connected since when",
    _workers,
    description="List the workers that are connected, may reconnect (away), have exited, or held calls before the "
    "daemon restarted and have not been seen since (restored). SESSIONS are the live calls that a worker holds. A "
    "? after a pid means that the daemon can't see that process exit, only its connections close and its "
    "heartbeats stop.",
)
