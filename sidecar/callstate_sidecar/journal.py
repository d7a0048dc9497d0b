"""The local log: what makes an acknowledgement mean something.

A segment is a file of records behind a header; the newest whole segment is the journal. A new one begins with
a snapshot of everything hot, written beside the old one and renamed when it is on disk, so there is a whole
journal at every moment.

    segment   "CSJL" u16 version, u16 zero, u64 generation, u32 CRC of the 16 bytes before
    record    u32 length, u32 CRC, u64 sequence, body: msgpack, see records.py

Integers are little-endian. The CRC-32 of a record covers generation, length, sequence and body, so a record of
another segment is never taken for one of this.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from callstate_sidecar.records import Record, decode_record, encode_record

log = logging.getLogger(__name__)

VERSION: Final = 1
MAGIC: Final = b"CSJL"
MAX_RECORD_BYTES: Final = 1 << 30
"""No record is that long: a length beyond is damage."""

SNAPSHOT_WRITE_BYTES: Final = 1 << 20
"""A snapshot is written in pieces of about this size."""

_SEGMENT = struct.Struct("<4sHHQ")
_CRC = struct.Struct("<I")
_RECORD = struct.Struct("<IIQ")
_SALT = struct.Struct("<QIQ")
SEGMENT_HEADER_BYTES: Final = _SEGMENT.size + _CRC.size


class JournalError(Exception):
    """The journal can't be used as it is; the text says why and what to do."""


class JournalFormatError(JournalError):
    """A newer format, or no journal at all."""


def _segment_header(generation: int) -> bytes:
    head = _SEGMENT.pack(MAGIC, VERSION, 0, generation)
    return head + _CRC.pack(zlib.crc32(head))


def frame(generation: int, sequence: int, body: bytes) -> bytes:
    """One record as it lies in a segment."""
    crc = zlib.crc32(body, zlib.crc32(_SALT.pack(generation, len(body), sequence)))
    return _RECORD.pack(len(body), crc, sequence) + body


