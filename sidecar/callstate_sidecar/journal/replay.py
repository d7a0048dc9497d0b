"""Reading a journal back: the snapshot, then the log, and the judgement of what can't be read."""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from callstate_sidecar.journal.format import (
    DATA_START,
    END_OF_LOG,
    FormatError,
    Frame,
    Header,
    frames,
    read_header,
    read_synced,
    salvage,
)
from callstate_sidecar.journal.layout import (
    JournalDamagedError,
    JournalFormatError,
    Manifest,
    generation_of,
    log_path,
    logs,
    snapshot_path,
)
from callstate_sidecar.system.files import Files

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Segment:
    """One file of the journal, read."""

    path: Path
    data: bytes | mmap.mmap
    header: Header


@dataclass(slots=True)
class Tail:
    """An unfinished end of the log: where it begins, and the segments wholly behind it."""

    segment: Segment | None
    offset: int
    behind: list[Path]


@dataclass(slots=True)
class Replayed:
    """What a replay found."""

    records: int = 0
    first_sequence: int = 1
    sequence: int = 0
    generation: int = 0
    log_bytes: dict[int, int] = field(default_factory=dict)
    """By segment: bytes of records."""
    snapshot_bytes: int = 0
    tail: Tail | None = None


def load_segment(path: Path) -> Segment:
    """Read a file of the journal.

    Raises:
        JournalDamagedError: it is not there, or its header can't be read.
        JournalFormatError: it is of a newer format.
    """
    try:
        data = _mapped(path)
        header = read_header(data)
    except FileNotFoundError as error:
        raise JournalDamagedError(path, 0, "the file is missing") from error
    except FormatError as error:
        if "format" in str(error):
            raise JournalFormatError(f"{path}: {error}") from error
        raise JournalDamagedError(path, 0, str(error)) from error
    if header.generation != generation_of(path):
        raise JournalDamagedError(path, 8, f"it is of generation {header.generation}")
    return Segment(path, data, header)


def replay(directory: Path, manifest: Manifest, apply: Callable[[Frame], None]) -> Replayed:
    """Hand every record of snapshot and log to `apply`, oldest first, and judge the end of the log.

    Damage above the highest sequence known to be on disk is an unfinished tail: it was never acknowledged, or
    only at a level that does not promise it. Damage at or below it is a loss, and never passed over silently.

    Raises:
        JournalDamagedError: what was safely on disk can't be read.
        JournalFormatError: a file is of a newer format.
    """
    found = Replayed(generation=manifest.log)
    if manifest.snapshot is not None:
        _replay_snapshot(snapshot_path(directory, manifest.snapshot), found, apply)
    segments = _log_segments(directory, manifest)
    synced = 0
    for index, path in enumerate(segments):
        segment = load_segment(path)
        synced = max(synced, read_synced(segment.data, segment.header.generation))
        if index == 0:
            found.first_sequence = segment.header.first_sequence
            found.sequence = found.first_sequence - 1
        following = _first_sequence(segments, index + 1)
        end = DATA_START
        for frame in frames(segment.data, segment.header.generation):
            if frame.sequence != found.sequence + 1 or (following and frame.sequence >= following):
                break
            apply(frame)
            found.records += 1
            found.sequence = frame.sequence
            synced = max(synced, frame.synced)
            end = frame.after
        found.generation = segment.header.generation
        found.log_bytes[segment.header.generation] = end - DATA_START
        if following == found.sequence + 1:
            continue
        return _judge_end(found, segment, end, segments[index + 1 :], synced)
    return found


def _replay_snapshot(path: Path, found: Replayed, apply: Callable[[Frame], None]) -> None:
    segment = load_segment(path)
    at = DATA_START
    for frame in frames(segment.data, segment.header.generation):
        at = frame.after
        if not frame.body:
            if at != len(segment.data):
                raise JournalDamagedError(path, at, "there is something behind the snapshot's end")
            found.snapshot_bytes = at
            return
        apply(frame)
        found.records += 1
    raise JournalDamagedError(path, at, "a record of the snapshot can't be read")


