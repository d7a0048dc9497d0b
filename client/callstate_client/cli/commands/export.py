"""`callstate export`: the calls of a running daemon, as lines of JSON."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from callstate_client.api import CallStore
from callstate_client.cli import output
from callstate_client.cli.backup import lines
from callstate_client.cli.backup.progress import progress
from callstate_client.cli.command import Command
from callstate_client.cli.filters import add_filters, matching
from callstate_client.cli.output import Output
from callstate_client.cli.version import package_version
from callstate_client.errors import SessionNotFoundError, UnreadableError
from callstate_client.model.times import format_time, now
from callstate_client.new_files import output_file
from callstate_client.protocol import LIST_USERS
from callstate_client.store import Record

AT_ONCE: Final = 16
"""Calls loaded at a time: enough to keep the daemon busy, and at most 128 MiB of them in memory."""


async def _export(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    info = await store.info()
    total = sum((await store.stats())["sessions"].values()) if args.scope == "host" else None
    unreadable: list[str] = []
    users = LIST_USERS in info.get("features", ())  # an older daemon does not say
    file = contextlib.nullcontext(sys.stdout.buffer) if args.output is None else output_file(args.output)
    with file as target, progress("export", total, visible=not out.as_json) as show:
        target.write(lines.header(package_version(), str(info["host_id"]), format_time(now())))
        sessions = 0
        async for batch in _batches(matching(store, args, users=users)):
            for line in await asyncio.gather(*(_line(store, listed, unreadable) for listed in batch)):
                if line is not None:
                    target.write(line)
                    sessions += 1
            show(sessions, sessions)
        target.write(lines.end(sessions))
        target.flush()
    for text in unreadable:
        output.error(text)
    if args.output is not None or unreadable:
        output.error(f"{sessions} calls exported" + (f", {len(unreadable)} not" if unreadable else ""))
    return 1 if unreadable else 0


async def _batches(records: AsyncIterator[Record]) -> AsyncIterator[list[Record]]:
    batch: list[Record] = []
    async for record in records:
        batch.append(record)
        if len(batch) == AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


async def _line(store: CallStore, listed: Record, unreadable: list[str]) -> bytes | None:
    """The line of a call as it is now; None if it has been deleted since it was listed."""
    try:
        return lines.entry(await store.get(listed.state.id), listed)
    except SessionNotFoundError:
        return None
    except UnreadableError as error:
        unreadable.append(str(error))
        return None


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", "-o", metavar="FILE", type=Path, help="write to this file, with mode 0600 (default: stdout)"
    )
    add_filters(parser, scope="all")


COMMAND: Final = Command(
    "export",
    "write calls, with transcripts and all that is known of them, as one line of JSON each",
    _export,
    add=_add,
    description="Write calls as lines of JSON, for `callstate import`, while the daemon goes on serving. Each line"
    " shows its call as it was at one moment; the moments of different calls differ.",
)
