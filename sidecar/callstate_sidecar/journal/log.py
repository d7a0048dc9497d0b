"""The log being written: groups in, segments rolled over, synced, and replaced by a snapshot."""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from callstate_client.engine.sessions.records import Record, decode_record, encode_record
from callstate_sidecar.journal.disk_space import (
    ensure_space,
    remove_before,
    remove_leftovers,
    spares,
)
from callstate_sidecar.journal.format import (
    DATA_START,
    END_OF_LOG,
    RECORD_HEADER_BYTES,
    SYNCED_AT,
    VERSION,
    Frame,
    Kind,
    file_header,
    framed,
    synced_mark,
)
from callstate_sidecar.journal.layout import (
    REPAIR,
    JournalError,
    Manifest,
    log_path,
    logs,
    read_manifest,
    snapshots,
    write_manifest,
)
from callstate_sidecar.journal.replay import cut, has_records, replay
from callstate_sidecar.system.files import Files, naming

log = logging.getLogger(__name__)

SEGMENT_BYTES: Final = 16 * 1024 * 1024
"""Room taken on disk at a time. Larger ones are rolled over seldom; smaller ones give room back sooner."""

TRIM_SHARE: Final = 4
"""A segment that is left with this part of its room unused, or more, gives it back: the others become spares."""

MAX_SEGMENTS: Final = 64
"""Segments behind the present one at which a checkpoint is due, however little they hold: each start begins one."""

MAX_RECORDS: Final = 1_000_000
"""Records in the log at which a checkpoint is due: a replay takes some 10 µs for each."""

CHECKPOINT_GROWTH: Final = 4
"""A checkpoint is due when the log has so many times the size of the last snapshot: it then frees 4/5."""


