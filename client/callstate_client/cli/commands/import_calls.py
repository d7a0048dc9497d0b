"""`callstate import`: calls of an export, brought into a running daemon."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

from callstate_client.api import CallStore
from callstate_client.cli import output
from callstate_client.cli.backup.bring import Outcome, bring
from callstate_client.cli.backup.lines import End, Entry, Header, LineError, parse
from callstate_client.cli.backup.progress import progress
from callstate_client.cli.command import Command
from callstate_client.cli.output import Output
from callstate_client.errors import CallstateError, NoDaemonError, OverloadedError, ShuttingDownError
from callstate_client.protocol import LIST_USERS

AT_ONCE: Final = 16
"""Calls brought in at a time."""

LINE_BYTES: Final = 64 * 1024 * 1024
"""The longest line: the largest `limits.session_bytes` that makes sense, and its escapes."""

_FATAL: Final = (NoDaemonError, OverloadedError, ShuttingDownError)
"""Errors that every further call would have as well."""


class _Import:
    """One import.

    Args:
        store: connected to the daemon.
        replace: replace calls that exist.
    """

    def __init__(self, store: CallStore, *, replace: bool) -> None:
        self._store = store
        self._replace = replace
        self._users: bool | None = None
        """Whether each is created for the user that created it there; None: that is not known yet."""
        self.outcomes: Counter[Outcome] = Counter()
        self.failed = 0
        self.read = 0
        self.has_header = False
        self.end: End | None = None

    async def take(self, number: int, line: bytes) -> None:
        """Bring in what a line has. A call that is refused is reported, and the others go on."""
        try:
            found = parse(line)
            match found:
                case Header():
                    self.has_header = True
                case End():
                    self.end = found
                case Entry():
                    self.read += 1
                    entry = await self._permitted(found)
                    self.outcomes[await bring(self._store, entry, replace=self._replace)] += 1
        except _FATAL:
            raise
        except (LineError, CallstateError) as error:
            self.failed += 1
            output.error(f"line {number}: {error}")

    async def _permitted(self, entry: Entry) -> Entry:
        """A call as we may create it: for its user, if we are an operator; else for ourselves."""
        if entry.user is None:
            return entry
        if self._users is None:
            self._users = _is_operator(await self._store.info())
        return entry if self._users else replace(entry, user=None)

    @property
    def is_complete(self) -> bool:
        """Whether the export was read to its end. One without a header has no last line either."""
        return not self.has_header or (self.end is not None and self.end.sessions == self.read)


async def _import(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    work = _Import(store, replace=args.replace)
    with _source(args.file) as source, progress("import", _size(source), visible=not out.as_json) as show:
        numbered = enumerate(iter(lambda: source.readline(LINE_BYTES), b""), 1)
        done = 0
        while batch := await asyncio.to_thread(lambda: [*islice(numbered, AT_ONCE)]):
            await asyncio.gather(*(work.take(number, line) for number, line in batch if line.strip()))
            done += sum(len(line) for _, line in batch)
            show(done, work.read)
    _report(work, out)
    if not work.is_complete:
        output.error("the export is not complete: its last line is missing, or calls before it")
    return 1 if work.failed or not work.is_complete else 0


def _is_operator(info: Mapping[str, Any]) -> bool:
    """Whether the daemon takes us for an operator. It says so only where access is restricted; root always is."""
    if LIST_USERS not in info.get("features", ()):
        return False  # an older daemon knows no users
    return bool(info.get("access", {"operator": os.geteuid() == 0})["operator"])


def _report(work: _Import, out: Output) -> None:
    counts = {outcome.name.lower(): work.outcomes[outcome] for outcome in Outcome} | {"failed": work.failed}
    if out.as_json:
        out.document(counts)
        return
    told = [f"{work.outcomes[outcome]} {outcome.value}" for outcome in Outcome if work.outcomes[outcome]]
    if work.failed:
        told.append(f"{work.failed} failed")
    out.text("\n".join(told) or "the export contains no calls")


@contextlib.contextmanager
def _source(path: Path | None) -> Iterator[IO[bytes]]:
    if path is None or str(path) == "-":
        yield sys.stdin.buffer
        return
    with path.open("rb") as file:
        yield file


def _size(source: IO[bytes]) -> int | None:
    """How large a file is; None for a pipe."""
    try:
        status = os.fstat(source.fileno())
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, nargs="?", help="what an export wrote (default: stdin)")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="replace calls that exist, unless a worker holds them (default: existing calls are left as they are)",
    )


COMMAND: Final = Command(
    "import",
    "load the calls that `callstate export` or `callstated journal export` wrote into the daemon",
    _import,
    add=_add,
    description="Load exported calls into the daemon while it goes on serving. Live calls become orphans, which any"
    " worker may recover; ended ones stay ended.",
    exits={1: "a call was refused, or the export is not complete"},
)
