"""`callstated journal inspect|verify|repair|export DIR`: of a stopped daemon, or (`export`) of a running one."""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

import msgspec

from callstate_client.engine.sessions.records import decode_record
from callstate_client.engine.table.replay import replay as apply
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.engine.verbs.read import loaded
from callstate_client.new_files import output_file
from callstate_sidecar.journal.errors import JournalError
from callstate_sidecar.journal.format import FormatError, Frame, Kind, read_header, read_synced, salvage
from callstate_sidecar.journal.layout import generation_of, logs, snapshots
from callstate_sidecar.journal.live import read_live
from callstate_sidecar.journal.manifest import MANIFEST, read_manifest
from callstate_sidecar.journal.repair import repair
from callstate_sidecar.journal.replay import check_new, decoding, replay
from callstate_sidecar.system import stdio
from callstate_sidecar.system.exits import Exit
from callstate_sidecar.system.files import open_existing
from callstate_sidecar.system.state_dir import JOURNAL_NAME, LOCK_NAME


def parser() -> argparse.ArgumentParser:
    """The parser of the commands."""
    parser = argparse.ArgumentParser(
        prog="callstated journal",
        description="Inspect, verify or repair the journal of a stopped daemon, or export one.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("inspect", "show what each file of the journal contains"),
        ("verify", "read the journal as the daemon does when it starts; exit status 4 if that fails"),
        ("repair", "salvage every intact record of a damaged journal; the damaged files are kept"),
        ("export", "print every session as one line of JSON, also while the daemon runs"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.")
        command.add_argument(
            "directory", metavar="DIR", type=Path, help="the state directory, or the journal in it"
        )
        if name == "export":
            command.add_argument(
                "--output",
                "-o",
                metavar="FILE",
                type=Path,
                help="write to this file, with mode 0600 (default: stdout)",
            )
    return parser


def main(argv: Sequence[str]) -> int:
    """Run one of the commands; returns the exit status: 0, 2 wrong usage, 3 a daemon is running, 4 damaged."""
    args = parser().parse_args(argv)
    directory = args.directory if _is_journal(args.directory) else args.directory / JOURNAL_NAME
    if not directory.is_dir():
        return _fail(f"{args.directory} holds no journal", Exit.USAGE)
    run = {"inspect": inspect, "verify": verify, "repair": repair, "export": export}[args.command]
    if args.command != "export":  # its output file may be where only root can write
        _become_owner(directory)
    try:
        with _Unused(directory, needed=args.command == "repair"), _target(getattr(args, "output", None)) as out:
            return run(directory, out)
    except JournalError as error:
        return _fail(str(error), Exit.JOURNAL)
    except BlockingIOError:
        return _fail(
            f"a running callstated uses {directory}: stop it first, or work on a copy", Exit.ALREADY_RUNNING
        )


def _become_owner(directory: Path) -> None:
    """As root, go on as the journal's owner, unless only root can reach the directory, as with a copy.

    The daemon has to be able to open what a repair makes, and a link among its files must not lead to root's.
    """
    try:
        found = directory.stat()
    except FileNotFoundError:
        return
    if os.geteuid() != 0 or found.st_uid == 0:
        return
    os.setegid(found.st_gid)
    os.seteuid(found.st_uid)
    reaches_it = os.access(directory, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)
    os.seteuid(0)
    os.setegid(0)
    if reaches_it:
        os.setgroups([])
        os.setgid(found.st_gid)
        os.setuid(found.st_uid)


@contextmanager
def _target(path: Path | None) -> Iterator[IO[str]]:
    """Where to print: to the output that was named, or to stdout."""
    if path is None:
        yield sys.stdout
        return
    with output_file(path) as file:
        text = io.TextIOWrapper(file, "utf-8")
        try:
            yield text
        finally:
            text.detach()  # flushes, and leaves the file open


def _is_journal(directory: Path) -> bool:
    """Whether a directory is a journal, even one without a manifest."""
    try:
        names = [path.name for path in directory.iterdir()]
    except OSError:
        return False
    return any(name == MANIFEST or name.endswith(".csj") for name in names)


class _Unused:
    """Holds the state directory's lock, so that no daemon starts while its files are being repaired."""

    def __init__(self, directory: Path, *, needed: bool) -> None:
        lock = directory.parent / LOCK_NAME
        self._fd = open_existing(lock) if needed and os.path.lexists(lock) else -1

    def __enter__(self) -> None:
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def inspect(directory: Path, out: IO[str]) -> int:
    """Print what each file contains, damaged or not."""
    path = directory / MANIFEST
    manifest = path.read_text("utf-8", "replace").strip() if path.exists() else "missing"
    print(f"{MANIFEST}: {manifest}", file=out)
    for path in [*snapshots(directory).values(), *logs(directory).values()]:
        data = path.read_bytes()
        try:
            header = read_header(data)
        except FormatError as error:
            print(f"{path.name}: {len(data)} bytes, {error}", file=out)
            continue
        kinds: Counter[str] = Counter()
        first = last = end = 0
        generation = generation_of(path)
        if header.generation != generation:
            print(
                f"{path.name}: it was never written to, its header is of generation {header.generation}", file=out
            )
        for found in salvage(data, generation):
            first, last, end = first or found.sequence, found.sequence, found.after
            kinds[_kind(found)] += 1
        print(
            f"{path.name}: {_kind_of(header.kind)}, "
            f"records {first} to {last} in {end} of {len(data)} bytes, "
            f"synced up to {read_synced(data, generation)}, {dict(kinds)}",
            file=out,
        )
    return Exit.OK


def _kind_of(number: int) -> str:
    names = {kind.value: kind.name.lower() for kind in Kind}
    return names.get(number, f"of unknown kind {number}")


def _kind(found: Frame) -> str:
    try:
        return type(decode_record(found.body)).__name__ if found.body else "end"
    except msgspec.MsgspecError:
        return "unknown"


def verify(directory: Path, out: IO[str]) -> int:
    """Read the journal as a start would, without changing anything."""
    table = SessionTable()
    manifest = read_manifest(directory)
    if manifest is None:
        check_new(directory)
        print("there is no journal yet", file=out)
        return Exit.OK
    found = replay(directory, manifest, decoding(directory, partial(apply, table)))
    print(f"good: {found.records} records, {len(table.sessions)} sessions, last record {found.sequence}", file=out)
    if found.tail is not None:
        print("it ends in an incomplete tail, which the next start cuts off and sets aside", file=out)
    return Exit.OK


def export(directory: Path, out: IO[str]) -> int:
    """Print every session, as `session.load` would return it, one per line; also of a running daemon."""
    status = Exit.OK
    for session in read_live(directory).sessions.values():
        document = session.doc.to_json(session.updated_us)
        line = loaded(session, document, 0, for_worker=True, users=True)
        try:
            print(line.decode(), file=out)
        except UnicodeDecodeError as error:  # the others are worth having
            status = Exit.JOURNAL
            _fail(f"session {session.id} is not UTF-8, and left out: {error}", status)
    return status


def _fail(text: str, status: Exit) -> int:
    stdio.complain("callstated journal", text)
    return status
