"""The log being written: groups in, segments rolled over, synced, and replaced by a snapshot."""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from callstate_sidecar.journal.files import Files
from callstate_sidecar.journal.format import (
    DATA_START,
    END_OF_LOG,
    RECORD_HEADER_BYTES,
    SYNCED_AT,
    Frame,
    Kind,
    file_header,
    framed,
    synced_mark,
)
from callstate_sidecar.journal.layout import (
    JournalError,
    Manifest,
    log_path,
    logs,
    read_manifest,
    snapshot_path,
    write_manifest,
)
from callstate_sidecar.journal.replay import cut, replay
from callstate_sidecar.records import Record, decode_record, encode_record

log = logging.getLogger(__name__)

SEGMENT_BYTES: Final = 16 * 1024 * 1024
"""Room taken on disk at a time. Larger ones are rolled over seldom; smaller ones give room back sooner."""

MAX_SPARES: Final = 4
"""Segments kept to be written again: to overwrite is cheaper to sync than to grow, by half and more."""

MAX_SEGMENTS: Final = 64
"""Segments behind the present one at which a checkpoint is due, however little they hold: each start begins one."""

MAX_RECORDS: Final = 1_000_000
"""Records in the log at which a checkpoint is due: a replay takes some 10 µs for each."""

CHECKPOINT_GROWTH: Final = 4
"""A checkpoint is due when the log has so many times the size of the last snapshot: it then frees 4/5."""