class Journal:
    """The log of one state directory. Used from one thread, but for `sync`, which may run in another.

    Args:
        directory: the state directory; exists.
        keep_log: False (durability `memory`): only snapshots are written.
        sync_groups: True (durability `power`): each group is synced before it is acknowledged.
    """

    def __init__(self, directory: Path, *, keep_log: bool = True, sync_groups: bool = False) -> None:
        self._directory = directory
        self._keep_log = keep_log
        self._sync_groups = sync_groups
        self._fd = -1
        self._generation = 0
        self._sequence = 0
        self._end = 0
        self._synced = 0

    @property
    def size_bytes(self) -> int:
        """Length of the log."""
        return self._end

    @property
    def unsynced_bytes(self) -> int:
        """What a power loss would take."""
        return self._end - self._synced

    # -- start --------------------------------------------------------------------------------------------

    def replay(self, apply: Callable[[Record], None]) -> int:
        """Hand every record of the log to `apply`, cut off an unfinished tail, and count the records.

        Raises:
            JournalError: the log can't be read, or is of a newer format.
        """
        segments = self._segments()
        if not segments:
            return 0
        path = segments[-1]
        data = path.read_bytes()
        self._generation = _generation_of(path, data)
        end, count = SEGMENT_HEADER_BYTES, 0
        for sequence, body, after in self._records(data):
            try:
                apply(decode_record(body))
            except Exception as error:
                raise JournalError(
                    f"{path}: record {sequence} at {end} is whole but not readable: {error}"
                ) from error
            self._sequence, end = sequence, after
            count += 1
        if end < len(data):
            aside = path.with_suffix(f".tail-{end}")
            aside.write_bytes(data[end:])
            log.warning(
                "the journal ends in an unfinished record: %d bytes at %d cut off, kept in %s",
                len(data) - end, end, aside.name,
            )  # fmt: skip
        return count

    def _records(self, data: bytes) -> Iterator[tuple[int, bytes, int]]:
        """Sequence, body and end of each whole record from the start on."""
        at = SEGMENT_HEADER_BYTES
        while at + _RECORD.size <= len(data):
            length, crc, sequence = _RECORD.unpack_from(data, at)
            after = at + _RECORD.size + length
            if length > MAX_RECORD_BYTES or after > len(data):
                return
            body = data[at + _RECORD.size : after]
            if crc != zlib.crc32(body, zlib.crc32(_SALT.pack(self._generation, length, sequence))):
                return
            yield sequence, body, after
            at = after

    def begin(self, snapshot: Iterable[Record]) -> None:
        """Start a new segment with this snapshot; once it is on disk, drop the older ones.

        Raises:
            OSError: it can't be written; the old segment is still there.
        """
        before = self._segments()
        self._generation += 1
        final = self._directory / f"journal-{self._generation:012d}.log"
        draft = final.with_suffix(".tmp")
        fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            end = self._write_snapshot(fd, snapshot)
            os.fsync(fd)
            draft.rename(final)
            self._sync_directory()
        except BaseException:
            os.close(fd)
            draft.unlink(missing_ok=True)
            raise
        old, self._fd = self._fd, fd
        self._end = self._synced = end
        if old >= 0:
            os.close(old)
        for path in before:
            path.unlink()

    def _write_snapshot(self, fd: int, snapshot: Iterable[Record]) -> int:
        end = 0
        pieces, size = [_segment_header(self._generation)], 0
        for record in snapshot:
            self._sequence += 1
            pieces.append(frame(self._generation, self._sequence, encode_record(record)))
            size += len(pieces[-1])
            if size >= SNAPSHOT_WRITE_BYTES:
                end += _write_all(fd, b"".join(pieces), end)
                pieces, size = [], 0
        return end + _write_all(fd, b"".join(pieces), end)

    # -- running ------------------------------------------------------------------------------------------

    def append(self, records: Iterable[Record]) -> None:
        """Write a group of records in one go.

        Raises:
            OSError: it could not be written whole, and was cut off again.
        """
        if not self._keep_log:
            return
        frames = []
        sequence = self._sequence
        for record in records:
            sequence += 1
            frames.append(frame(self._generation, sequence, encode_record(record)))
        data = b"".join(frames)
        try:
            _write_all(self._fd, data, self._end)
            if self._sync_groups:
                os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._end)
            raise
        self._end += len(data)
        self._sequence = sequence
        if self._sync_groups:
            self._synced = self._end

    def sync(self) -> None:
        """Make what was written so far survive a power loss. May run in a thread.

        Raises:
            OSError: it may be lost: never try again on the same file, the kernel forgets what it failed to write.
        """
        end = self._end
        os.fdatasync(self._fd)
        self._synced = max(self._synced, end)

    def close(self) -> None:
        """Give up the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- files --------------------------------------------------------------------------------------------

    def _segments(self) -> list[Path]:
        for draft in self._directory.glob("journal-*.tmp"):
            draft.unlink()  # a snapshot that was not finished
        return sorted(self._directory.glob("journal-*.log"))

    def _sync_directory(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _generation_of(path: Path, data: bytes) -> int:
    if len(data) < SEGMENT_HEADER_BYTES or not data.startswith(MAGIC):
        raise JournalFormatError(f"{path} is no journal of callstated")
    _, version, _, generation = _SEGMENT.unpack_from(data)
    if version > VERSION:
        raise JournalFormatError(f"{path} has format {version}; this callstated reads up to {VERSION}")
    if _CRC.unpack_from(data, _SEGMENT.size)[0] != zlib.crc32(data[: _SEGMENT.size]):
        raise JournalFormatError(f"{path}: the header is damaged")
    return int(generation)


def _write_all(fd: int, data: bytes, offset: int) -> int:
    """Write in one call; a short write is an error like any other: the disk is full or worse."""
    written = os.pwrite(fd, data, offset)
    if written != len(data):
        raise OSError(errno.ENOSPC, f"short write: {written} of {len(data)} bytes")
    return written
