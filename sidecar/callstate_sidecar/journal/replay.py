"""Replay: read the snapshot, then the log, and decide what an unreadable end of the log means.

The log is read up to the first record that is not intact. That is where it ends, if nothing after it was known to
be on disk: then what follows is an incomplete tail, which was never acknowledged, or only at a durability that does
not promise to survive a power loss. It is cut off and set aside. But if any intact record or segment header, before
or after, says that a later sequence had been synced, acknowledged data is damaged, and the replay fails rather than
ignore it.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from callstate_client.engine.sessions.records import Record, decode_record
from callstate_sidecar.journal.errors import REPAIR, JournalDamagedError, JournalError, JournalFormatError
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
from callstate_sidecar.journal.layout import generation_of, log_path, logs, snapshot_path, snapshots
from callstate_sidecar.journal.manifest import Manifest
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.system.files import Files

log = EventLog(__name__)


@dataclass(slots=True)
class Segment:
    """A file of the journal, mapped into memory."""

    path: Path
    data: bytes | mmap.mmap
    header: Header


@dataclass(slots=True)
class Tail:
    """An incomplete end of the log: where it begins, and the segments after it."""

    segment: Segment | None
    offset: int
    behind: list[Path]


@dataclass(slots=True)
class Replayed:
    """The result of a replay."""

    records: int = 0
    first_sequence: int = 1
    sequence: int = 0
    generation: int = 0
    log_bytes: dict[int, int] = field(default_factory=dict)
    """Bytes of records by segment."""
    snapshot_bytes: int = 0
    tail: Tail | None = None


def load_segment(path: Path, *, copied: bool = False) -> Segment:
    """Map a file of the journal and read its header.

    Args:
        path: of the file.
        copied: read it instead. A daemon may cut a log segment off, and access to what was mapped there is fatal.

    Raises:
        JournalDamagedError: it is missing, or its header can't be read.
        JournalFormatError: it is of a newer format.
    """
    try:
        data = path.read_bytes() if copied else _mapped(path)
        header = read_header(data)
    except FileNotFoundError as error:
        raise JournalDamagedError(path, 0, "the file is missing") from error
    except FormatError as error:
        if "format" in str(error):
            raise JournalFormatError(path, str(error).removeprefix("it ")) from error
        raise JournalDamagedError(path, 0, str(error)) from error
    if header.generation != generation_of(path):
        raise JournalDamagedError(path, 8, f"its header says generation {header.generation}")
    return Segment(path, data, header)


def decoding(directory: Path, apply: Callable[[Record], None]) -> Callable[[Frame], None]:
    """What decodes the records of a journal and applies them.

    Raises (when it is called):
        JournalError: an intact record can't be decoded or applied.
    """

    def decoded(found: Frame) -> None:
        try:
            apply(decode_record(found.body))
        except Exception as error:
            raise JournalError(
                f"record {found.sequence} of {directory} is intact but can't be decoded: {error}"
            ) from error

    return decoded


def replay(
    directory: Path, manifest: Manifest, apply: Callable[[Frame], None], *, written_to: bool = False
) -> Replayed:
    """Pass every record of snapshot and log to `apply`, oldest first, and judge the end of the log.

    Args:
        directory: the journal.
        manifest: which files count.
        apply: called with each record.
        written_to: a daemon may write to the log meanwhile, so whatever follows the last intact record may be newer
            than it, and says nothing about damage; see live.py.

    Raises:
        JournalDamagedError: a record that had been synced can't be read.
        JournalFormatError: a file is of a newer format.
    """
    found = Replayed(generation=manifest.log)
    segments = _log_segments(directory, manifest)
    synced = _marked(segments) if written_to else 0
    if manifest.snapshot is not None:
        _replay_snapshot(snapshot_path(directory, manifest.snapshot), found, apply)
    for index, path in enumerate(segments):
        segment = load_segment(path, copied=written_to)
        if not written_to:
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
        if written_to:
            return _judged(found, segment, end, synced)
        return _judge_end(found, segment, end, segments[index + 1 :], synced)
    return found


def _replay_snapshot(path: Path, found: Replayed, apply: Callable[[Frame], None]) -> None:
    segment = load_segment(path)
    at = DATA_START
    for frame in frames(segment.data, segment.header.generation):
        at = frame.after
        if not frame.body:
            if at != len(segment.data):
                raise JournalDamagedError(path, at, "there is data after the end of the snapshot")
            found.snapshot_bytes = at
            return
        apply(frame)
        found.records += 1
    raise JournalDamagedError(path, at, "a record of the snapshot can't be read")


def _mapped(path: Path) -> mmap.mmap | bytes:
    """The file's bytes, paged in on access: a snapshot may be as large as everything hot."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return b""  # mmap(2) refuses to map an empty file
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _log_segments(directory: Path, manifest: Manifest) -> list[Path]:
    """The segments that count; none may be missing."""
    there = {generation: path for generation, path in logs(directory).items() if generation >= manifest.log}
    if not there:
        raise JournalDamagedError(log_path(directory, manifest.log), 0, "the file is missing")
    for generation in range(manifest.log, max(there) + 1):
        if generation not in there:
            raise JournalDamagedError(log_path(directory, generation), 0, "the file is missing")
    return list(there.values())


