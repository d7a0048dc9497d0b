"""`callstated journal repair`: salvage every intact record into a new journal, and set the old files aside.

The newest complete snapshot contains everything before it, whether a manifest names it or not, so it is read
together with the log from its generation on. Older files would bring back deleted sessions; they are read only if
there is no complete snapshot, and so are incomplete ones. Files are read oldest first, and as in any replay a
record is skipped if the session already has its version.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

from callstate_client.engine.sessions.records import decode_record
from callstate_client.engine.table.replay import replay, snapshot
from callstate_client.engine.table.session_table import SessionTable
from callstate_sidecar.journal.checkpoint import Checkpointer
from callstate_sidecar.journal.errors import JournalDamagedError
from callstate_sidecar.journal.format import FormatError, Frame, frames, read_header, salvage
from callstate_sidecar.journal.layout import generation_of, log_path, logs, snapshots
from callstate_sidecar.journal.log import Journal
from callstate_sidecar.journal.manifest import MANIFEST, Manifest, read_manifest
from callstate_sidecar.system.exits import Exit
from callstate_sidecar.system.files import PRIVATE_DIRECTORY, Files


def repair(directory: Path, out: IO[str]) -> int:
    """Write every intact record to a new journal, then set the old files aside.

    Raises:
        JournalFormatError: the manifest is of a newer format.
        OSError: of the file system; the old files are where they were.
    """
    try:
        manifest = read_manifest(directory)
    except JournalDamagedError as error:
        print(f"{MANIFEST}: {error.what}", file=out)
        manifest = None
    old = [*snapshots(directory).values(), *logs(directory).values()]
    salvaged = Salvaged(out)
    for path in counted(directory, manifest):
        salvaged.read(path)
    aside = directory / time.strftime("damaged-%Y%m%dT%H%M%S")
    files = Files()
    aside.mkdir(PRIVATE_DIRECTORY)
    if (directory / MANIFEST).exists():
        files.replace(aside / MANIFEST, (directory / MANIFEST).read_bytes())
    _write(directory, files, salvaged, max(map(generation_of, old), default=0), manifest)
    for path in old:
        files.rename(path, aside / path.name)
    files.sync_directory(directory)
    sessions = len(salvaged.table.sessions)
    print(f"{salvaged.kept} records saved, {sessions} sessions; the damaged files are in {aside}", file=out)
    if salvaged.lost:
        holes = ", ".join(f"{first} to {last}" for first, last in salvaged.holes)
        print(f"{salvaged.lost} records are lost: {holes}; their sessions may lack a change", file=out)
    return Exit.OK


def _write(directory: Path, files: Files, salvaged: Salvaged, last: int, manifest: Manifest | None) -> None:
    """Write what was salvaged as a snapshot of a new generation. If that fails, the old journal is unchanged."""
    host_id = "" if manifest is None else manifest.host
    journal = Journal(directory, checkpoint_min_bytes=0, files=files, host_id=host_id)
    journal.resume(last, salvaged.sequence)
    try:
        Checkpointer(journal, files, partial(snapshot, salvaged.table), lambda: None).write()
    except BaseException:
        files.unlink(log_path(directory, last + 1))
        raise
    finally:
        journal.close()


def counted(directory: Path, manifest: Manifest | None) -> list[Path]:
    """The files to read, in order."""
    there, segments = snapshots(directory), logs(directory)
    whole = {generation for generation, path in there.items() if is_whole(path)}
    floor = max(whole, default=0)
    if manifest is not None and (
        manifest.snapshot in whole or (manifest.snapshot is None and manifest.log in segments)
    ):
        floor = max(floor, manifest.log)
    by_age = sorted([*there.items(), *segments.items()], key=_age)
    return [path for generation, path in by_age if generation >= floor]


def _age(item: tuple[int, Path]) -> tuple[int, bool]:
    generation, path = item
    return generation, path.name.startswith("log-")


def is_whole(path: Path) -> bool:
    """Whether a snapshot is complete: all of its records and the end mark."""
    data, last = path.read_bytes(), None
    try:
        if read_header(data).generation != generation_of(path):
            return False
    except FormatError:
        return False
    for last in frames(data, generation_of(path)):
        if not last.body:
            break
    return last is not None and not last.body and last.after == len(data)


class Salvaged:
    """What has been read so far.

    Args:
        out: where unreadable parts are reported.
    """

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self.table = SessionTable()
        self.kept = 0
        self.sequence = 0
        """Sequence of the last record of the log."""
        self.holes: list[tuple[int, int]] = []
        """First and last sequence of each run of lost records."""

    @property
    def lost(self) -> int:
        """Number of records of the log that are missing."""
        return sum(last - first + 1 for first, last in self.holes)

    def read(self, path: Path) -> None:
        """Read every intact record of a file."""
        is_log = path.name.startswith("log-")
        if not is_log and not is_whole(path):
            print(f"{path.name}: it is incomplete; sessions deleted before it may be back", file=self._out)
        for found in self._whole_records(path):
            if is_log:
                if self.sequence and found.sequence > self.sequence + 1:
                    self.holes.append((self.sequence + 1, found.sequence - 1))
                self.sequence = max(self.sequence, found.sequence)
            if found.body:
                self._apply(path, found)

    def _apply(self, path: Path, found: Frame) -> None:
        try:
            replay(self.table, decode_record(found.body))
        except Exception as error:  # noqa: BLE001 - one bad record must not cost the others
            print(f"{path.name}: record {found.sequence} can't be decoded and is skipped: {error}", file=self._out)
        else:
            self.kept += 1

    def _whole_records(self, path: Path) -> Iterator[Frame]:
        data, generation = path.read_bytes(), generation_of(path)
        try:
            header = read_header(data)
        except FormatError as error:
            print(f"{path.name}: {error}; the generation is taken from its name", file=self._out)
        else:
            if header.generation != generation:
                print(f"{path.name}: it was never written to, its header is of an earlier use", file=self._out)
        end = 0
        for found in salvage(data, generation):
            if end and found.at > end:
                print(f"{path.name}: {found.at - end} bytes at {end} can't be read", file=self._out)
            end = found.after
            yield found
