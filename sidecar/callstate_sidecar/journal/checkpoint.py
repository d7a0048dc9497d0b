"""Checkpoints: a snapshot of everything hot that replaces the log written so far.

A checkpoint begins a new segment for the changes to come, then writes one record for each hot session as it is at
that moment. The sessions are not frozen meanwhile: a change made after its session was written is in the new
segment, and a change made before is in both, which the versions in the records tell a replay. When the snapshot is
on disk the manifest is replaced, and the older files are removed. If anything fails the older files still count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from callstate_client.engine.sessions.records import Record, encode_record
from callstate_sidecar.background import in_thread
from callstate_sidecar.journal.format import Kind, file_header, frame
from callstate_sidecar.journal.layout import snapshot_path
from callstate_sidecar.journal.log import Journal
from callstate_sidecar.slices import Slices
from callstate_sidecar.system.files import Files, naming

WRITE_BYTES: Final = 1024 * 1024
"""Bytes collected before a thread writes them: few calls, and little memory."""


class SnapshotFile:
    """A snapshot being written.

    Raises:
        OSError: of the file system (every method); call `abandon` then.
    """

    def __init__(self, journal: Journal, files: Files, generation: int) -> None:
        self._files = files
        self._generation = generation
        self._path = snapshot_path(journal.directory, generation)
        self._draft = self._path.with_suffix(".tmp")
        self._fd = files.create(self._draft)
        self._pending = [file_header(Kind.SNAPSHOT, generation, 1, time.time_ns() // 1000)]
        self._pending_bytes = len(self._pending[0])
        self._sequence = 0
        self.size = 0

    def add(self, record: Record | None) -> None:
        """Add a record; None is the mark that ends the snapshot."""
        self._sequence += 1
        body = b"" if record is None else encode_record(record)
        framed = frame(self._generation, self._sequence, 0, body)
        self._pending.append(framed)
        self._pending_bytes += len(framed)

    @property
    def is_full(self) -> bool:
        """Whether enough was added to be worth a write."""
        return self._pending_bytes >= WRITE_BYTES

    def write(self) -> None:
        """Write what was added so far."""
        data = b"".join(self._pending)
        with naming(self._draft):
            self._files.write(self._fd, data, self.size)
        self.size += len(data)
        self._pending, self._pending_bytes = [], 0

    def finish(self) -> None:
        """Write the rest, sync the file, and give it its final name."""
        self.add(None)
        self.write()
        with naming(self._draft):
            self._files.sync(self._fd)
        self._close()
        self._files.rename(self._draft, self._path)

    def abandon(self) -> None:
        """Remove what was written."""
        self._close()
        self._files.unlink(self._draft)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1  # even if closing fails: the number may be reused by then
        if fd >= 0:
            self._files.close(fd)


class Checkpointer:
    """Writes checkpoints, one at a time.

    Args:
        journal: whose log is to shrink.
        files: the file calls.
        records: yields everything hot, one record at a time, each as of the moment it is yielded.
        barrier: commits the open group, so that no record contains a change that may yet be rolled back.
    """

    def __init__(
        self,
        journal: Journal,
        files: Files,
        records: Callable[[], Iterator[Record]],
        barrier: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._files = files
        self._records = records
        self._barrier = barrier

    async def run(self) -> None:
        """Write a checkpoint while the daemon serves: in slices on the loop, with disk writes in a thread.

        Raises:
            OSError: of the file system; the older files still count.
        """
        await in_thread(self._journal.remove_leftovers)
        generation = await self._run(new_segment=False)
        await in_thread(self._journal.remove_before, generation)

    async def run_clean(self) -> None:
        """As `run`, and leave no file that has bytes of records before it.

        New segments are not begun in used files meanwhile: the spares are removed first, and none are kept.

        Raises:
            OSError: of the file system; such files may be left.
        """
        await in_thread(self._journal.remove_leftovers)
        await in_thread(self._journal.remove_unused)
        generation = await self._run(new_segment=True)
        await in_thread(self._journal.remove_all_before, generation)

    async def discard_clean(self) -> None:
        """Leave no file that has records, without writing any (durability `memory`).

        Raises:
            OSError: of the file system; such files may be left.
        """
        await in_thread(self._journal.remove_leftovers)
        await in_thread(self._journal.remove_unused)
        await in_thread(self._journal.remove_all_before, self._journal.discard_replayed())

    async def _run(self, *, new_segment: bool) -> int:
        """Write a snapshot and put it into effect; returns its generation."""
        self._barrier()
        generation = self._journal.begin_checkpoint(new=new_segment)
        snapshot = SnapshotFile(self._journal, self._files, generation)
        try:
            records, slices = self._records(), Slices()
            more = True
            while more:
                self._barrier()
                more = _slice(snapshot, records, slices)
                if snapshot.is_full:
                    await in_thread(snapshot.write)
                    slices.begin()
                else:
                    await slices.pause()
            await in_thread(self._install, snapshot, generation)
        except BaseException:
            snapshot.abandon()
            raise
        self._journal.snapshot_installed(generation, snapshot.size)
        return generation

    def run_now(self) -> None:
        """Write a checkpoint without yielding to the loop: at a stop, when no client is served any more.

        Raises:
            OSError: of the file system; the older files still count.
        """
        self._journal.remove_leftovers()
        self._journal.remove_before(self.write())

    def write(self) -> int:
        """Write a snapshot and put it into effect, without removing what it replaces; returns its generation.

        Raises:
            OSError: of the file system; the older files still count.
        """
        self._barrier()
        generation = self._journal.begin_checkpoint()
        snapshot = SnapshotFile(self._journal, self._files, generation)
        try:
            for record in self._records():
                snapshot.add(record)
                if snapshot.is_full:
                    snapshot.write()
            self._install(snapshot, generation)
        except BaseException:
            snapshot.abandon()
            raise
        self._journal.snapshot_installed(generation, snapshot.size)
        return generation

    def _install(self, snapshot: SnapshotFile, generation: int) -> None:
        snapshot.finish()
        self._journal.install_snapshot(generation)


def _slice(snapshot: SnapshotFile, records: Iterator[Record], slices: Slices) -> bool:
    """Add records until time is up or the buffer is full; returns False when there are no more."""
    for record in records:
        snapshot.add(record)
        if snapshot.is_full or slices.is_over:
            return True
    return False