def _marked(segments: list[Path]) -> int:
    """The highest sequence that was on disk at this moment, by the marks of the segments."""
    synced = 0
    for path in segments:
        with path.open("rb") as file:
            head = file.read(DATA_START)
        if len(head) == DATA_START:
            synced = max(synced, read_synced(head, generation_of(path)))
    return synced


def _first_sequence(segments: list[Path], index: int) -> int | None:
    """The first sequence of a segment; None if there is no such segment, or its header is unreadable."""
    if index >= len(segments):
        return None
    path = segments[index]
    with path.open("rb") as file:
        try:
            header = read_header(file.read(DATA_START))
        except FormatError:
            return None
    # another generation: it was renamed, but a power loss took the header written just before
    return header.first_sequence if header.generation == generation_of(path) else None


def has_records(path: Path) -> bool:
    """Whether a file has any intact record of its generation."""
    return next(salvage(_mapped(path), generation_of(path)), None) is not None


def _synced_behind(paths: list[Path], synced: int) -> int:
    """The highest sequence that these files say was on disk."""
    for path in paths:
        data, generation = _mapped(path), generation_of(path)
        if len(data) >= DATA_START:
            synced = max(synced, read_synced(data, generation))
        for frame in salvage(data, generation):
            synced = max(synced, frame.synced)
    return synced


def _judged(found: Replayed, segment: Segment, end: int, synced: int) -> Replayed:
    """The result, if it has everything that was on disk."""
    if synced > found.sequence:
        raise JournalDamagedError(
            segment.path,
            end,
            f"record {found.sequence + 1} can't be read, and records up to {synced} were on disk",
        )
    return found


def _judge_end(found: Replayed, segment: Segment, end: int, behind: list[Path], synced: int) -> Replayed:
    """Decide whether the log ends here properly, or with an incomplete tail; otherwise it is damaged."""
    generation = segment.header.generation
    for frame in salvage(segment.data, generation, end):
        synced = max(synced, frame.synced)
    _judged(found, segment, end, _synced_behind(behind, synced))
    torn = segment.data[end : end + len(END_OF_LOG)].strip(b"\0")
    if behind or torn:
        found.tail = Tail(segment if torn else None, end, behind)
    return found


def check_new(directory: Path) -> None:
    """Check that a journal without a manifest is new: it may have empty segments, which a first start has left.

    Raises:
        JournalError: there are records, and no manifest to say which of them count.
    """
    if snapshots(directory) or any(has_records(path) for path in logs(directory).values()):
        raise JournalError(
            f"{directory} has segments or snapshots but no MANIFEST to say which of them are current. "
            f"Take a copy of it, then run: {REPAIR} {directory}"
        )


def discard_unused(files: Files, directory: Path) -> None:
    """Remove empty segments left by a first start that failed before it wrote a manifest.

    Raises:
        JournalError: as for `check_new`.
    """
    check_new(directory)
    for path in logs(directory).values():
        files.unlink(path)


def cut(files: Files, tail: Tail) -> None:
    """Cut an incomplete tail off the log and set it aside.

    Raises:
        OSError: of the file system; nothing is lost, the next start tries again.
    """
    for path in reversed(tail.behind):
        if has_records(path):
            files.rename(path, _aside(path))
            log.warning("journal_segment_set_aside", "%s comes after the end of the log: set aside", path.name)
        else:  # it was never written to; records of an earlier use may be of sessions deleted since
            files.unlink(path)
            log.info("journal_segment_unused", "%s was never written to: removed", path.name)
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
        "journal_tail_cut",
        "%s ended in an incomplete record: %d bytes at %d cut off, kept as %s",
        path.name, len(rest), tail.offset, aside.name,
    )  # fmt: skip


def _aside(path: Path) -> Path:
    number = 1
    while os.path.lexists(aside := path.with_suffix(f".aside-{number}")):
        number += 1
    return aside
