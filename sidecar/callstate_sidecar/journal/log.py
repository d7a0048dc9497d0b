"""The write-ahead log: what an acknowledged write is on disk.

**A group.** The changes of one turn of the event loop, over all connections, are one group. `append` writes a
group's records to the end of the current segment with one pwrite(2), followed by zeros that mark the end of the
log. Then the records are in the page cache, and killing the daemon can't lose them (durability `process`). Once
`sync` has returned they are on disk, and a power loss can't lose them either (`power`). If `append` raises, the
group is not in the log: the end is wiped, or the file cut there, and the caller rolls the group back in memory.

**The end of the log** has to be recognised after a crash. Every record carries a sequence number, a CRC that covers
the segment's generation (so that no record of a recycled file's earlier use passes), and `synced`: the highest
sequence that was known to be on disk when it was written. Each segment's header repeats that number after a sync. A
replay stops at the first record that can't be read. Above the highest `synced` found anywhere that is an incomplete
tail, which may be cut off; at or below it, synced data is damaged, and the daemon refuses to start (replay.py).

**Segments** have consecutive generations. When one is full, a new one is created and renamed into place, and the
old one stays open until the next sync, which covers both. **A checkpoint** (checkpoint.py) begins a new segment,
writes a snapshot of everything hot, and replaces the manifest; only then the older files are removed. A crash at
any moment leaves a manifest whose files are complete.

**Failures.** A failed `append` is repeatable. A failed `sync` is not: the kernel may have dropped the pages that it
could not write, and would report success the next time (Rebello et al., USENIX ATC 2020), so the daemon stops. If
the files are deleted while the daemon runs, appends fail until a checkpoint has written everything anew.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from callstate_client.engine.sessions.records import Record, encode_record
from callstate_sidecar.journal.disk_space import (
    check_removed,
    ensure_space,
    has_space,
    remove_before,
    remove_leftovers,
    remove_unused,
)
from callstate_sidecar.journal.errors import JournalError
from callstate_sidecar.journal.format import DATA_START, framed
from callstate_sidecar.journal.layout import logs
from callstate_sidecar.journal.manifest import ManifestFile, read_manifest
from callstate_sidecar.journal.replay import cut, decoding, discard_unused, replay
from callstate_sidecar.journal.segment import SEGMENT_BYTES, OpenSegment, create_segment
from callstate_sidecar.system.files import Files, naming

MAX_SEGMENTS: Final = 64
"""A checkpoint is due at this many closed segments, however small: each start begins a new one."""

MAX_RECORDS: Final = 1_000_000
"""A checkpoint is due at this many records: a replay takes some 10 µs for each."""

CHECKPOINT_GROWTH: Final = 4
"""A checkpoint is due when the log is this many times the size of the last snapshot: it then frees 4/5."""


class Journal:
    """The journal of one directory.

    All methods are called from one thread, except those that say otherwise.

    Args:
        directory: created if absent.
        checkpoint_min_bytes: size that the log has to reach before its size makes a checkpoint due.
        segment_bytes: size of a segment.
        files: the file calls.
        host_id: the host by which the store knows these sessions; kept in the manifest.

    Attributes:
        sequence: of the last record appended.
        synced: of the last record known to be on disk.
        snapshot_bytes: size of the snapshot that counts.
        checkpoints_begun: how many: what was appended before the last one may not count any more.
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
        self.sequence = 0
        self.synced = 0
        self.snapshot_bytes = self.checkpoints_begun = 0
        self._segment: OpenSegment | None = None
        self._last_generation = 0
        # segments before it: bytes of records by generation, and descriptors not yet synced since
        self._closed_bytes: dict[int, int] = {}
        self._unsynced_fds: list[int] = []
        self._directory_synced_for = 0  # generation whose name is known to be on disk
        # checkpoints
        self._manifest = ManifestFile(self._files, directory, host_id)
        self._checkpoint_sequence = self._snapshot_begun_at = 0
        self._rebuilding = False
        self._files.make_directory(directory)

    # -- start and stop -----------------------------------------------------------------------------------

    def replay(self, apply: Callable[[Record], None]) -> int:
        """Pass every record to `apply`, cut off an incomplete tail, and return the number of records.

        Raises:
            JournalError: the journal can't be read; the message says what to do.
            OSError: of the file system.
        """
        manifest = read_manifest(self.directory)
        for draft in self.directory.glob("*.tmp"):
            self._files.unlink(draft)
        if manifest is None:
            discard_unused(self._files, self.directory)
            return 0

        found = replay(self.directory, manifest, decoding(self.directory, apply))
        if found.tail is not None:
            cut(self._files, found.tail)
        self._last_generation = max(logs(self.directory))
        self.sequence = self.synced = found.sequence
        self._checkpoint_sequence = found.first_sequence - 1
        self._closed_bytes = found.log_bytes
        self.snapshot_bytes = found.snapshot_bytes
        return found.records

    def start(self) -> None:
        """Begin a new segment after what was replayed. The replayed segments are synced with the first sync.

        Raises:
            OSError: of the file system.
        """
        for generation, path in logs(self.directory).items():
            fd = self._files.open(path)
            self._unsynced_fds.append(fd)
            # releases the space that the last one has left: nothing more is written to it
            self._files.truncate(fd, DATA_START + self._closed_bytes.get(generation, 0))
        self.synced = 0
        self.roll()
        self._manifest.ensure(self._last_generation)

    def discard_replayed(self) -> int:
        """Stop counting everything replayed, so that a crash from now on loses it (durability `memory`).

        Returns:
            the generation from which on files count.

        Raises:
            OSError: it still counts.
        """
        self.checkpoints_begun += 1
        generation = self.roll().generation
        self._manifest.write(None, generation)
        self.remove_before(generation)
        self._drop_closed_before(generation)
        return generation

    def resume(self, generation: int, sequence: int) -> None:
        """Continue after this segment and record, which a repair has read by itself."""
        self._last_generation, self.sequence = generation, sequence

    def close(self) -> None:
        """Close the files."""
        if self._segment is not None:
            self._unsynced_fds.append(self._segment.fd)
            self._segment = None
        while self._unsynced_fds:
            self._files.close(self._unsynced_fds.pop())

    # -- figures ------------------------------------------------------------------------------------------

    @property
    def segment(self) -> OpenSegment:
        """The segment that is being written.

        Raises:
            OSError: the journal is not open.
        """
        if self._segment is None:
            raise OSError(errno.EBADF, "the journal is not open")
        return self._segment

    @property
    def log_bytes(self) -> int:
        """Bytes of records in the log: what a replay reads in addition to the snapshot."""
        current = 0 if self._segment is None else self._segment.record_bytes
        return sum(self._closed_bytes.values()) + current

    @property
    def unsynced(self) -> int:
        """Number of records that a power loss would lose."""
        return self.sequence - self.synced

    @property
    def is_removed(self) -> bool:
        """Whether the files being written to were deleted, so that a replay would not find them."""
        return self._rebuilding or self._segment is None or not self._segment.is_linked

    @property
    def checkpoint_due(self) -> bool:
        """Whether the log has outgrown the live state, would take too long to replay, or has too many files."""
        outgrown = self.log_bytes > max(CHECKPOINT_GROWTH * self.snapshot_bytes, self._checkpoint_min_bytes)
        records = self.sequence - self._checkpoint_sequence
        return outgrown or records > MAX_RECORDS or len(self._closed_bytes) > MAX_SEGMENTS

    def is_short_of_space(self) -> bool:
        """Whether a checkpoint that is not due yet may find too little disk space once it is.

        The log may grow to several times the snapshot, and on a small disk there would be no space left for the
        checkpoint that shortens it. The next snapshot is taken to need as much as the last one and the log at most.

        Raises:
            OSError: of the file system.
        """
        log_bytes = self.log_bytes
        if log_bytes <= max(self.snapshot_bytes, self._segment_bytes):
            return False  # it would free little
        needed = self.snapshot_bytes + log_bytes + self._segment_bytes
        return not has_space(self._files, self.directory, needed, self._segment_bytes)

    def disk_bytes(self) -> int:
        """Disk space that the journal takes, including spares."""
        blocks = 0
        for path in self.directory.iterdir():
            with contextlib.suppress(FileNotFoundError):
                blocks += path.stat().st_blocks
        return blocks * 512  # stat(2): st_blocks counts 512-byte units on every file system

    # -- writing ------------------------------------------------------------------------------------------

    def append(self, records: Iterable[Record]) -> None:
        """Append a group with one write.

        Raises:
            OSError: no part of the group is in the log, as far as the disk still allows that to be ensured.
        """
        segment = self._segment
        if segment is None or self._rebuilding or not segment.is_linked:  # `is_removed`, for each group
            raise OSError(errno.ENOENT, "the journal's files were deleted")
        bodies = [*map(encode_record, records)]
        data = framed(segment.generation, self.sequence + 1, self.synced, bodies)
        if not segment.has_space_for(len(data)):
            segment = self.roll(len(data))
            data = framed(segment.generation, self.sequence + 1, self.synced, bodies)
        segment.append(data)
        self.sequence += len(bodies)

    def roll(self, group_bytes: int = 0) -> OpenSegment:
        """Begin a new segment with space for a group of this size; returns it.

        Raises:
            OSError: the current one is still in use.
        """
        generation = self._last_generation + 1
        segment = create_segment(
            self._files, self.directory, generation, self.sequence + 1, self._segment_bytes, group_bytes
        )
        old, self._segment, self._last_generation = self._segment, segment, generation
        if old is not None:
            self._closed_bytes[old.generation] = old.record_bytes
            self._unsynced_fds.append(old.fd)
            old.trim(self._segment_bytes)
        return segment

    # -- syncing ------------------------------------------------------------------------------------------

    def sync(self) -> int:
        """Sync everything appended so far to disk; returns the last sequence that is there.

        May run in another thread, one call at a time.

        Raises:
            OSError: what was appended since the last sync may be lost, and no later sync can tell.
        """
        sequence, segment = self.sequence, self.segment
        closed = [*self._unsynced_fds]
        with naming(self.directory):
            for old in closed:
                self._files.sync(old)
            self._files.sync(segment.fd)
        if segment.generation != self._directory_synced_for:
            self._files.sync_directory(self.directory)
            self._directory_synced_for = segment.generation
        self.synced = max(self.synced, sequence)
        segment.mark_synced(sequence)
        for old in closed:
            self._unsynced_fds.remove(old)
            self._files.close(old)
        return sequence

    # -- checkpoints: begin a segment, install the snapshot, remove what it replaces ------------------------

    def begin_checkpoint(self, *, new: bool = False) -> int:
        """Begin a segment for the changes made while a snapshot is written; returns its generation.

        If the current segment is still empty, as after a failed checkpoint, it is used, unless it has to be `new`.

        Raises:
            OSError: there is not enough disk space, or of the file system; nothing has changed.
        """
        self._files.make_directory(self.directory)
        segment = self._segment
        is_unused = not new and segment is not None and not segment.record_bytes and segment.is_linked
        needed = 0 if is_unused else self._segment_bytes
        ensure_space(self._files, self.directory, self.snapshot_bytes, needed)
        self._snapshot_begun_at = self.sequence
        self.checkpoints_begun += 1
        self._rebuilding = self.is_removed  # no manifest names what is appended before the snapshot counts
        if not is_unused:
            self.roll()
        return self._last_generation

    def install_snapshot(self, generation: int) -> None:
        """Put this generation's snapshot and the log from this generation on into effect, in place of older files.

        May run in another thread. Then call `snapshot_installed`.

        Raises:
            OSError: the older files still count.
        """
        self._manifest.write(generation, generation)

    def snapshot_installed(self, generation: int, snapshot_bytes: int) -> None:
        """Take the new snapshot into account; bytes are its size."""
        self.snapshot_bytes = snapshot_bytes
        self._checkpoint_sequence = self._snapshot_begun_at
        self._rebuilding = False
        self._drop_closed_before(generation)

    def _drop_closed_before(self, generation: int) -> None:
        self._closed_bytes = {older: size for older, size in self._closed_bytes.items() if older >= generation}

    def remove_before(self, generation: int) -> None:
        """Remove the files that no longer count. Failures are harmless. May run in another thread."""
        remove_before(self._files, self.directory, generation, self._segment_bytes)

    def remove_unused(self) -> None:
        """Remove spares and tails that were set aside, so that no new segment begins as a used file. May run in
        another thread.

        Raises:
            OSError: of the file system.
        """
        remove_unused(self._files, self.directory)

    def remove_all_before(self, generation: int) -> None:
        """Remove the files that no longer count, and keep none as a spare. May run in another thread.

        Raises:
            OSError: some are left.
        """
        remove_before(self._files, self.directory, generation, self._segment_bytes, max_spares=0)
        self.remove_unused()
        check_removed(self.directory, generation)

    def remove_leftovers(self) -> None:
        """Remove what failed checkpoints have left behind. Failures are harmless. May run in another thread."""
        with contextlib.suppress(OSError, JournalError):
            remove_leftovers(self._files, self.directory, self._manifest.snapshots())