def _mapped(path: Path) -> mmap.mmap | bytes:
    """The file's bytes, read as they are looked at: a snapshot may be as large as all that is hot."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return b""  # mmap(2) refuses to map nothing
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _log_segments(directory: Path, manifest: Manifest) -> list[Path]:
    """The segments that count, without a gap."""
    there = {generation: path for generation, path in logs(directory).items() if generation >= manifest.log}
    if not there:
        raise JournalDamagedError(log_path(directory, manifest.log), 0, "the file is missing")
    for generation in range(manifest.log, max(there) + 1):
        if generation not in there:
            raise JournalDamagedError(log_path(directory, generation), 0, "the file is missing")
    return list(there.values())


def _first_sequence(segments: list[Path], index: int) -> int | None:
    """With which sequence a segment begins; None where there is no such segment, or no telling."""
    if index >= len(segments):
        return None
    path = segments[index]
    with path.open("rb") as file:
        try:
            header = read_header(file.read(DATA_START))
        except FormatError:
            return None
    # else it never began: it has its new name, and a power loss took the header written before it was renamed
    return header.first_sequence if header.generation == generation_of(path) else None


def has_records(path: Path) -> bool:
    """Whether any whole record of this generation is in a file."""
    return next(salvage(_mapped(path), generation_of(path)), None) is not None


def _synced_behind(paths: list[Path], synced: int) -> int:
    """The highest sequence that these files know to be on disk."""
    for path in paths:
        data, generation = _mapped(path), generation_of(path)
        if len(data) >= DATA_START:
            synced = max(synced, read_synced(data, generation))
        for frame in salvage(data, generation):
            synced = max(synced, frame.synced)
    return synced


def _judge_end(found: Replayed, segment: Segment, end: int, behind: list[Path], synced: int) -> Replayed:
    """The log stops here: at its end, in an unfinished tail, or before something lost."""
    generation = segment.header.generation
    for frame in salvage(segment.data, generation, end):
        synced = max(synced, frame.synced)
    synced = _synced_behind(behind, synced)
    if synced > found.sequence:
        raise JournalDamagedError(
            segment.path,
            end,
            f"record {found.sequence + 1} can't be read, and records up to {synced} were on disk",
        )
    torn = segment.data[end : end + len(END_OF_LOG)].strip(b"\0")
    if behind or torn:
        found.tail = Tail(segment if torn else None, end, behind)
    return found


def cut(files: Files, tail: Tail) -> None:
    """Take an unfinished tail out of the log, and keep it beside.

    Raises:
        OSError: the disk refuses; nothing is lost, the next start tries again.
    """
    for path in reversed(tail.behind):
        if has_records(path):
            files.rename(path, _aside(path))
            log.warning("%s is behind the end of the log: set aside", path.name)
        else:  # it never began; what an earlier use left in it may be of sessions deleted since
            files.unlink(path)
            log.info("%s never began: removed", path.name)
    if tail.segment is None:
        return
    path, rest = tail.segment.path, tail.segment.data[tail.offset :].rstrip(b"\0")
    aside = _aside(path)
    fd = files.create(aside)
    try:
        files.write(fd, rest, 0)
        files.sync(fd)
    finally:
        files.close(fd)
    fd = files.open(path)
    try:
        files.truncate(fd, tail.offset)
        files.sync(fd)
    finally:
        files.close(fd)
    files.sync_directory(path.parent)
    log.warning(
        "%s ended in an unfinished record: %d bytes at %d cut off, kept as %s",
        path.name, len(rest), tail.offset, aside.name,
    )  # fmt: skip


def _aside(path: Path) -> Path:
    number = 1
    while os.path.lexists(aside := path.with_suffix(f".aside-{number}")):
        number += 1
    return aside