class Journal:
    """The journal of one directory.

    All calls belong to one thread, but for those that say that they may run in another.

    Args:
        directory: made if it is not there.
        checkpoint_min_bytes: a log smaller than this is not worth a checkpoint.
        segment_bytes: size of a segment.
        files: the file calls.
        host_id: by which the store knows whose sessions these are; kept in the manifest.
    """

    def __init__(
        self,
        directory: Path,
        *,
        checkpoint_min_bytes: int,
        segment_bytes: int = SEGMENT_BYTES,
        files: Files | None = None,
        host_id: str = "",
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
        self._host_id = host_id
        self._counted: Manifest | None = None
        self._named = self._names_synced = 0
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
            self._begin()
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

    def _begin(self) -> None:
        """See that nothing is there yet, but for what a first start has left that did not get to its manifest."""
        left = logs(self.directory)
        if snapshots(self.directory) or any(has_records(path) for path in left.values()):
            raise JournalError(
                f"{self.directory} has segments or snapshots, and no MANIFEST that says which of them count. "
                f"Take a copy of it, then run: {REPAIR} {self.directory}"
            )
        for path in left.values():
            self._files.unlink(path)

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
        self._counted = read_manifest(self.directory)
        if self._counted is None:
            self._name(None, self._generation)
        elif self._counted.host != self._host_id:
            self._name(self._counted.snapshot, self._counted.log)

    def discard_replayed(self) -> None:
        """Let nothing of what was replayed count any more: a crash from now on loses it (durability `memory`).

        Raises:
            OSError: it still counts.
        """
        self.roll()
        self._name(None, self._generation)
        self.remove_before(self._generation)
        self._forget_before(self._generation)

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
    def is_removed(self) -> bool:
        """Whether somebody removed what we write to: a replay would not find it."""
        return self._rebuilding or not self._is_linked

    @property
    def _is_linked(self) -> bool:
        return self._fd >= 0 and self._files.is_linked(self._fd)

    @property
    def checkpoint_due(self) -> bool:
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
        if self.is_removed:
            raise OSError(errno.ENOENT, "the journal's files are gone")
        bodies = [encode_record(record) for record in records]
        size = sum(map(len, bodies)) + RECORD_HEADER_BYTES * len(bodies)
        if self._end + size + len(END_OF_LOG) > self._capacity:
            self.roll(size)
        before = self.sequence
        data = framed(self._generation, before + 1, self.synced, bodies)
        try:
            # what lies behind is wiped with it, so that the log's end can be told in a recycled segment
            with naming(log_path(self.directory, self._generation)):
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
            with naming(draft):
                self._files.write(fd, header + END_OF_LOG, 0)
            self._files.rename(draft, log_path(self.directory, generation))
        except BaseException:
            if fd >= 0:
                self._files.close(fd)
            with contextlib.suppress(OSError):
                self._files.unlink(draft)
            raise
        old, end, unused = self._fd, self._end, self._capacity - self._end
        if old >= 0:
            self._older[self._generation] = end - DATA_START
            self._retired.append(old)
        self._fd, self._generation, self._end, self._capacity = fd, generation, DATA_START, capacity
        self._named = generation
        if old >= 0 and unused >= self._segment_bytes // TRIM_SHARE:
            with contextlib.suppress(OSError):  # it only takes room
                self._files.truncate(old, end)

    def _draft(self, generation: int, capacity: int) -> Path:
        """A file to become the next segment: a spare one, or a new one with its room taken."""
        draft = self.directory / f"log-{generation:012d}.tmp"
        if capacity == self._segment_bytes:
            for spare in spares(self.directory):
                self._files.rename(spare, draft)
                return draft
        fd = self._files.create(draft)
        try:
            with naming(draft):
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
        named = self._named
        with naming(self.directory):
            for old in retired:
                self._files.sync(old)
            self._files.sync(fd)
        if named != self._names_synced:
            self._files.sync_directory(self.directory)
            self._names_synced = named
        self.synced = max(self.synced, sequence)
        # tells a replay what must be there; a mark that is lost, or can't be written, only makes it less strict
        with contextlib.suppress(OSError):
            self._files.write(fd, synced_mark(generation, sequence), SYNCED_AT)
        for old in retired:
            self._retired.remove(old)
            self._files.close(old)
        return sequence

    # -- checkpoint: switch, write the snapshot, make it count, drop the old ----------------------------------

    def begin_checkpoint(self) -> int:
        """Begin a segment for what changes while a snapshot is written; gives its generation.

        Where the present one is still empty, as after a checkpoint that failed, it will do.

        Raises:
            OSError: there is no room for a checkpoint, or the disk refuses; nothing has changed.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_new = self._end == DATA_START and self._is_linked
        ensure_space(self._files, self.directory, self.snapshot_bytes, 0 if is_new else self._segment_bytes)
        self._switched_at = self.sequence
        self._rebuilding = self.is_removed  # until the snapshot counts, nothing a group is written to would
        if not is_new:
            self.roll()
        return self._generation

    def install_snapshot(self, generation: int) -> None:
        """Let the snapshot of this generation, and the log from the segment of this generation on, count.

        May run in a thread. `snapshot_installed` has to follow.

        Raises:
            OSError: the old ones still count.
        """
        self._name(generation, generation)

    def snapshot_installed(self, generation: int, snapshot_bytes: int) -> None:
        """Go by the snapshot that counts now."""
        self.snapshot_bytes = snapshot_bytes
        self._checkpoint_sequence = self._switched_at
        self._rebuilding = False
        self._forget_before(generation)

    def _forget_before(self, generation: int) -> None:
        self._older = {older: size for older, size in self._older.items() if older >= generation}

    def _name(self, snapshot: int | None, first: int) -> None:
        """Write a manifest, the header of the first segment that it names being on disk before it."""
        path = log_path(self.directory, first)
        fd = self._files.open(path)
        try:
            with naming(path):
                self._files.sync(fd)
        finally:
            self._files.close(fd)
        manifest = Manifest(snapshot, first, VERSION, self._host_id)
        write_manifest(self._files, self.directory, manifest)
        self._counted = manifest

    def remove_before(self, generation: int) -> None:
        """Remove what no longer counts. Failures do no harm. May run in a thread."""
        remove_before(self._files, self.directory, generation, self._segment_bytes)

    def remove_leftovers(self) -> None:
        """Remove what checkpoints that failed have left. Failures do no harm. May run in a thread.

        A manifest whose renaming failed halfway may have come to count: what it names stays too.
        """
        with contextlib.suppress(OSError, JournalError):
            manifests = (self._counted, read_manifest(self.directory))
            counted = {manifest.snapshot for manifest in manifests if manifest is not None}
            remove_leftovers(self._files, self.directory, counted)
