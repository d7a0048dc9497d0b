"""The segment of the log that is being written: a preallocated file, filled from the front.

Its space is allocated when it is created, so that appending can't fail for lack of space, and a sync need not write
metadata. After the last record there are always zeros (END_OF_LOG), which mark the end even in a recycled file. A
record is either complete or, after a failed write, wiped.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Final

from callstate_sidecar.journal.format import DATA_START, END_OF_LOG, SYNCED_AT, Kind, file_header, synced_mark
from callstate_sidecar.journal.layout import log_path, spares
from callstate_sidecar.system.files import Files, add_name, naming

SEGMENT_BYTES: Final = 16 * 1024 * 1024
"""Size of a segment. Larger ones are rolled over less often; smaller ones release disk space sooner."""

TRIM_SHARE: Final = 4
"""A closed segment with at least this fraction (1/4) unused is truncated; the others can become spares."""


class OpenSegment:
    """A segment that is open for writing; made by `create_segment`.

    Attributes:
        fd: its descriptor.
        generation: its number.
        end: offset after the last record, bytes.
    """

    __slots__ = ("_capacity", "_files", "_path", "end", "fd", "generation")

    def __init__(self, files: Files, path: Path, fd: int, generation: int, capacity: int) -> None:
        self._files = files
        self._path = path
        self._capacity = capacity
        self.fd = fd
        self.generation = generation
        self.end = DATA_START

    @property
    def record_bytes(self) -> int:
        """Bytes of records in it."""
        return self.end - DATA_START

    @property
    def is_linked(self) -> bool:
        """Whether the file still has a name."""
        return self._files.is_linked(self.fd)

    def has_space_for(self, size: int) -> bool:
        """Whether this many bytes of records can be appended."""
        return self.end + size + len(END_OF_LOG) <= self._capacity

    def append(self, data: bytes) -> None:
        """Write records to the end, with one call.

        Raises:
            OSError: they are not there, not even in part, as far as the disk still allows that to be ensured.
        """
        try:
            self._files.write(self.fd, data + END_OF_LOG, self.end)
        except OSError as error:
            add_name(error, self._path)
            self._wipe(len(data))
            raise
        self.end += len(data)

    def _wipe(self, size: int) -> None:
        """Wipe what may have been written of so many bytes: first where the log ends, then the rest, of which a
        repair would save each whole record."""
        try:
            self._files.write(self.fd, END_OF_LOG, self.end)
        except OSError:
            with contextlib.suppress(OSError):
                self._files.truncate(self.fd, self.end)
                self._capacity = self.end  # no longer preallocated: the next group begins a new segment
        else:
            with contextlib.suppress(OSError):
                self._files.write(self.fd, bytes(size), self.end)

    def mark_synced(self, sequence: int) -> None:
        """Note in the header that everything up to this sequence is on disk.

        It tells a replay how much must be readable. If the note is lost, the replay is merely less strict.
        """
        with contextlib.suppress(OSError):
            self._files.write(self.fd, synced_mark(self.generation, sequence), SYNCED_AT)

    def trim(self, segment_bytes: int) -> None:
        """Release unused space, if there is much of it: nothing more will be appended."""
        if self._capacity - self.end >= segment_bytes // TRIM_SHARE:
            with contextlib.suppress(OSError):  # it only wastes space
                self._files.truncate(self.fd, self.end)


def create_segment(
    files: Files, directory: Path, generation: int, first_sequence: int, segment_bytes: int, group_bytes: int
) -> OpenSegment:
    """Create a segment, from a spare if there is one of the right size.

    Args:
        first_sequence: of the first record to be appended to it.
        segment_bytes: its usual size.
        group_bytes: size of the first group; the segment is larger than usual if it has to be.

    Raises:
        OSError: no segment was created.
    """
    capacity = max(segment_bytes, DATA_START + group_bytes + len(END_OF_LOG))
    kept = spares(directory) if capacity == segment_bytes else []
    draft, path = directory / f"log-{generation:012d}.tmp", log_path(directory, generation)
    fd = -1
    try:
        if kept:
            files.rename(kept[0], draft)
            fd = files.open(draft)
        else:
            fd = files.create(draft)
            with naming(draft):
                files.allocate(fd, capacity)
        with naming(draft):
            header = file_header(Kind.LOG, generation, first_sequence, time.time_ns() // 1000)
            files.write(fd, header + END_OF_LOG, 0)
        files.rename(draft, path)
    except BaseException:
        if fd >= 0:
            files.close(fd)
        with contextlib.suppress(OSError):
            files.unlink(draft)
        raise
    return OpenSegment(files, path, fd, generation, capacity)
