"""`callstated journal inspect|verify|repair|export DIR`: for a journal that is stopped, or a copy of one."""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from callstate_client import stdio
from callstate_sidecar.cache import Cache
from callstate_sidecar.commands.reading import loaded
from callstate_sidecar.exits import Exit
from callstate_sidecar.journal.checkpoint import Checkpointer
from callstate_sidecar.journal.files import Files
from callstate_sidecar.journal.format import FormatError, Frame, Kind, read_header, read_synced, salvage
from callstate_sidecar.journal.layout import MANIFEST, JournalError, generation_of, read_manifest
from callstate_sidecar.journal.log import Journal
from callstate_sidecar.journal.replay import replay
from callstate_sidecar.records import decode_record
from callstate_sidecar.statedir import LOCK_NAME


def main(argv: Sequence[str]) -> int:
    """Run one of the commands; gives the exit status: 0, 2 usage, 3 a daemon is running, 4 damaged."""
    parser = argparse.ArgumentParser(
        prog="callstated journal", description="Look into, check, mend or export a stopped daemon's journal."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("inspect", "say what each file of the journal holds"),
        ("verify", "read all of it as a start would; exit status 4 where that fails"),
        ("repair", "save every whole record of a damaged journal; the damaged files are kept beside"),
        ("export", "print every session as a line of JSON"),
    ):
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        command.add_argument(
            "directory", metavar="DIR", type=Path, help="the state directory, or the journal in it"
        )
    args = parser.parse_args(argv)
    directory = args.directory if (args.directory / MANIFEST).exists() else args.directory / "journal"
    if not directory.is_dir():
        return _fail(f"{args.directory} holds no journal", Exit.USAGE)
    run = {"inspect": inspect, "verify": verify, "repair": repair, "export": export}[args.command]
    try:
        with _Unused(directory, needed=args.command == "repair"):
            return run(directory, sys.stdout)
    except JournalError as error:
        return _fail(str(error), Exit.JOURNAL)
    except BlockingIOError:
        return _fail(f"a callstated uses {directory}: stop it first, or work on a copy", Exit.ALREADY_RUNNING)


class _Unused:
    """Holds the state directory's lock, so that no daemon starts upon files that are being mended."""

    def __init__(self, directory: Path, *, needed: bool) -> None:
        lock = directory.parent / LOCK_NAME
        self._fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC) if needed and lock.exists() else -1

    def __enter__(self) -> None:
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def inspect(directory: Path, out: IO[str]) -> int:
    """Say what each file holds, damaged or not."""
    manifest = (directory / MANIFEST).read_text("utf-8", "replace").strip()
    print(f"{MANIFEST}: {manifest}", file=out)
    for path in _files_of(directory):
        data = path.read_bytes()
        try:
            header = read_header(data)
        except FormatError as error:
            print(f"{path.name}: {len(data)} bytes, {error}", file=out)
            continue
        kinds: Counter[str] = Counter()
        first = last = end = 0
        for found in salvage(data, header.generation):
            first, last, end = first or found.sequence, found.sequence, found.after
            kinds[type(decode_record(found.body)).__name__ if found.body else "end"] += 1
        print(
            f"{path.name}: {Kind(header.kind).name.lower()}, "
            f"records {first} to {last} in {end} of {len(data)} bytes, "
            f"synced up to {read_synced(data, header.generation)}, {dict(kinds)}",
            file=out,
        )
    return Exit.OK


def verify(directory: Path, out: IO[str]) -> int:
    """Read all of it as a start would, changing nothing."""
    cache = Cache()
    manifest = read_manifest(directory)
    if manifest is None:
        print("the journal has not begun", file=out)
        return Exit.OK
    found = replay(directory, manifest, lambda frame: cache.replay(decode_record(frame.body)))
    print(f"good: {found.records} records, {len(cache.entries)} sessions, last record {found.sequence}", file=out)
    if found.tail is not None:
        print("it ends in an unfinished tail, which the next start cuts off and sets aside", file=out)
    return Exit.OK


def export(directory: Path, out: IO[str]) -> int:
    """Print every session, as `session.load` would show it, one a line."""
    cache = Cache()
    manifest = read_manifest(directory)
    if manifest is not None:
        replay(directory, manifest, lambda frame: cache.replay(decode_record(frame.body)))
    for entry in cache.entries.values():
        print(loaded(entry, entry.doc.to_json(entry.updated_us), 0).decode(), file=out)
    return Exit.OK


def repair(directory: Path, out: IO[str]) -> int:
    """Put every whole record into a new journal, and the old files aside."""
    files, cache = Files(), Cache()
    kept = lost = 0
    after, holes, last_generation = 0, [], 0
    paths = list(_files_of(directory))
    counted = _counted(directory)
    for path in paths:
        last_generation = max(last_generation, generation_of(path))
        if not counted(path):
            continue  # what an earlier checkpoint replaced may bring back what was deleted since
        for found in _salvaged(path, out):
            if path.name.startswith("log-"):
                if after and found.sequence > after + 1:
                    holes.append(f"{after + 1} to {found.sequence - 1}")
                    lost += found.sequence - after - 1
                after = max(after, found.sequence)
            if found.body:
                cache.replay(decode_record(found.body))
                kept += 1
    aside = directory / time.strftime("damaged-%Y%m%dT%H%M%S")
    aside.mkdir()
    for path in [directory / MANIFEST, *paths]:
        if path.exists():
            files.rename(path, aside / path.name)
    journal = Journal(directory, checkpoint_min_bytes=0, files=files)
    journal.resume(last_generation, after)
    Checkpointer(journal, files, cache.snapshot, lambda: None).run_now()
    journal.close()
    print(f"{kept} records saved, {len(cache.entries)} sessions; the damaged files are in {aside}", file=out)
    if lost:
        print(f"{lost} records are lost: {', '.join(holes)}; a session they were of may lack a change", file=out)
    return Exit.OK


def _salvaged(path: Path, out: IO[str]) -> Iterator[Frame]:
    """The whole records of a file, and a line where something between them is none."""
    data = path.read_bytes()
    try:
        generation = read_header(data).generation
    except FormatError as error:
        print(f"{path.name}: {error}; its name tells its generation", file=out)
        generation = generation_of(path)
    end = 0
    for found in salvage(data, generation):
        if end and found.at > end:
            print(f"{path.name}: {found.at - end} bytes at {end} can't be read", file=out)
        end = found.after
        yield found


def _counted(directory: Path) -> Callable[[Path], bool]:
    """Whether a file counts, as the manifest says; where nobody can say, all do."""
    try:
        manifest = read_manifest(directory)
    except JournalError:
        manifest = None
    if manifest is None:
        return lambda _: True
    snapshot, first = manifest.snapshot, manifest.log
    return lambda path: (
        generation_of(path) >= first if path.name.startswith("log-") else generation_of(path) == snapshot
    )


def _files_of(directory: Path) -> Iterator[Path]:
    """Snapshots, then logs, each in order: the order in which they are to be read."""
    yield from sorted(directory.glob("snapshot-*.csj"))
    yield from sorted(directory.glob("log-*.csj"))


def _fail(text: str, status: Exit) -> int:
    stdio.complain("callstated journal", text)
    return status