class Journal:
    """The journal of one directory.

    `append`, `roll` and the checkpoint's calls belong to one thread; `sync` may run in another.

    Args:
        directory: made if it is not there.
        checkpoint_min_bytes: a log smaller than this is not worth a checkpoint.
        segment_bytes: size of a segment.
        files: the file calls.
    """

    def __init__(
        self,
        directory: Path,
        *,
        checkpoint_min_bytes: int,
        segment_bytes: int = SEGMENT_BYTES,
        files: Files | None = None,
    ) -> None:
        self.directory = directory
        self._files = files or Files()
        self._segment_bytes = segment_bytes
        self._checkpoint_min_bytes = checkpoint_min_bytes
        self._fd = -1
        self._generation = 0
        self._end = 0
        self._capacity = 0
        self._retired: list[int] = []
        self._names_synced = True
        self._rebuilding = False
        self._checkpoint_sequence = self._switched_at = 0
        self._older: dict[int, int] = {}
        self.sequence = 0
        self.synced = 0
        self.snapshot_bytes = 0
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    # -- start and stop -----------------------------------------------------------------------------------

    def replay(self, apply: Callable[[Record], None]) -> int:
        """Hand every record to `apply`, cut off an unfinished tail, and count the records.

        Raises:
            JournalError: it can't be read; the text says what to do.
            OSError: the disk refuses.
        """
        manifest = read_manifest(self.directory)
        for draft in self.directory.glob("*.tmp"):
            self._files.unlink(draft)
        if manifest is None:
            if logs(self.directory):
                raise JournalError(f"{self.directory} has log segments, but no MANIFEST")
            return 0

        def decoded(found: Frame) -> None:
            try:
                apply(decode_record(found.body))
            except Exception as error:
                raise JournalError(
                    f"record {found.sequence} of {self.directory} is whole, but makes no sense: {error}"
                ) from error

        found = replay(self.directory, manifest, decoded)
        if found.tail is not None:
            cut(self._files, found.tail)
        self._generation = max(logs(self.directory))
        self.sequence = self.synced = found.sequence
        self._checkpoint_sequence = found.first_sequence - 1
        self._older = found.log_bytes
        self.snapshot_bytes = found.snapshot_bytes
        return found.records

    def start(self) -> None:
        """Begin to write, behind what was replayed. What that was may not be on disk: it is synced with the first.

        Raises:
            OSError: the disk refuses.
        """
        for generation, path in logs(self.directory).items():
            fd = self._files.open(path)
            self._retired.append(fd)
            # gives back the room that the last one has left: nothing is written to it any more
            self._files.truncate(fd, DATA_START + self._older.get(generation, 0))
        self.synced = 0
        self.roll()
        if read_manifest(self.directory) is None:
            self._name(Manifest(None, self._generation))

    def forget(self) -> None:
        """Let nothing of what was replayed count any more: a crash from now on loses it (durability `memory`).

        Raises:
            OSError: it still counts.
        """
        self.roll()
        self._name(Manifest(None, self._generation))
        self.drop_before(self._generation)

    def resume(self, generation: int, sequence: int) -> None:
        """Go on behind this segment and record: a repair has read what it could by itself."""
        self._generation, self.sequence = generation, sequence

    def close(self) -> None:
        """Give up the files."""
        for fd in [*self._retired, self._fd]:
            if fd >= 0:
                self._files.close(fd)
        self._retired.clear()
        self._fd = -1

    # -- figures ------------------------------------------------------------------------------------------

    @property
    def log_bytes(self) -> int:
        """Records in the log, bytes: what a replay reads beside the snapshot."""
        return sum(self._older.values()) + max(0, self._end - DATA_START)

    @property
    def unsynced(self) -> int:
        """How many records a power loss would take."""
        return self.sequence - self.synced

    @property
    def is_gone(self) -> bool:
        """Whether somebody removed what we write to: a replay would not find it."""
        return self._rebuilding or self._fd < 0 or not self._files.is_linked(self._fd)

    @property
    def wants_checkpoint(self) -> bool:
        """Whether the log has outgrown what is alive, would take too long to replay, or lies in too many files."""
        outgrown = self.log_bytes > max(CHECKPOINT_GROWTH * self.snapshot_bytes, self._checkpoint_min_bytes)
        records = self.sequence - self._checkpoint_sequence
        return outgrown or records > MAX_RECORDS or len(self._older) > MAX_SEGMENTS

    def disk_bytes(self) -> int:
        """Room the journal takes on disk, spares included."""
        blocks = 0
        for path in self.directory.iterdir():
            with contextlib.suppress(FileNotFoundError):
                blocks += path.stat().st_blocks
        return blocks * 512  # stat(2): st_blocks counts 512-byte units, whatever the file system's

    # -- writing ------------------------------------------------------------------------------------------

    def append(self, records: Iterable[Record]) -> None:
        """Write a group behind the log, in one call.

        Raises:
            OSError: it is not there, not even in part, as far as the disk still lets us say so.
        """
        if self.is_gone:
            raise OSError(errno.ENOENT, "the journal's files are gone")
        bodies = [encode_record(record) for record in records]
        size = sum(map(len, bodies)) + RECORD_HEADER_BYTES * len(bodies)
        if self._end + size + len(END_OF_LOG) > self._capacity:
            self.roll(size)
        before = self.sequence
        data = framed(self._generation, before + 1, self.synced, bodies)
        try:
            # what lies behind is wiped with it, so that the log's end can be told in a recycled segment
            self._files.write(self._fd, data + END_OF_LOG, self._end)
        except OSError:
            self._wipe()
            raise
        self._end += size
        self.sequence = before + len(bodies)

    def _wipe(self) -> None:
        """Take back what part of a group may have arrived."""
        try:
            self._files.write(self._fd, END_OF_LOG, self._end)
        except OSError:
            with contextlib.suppress(OSError):
                self._files.truncate(self._fd, self._end)
                self._capacity = self._end  # no room is taken any more: the next group begins a new segment

    def roll(self, at_least: int = 0) -> None:
        """Begin a new segment, for a group of this many bytes at least.

        Raises:
            OSError: the present one is still the last.
        """
        generation = self._generation + 1
        capacity = max(self._segment_bytes, DATA_START + at_least + len(END_OF_LOG))
        draft = self._draft(generation, capacity)
        fd = -1
        try:
            fd = self._files.open(draft)
            header = file_header(Kind.LOG, generation, self.sequence + 1, time.time_ns() // 1000)
            self._files.write(fd, header + END_OF_LOG, 0)
            self._files.rename(draft, log_path(self.directory, generation))
        except BaseException:
            if fd >= 0:
                self._files.close(fd)
            with contextlib.suppress(OSError):
                self._files.unlink(draft)
            raise
        if self._fd >= 0:
            self._older[self._generation] = self._end - DATA_START
            self._retired.append(self._fd)
        self._fd, self._generation, self._end, self._capacity = fd, generation, DATA_START, capacity
        self._names_synced = False

    def _draft(self, generation: int, capacity: int) -> Path:
        """A file to become the next segment: a spare one, or a new one with its room taken."""
        draft = self.directory / f"log-{generation:012d}.tmp"
        if capacity == self._segment_bytes:
            for spare in self.directory.glob("spare-*.csj"):
                self._files.rename(spare, draft)
                return draft
        fd = self._files.create(draft)
        try:
            self._files.allocate(fd, capacity)
        except BaseException:
            with contextlib.suppress(OSError):
                self._files.unlink(draft)
            raise
        finally:
            self._files.close(fd)
        return draft

    # -- syncing ------------------------------------------------------------------------------------------

    def sync(self) -> int:
        """Make what was appended so far survive a power loss; gives the highest sequence that now does.

        May run in a thread, one at a time. A sync that failed is never tried again: the kernel may have
        dropped what it could not write, and would report success (Rebello et al., USENIX ATC 2020).

        Raises:
            OSError: what was appended since the last sync may be lost.
        """
        sequence, fd, generation = self.sequence, self._fd, self._generation
        retired = [*self._retired]
        names_synced, self._names_synced = self._names_synced, True
        for old in retired:
            self._files.sync(old)
        self._files.sync(fd)
        if not names_synced:
            self._files.sync_directory(self.directory)
        self.synced = max(self.synced, sequence)
        # tells a replay what must be there; a mark that is lost, or can't be written, only makes it less strict
        with contextlib.suppress(OSError):
            self._files.write(fd, synced_mark(generation, sequence), SYNCED_AT)
        for old in retired:
            self._retired.remove(old)
            self._files.close(old)
        return sequence

    # -- checkpoint: switch, write the snapshot, make it count, drop the old ----------------------------------

    def switch(self) -> int:
        """Begin a segment for what changes while a snapshot is written; gives its generation.

        Raises:
            OSError: nothing has changed.
        """
        self._switched_at = self.sequence
        self._rebuilding = self.is_gone  # until the snapshot counts, nothing a group is written to would
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.roll()
        return self._generation

    def adopt(self, generation: int, snapshot_bytes: int) -> None:
        """Let the snapshot of this generation, and the log from the segment of this generation on, count.

        May run in a thread.

        Raises:
            OSError: the old ones still count.
        """
        self._name(Manifest(generation, generation))
        self.snapshot_bytes = snapshot_bytes
        self._checkpoint_sequence = self._switched_at
        self._rebuilding = False

    def _name(self, manifest: Manifest) -> None:
        """Write a manifest, the header of the first segment that it names being on disk before it."""
        fd = self._files.open(log_path(self.directory, manifest.log))
        try:
            self._files.sync(fd)
        finally:
            self._files.close(fd)
        write_manifest(self._files, self.directory, manifest)

    def drop_before(self, generation: int) -> None:
        """Remove what no longer counts, keeping some segments to be written again. Failures do no harm."""
        spares = sum(1 for _ in self.directory.glob("spare-*.csj"))
        for older, path in logs(self.directory).items():
            if older >= generation:
                break
            try:
                if spares < MAX_SPARES and path.stat().st_size == self._segment_bytes:
                    self._files.rename(path, self.directory / f"spare-{older:012d}.csj")
                    spares += 1
                else:
                    self._files.unlink(path)
            except OSError as error:
                log.warning("%s is not needed any more, and can't be removed: %s", path, error)
        for path in self.directory.glob("snapshot-*.csj"):
            if path != snapshot_path(self.directory, generation):
                with contextlib.suppress(OSError):
                    self._files.unlink(path)
        self._older = {older: size for older, size in self._older.items() if older >= generation}
