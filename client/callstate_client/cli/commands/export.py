"""`callstate export`: the calls of a running daemon, as lines of JSON."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, Final

from callstate_client.api import CallStore
from callstate_client.cli import output
from callstate_client.cli.backup import lines
from callstate_client.cli.backup.progress import progress
from callstate_client.cli.command import Command
from callstate_client.cli.filters import add_filters, matching
from callstate_client.cli.output import Output
from callstate_client.cli.private_file import is_replaceable, open_as_it_is, open_new
from callstate_client.cli.version import package_version
from callstate_client.errors import SessionNotFoundError, UnreadableError
from callstate_client.model.times import format_time, now
from callstate_client.protocol import LIST_USERS
from callstate_client.store import Record

AT_ONCE: Final = 16
"""Calls loaded at a time: enough to keep the daemon busy, and at most 128 MiB of them in memory."""


async def _export(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    info = await store.info()
    total = sum((await store.stats())["sessions"].values()) if args.scope == "host" else None
    unreadable: list[str] = []
    users = LIST_USERS in info.get("features", ())  # an older daemon does not say
    with _target(args.output) as target, progress("export", total, visible=not out.as_json) as show:
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


@contextlib.contextmanager
def _target(path: Path | None) -> Iterator[IO[bytes]]:
    """Where to write: a new file in place of an old one, once it is complete and on disk; or stdout, a pipe or a
    device."""
    if path is None:
        yield sys.stdout.buffer
        return
    if not is_replaceable(path):
        with os.fdopen(open_as_it_is(path), "wb") as there:
            yield there
        return
    draft = path.with_name(f"{path.name}.part")
    try:
        with os.fdopen(open_new(draft), "wb") as file:
            yield file
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


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
