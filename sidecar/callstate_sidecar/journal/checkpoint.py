"""A snapshot of everything hot, written beside the running log, then put in place of what the log had grown to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Final

from callstate_client.engine.sessions.records import Record, encode_record
from callstate_sidecar.background import in_thread
from callstate_sidecar.journal.format import Kind, file_header, frame
from callstate_sidecar.journal.layout import snapshot_path
from callstate_sidecar.journal.log import Journal
from callstate_sidecar.system.files import Files, naming

SLICE_S: Final = 0.001
"""The loop is held this long at most for a slice: other work of the same turn comes on top of it."""

WRITE_BYTES: Final = 1024 * 1024
"""Bytes gathered before a thread writes them: few calls, and little memory."""


class SnapshotFile:
    """A snapshot being written.

    Raises:
        OSError: the disk refuses (every method); `abandon` it then.
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
        """Take a record; None is the mark that ends the snapshot."""
        self._sequence += 1
        body = b"" if record is None else encode_record(record)
        framed = frame(self._generation, self._sequence, 0, body)
        self._pending.append(framed)
        self._pending_bytes += len(framed)

    @property
    def is_full(self) -> bool:
        """Whether there is enough to be worth a write."""
        return self._pending_bytes >= WRITE_BYTES

    def write(self) -> None:
        """Write what was taken so far."""
        data = b"".join(self._pending)
        with naming(self._draft):
            self._files.write(self._fd, data, self.size)
        self.size += len(data)
        self._pending, self._pending_bytes = [], 0

    def finish(self) -> None:
        """Write the rest, and give the file its name once all of it is on disk."""
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
        fd, self._fd = self._fd, -1  # also where that fails: the number may be another file's by then
        if fd >= 0:
            self._files.close(fd)


class Checkpointer:
    """Writes checkpoints, one at a time.

    Args:
        journal: whose log is to shrink.
        files: the file calls.
        records: gives everything hot, one at a time, as it is when asked for.
        barrier: puts the open group down, so that no record tells of what may yet be undone.
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
        """Write one while the daemon serves: the loop is held for slices, the disk waited for in a thread.

        What changes meanwhile goes to a new log segment, and a record's version tells a replay whether the
        snapshot has it already.

        Raises:
            OSError: the disk refuses; what counted before still counts.
        """
        await in_thread(self._journal.remove_leftovers)
        self._barrier()
        generation = self._journal.begin_checkpoint()
        snapshot = SnapshotFile(self._journal, self._files, generation)
        try:
            records = self._records()
            more = True
            while more:
                self._barrier()
                more = _slice(snapshot, records, time.monotonic() + SLICE_S)
                if snapshot.is_full:
                    await in_thread(snapshot.write)
                else:
                    await asyncio.sleep(0)
            await in_thread(self._settle, snapshot, generation)
        except BaseException:
            snapshot.abandon()
            raise
        self._journal.snapshot_installed(generation, snapshot.size)
        await in_thread(self._journal.remove_before, generation)

    def run_now(self) -> None:
        """Write one and return when it counts: at a stop, when nobody is served any more.

        Raises:
            OSError: the disk refuses; what counted before still counts.
        """
        self._journal.remove_leftovers()
        self._journal.remove_before(self.write())

    def write(self) -> int:
        """Let a snapshot count, and leave what it replaces; gives its generation.

        Raises:
            OSError: the disk refuses; what counted before still counts.
        """
        self._barrier()
        generation = self._journal.begin_checkpoint()
        snapshot = SnapshotFile(self._journal, self._files, generation)
        try:
            for record in self._records():
                snapshot.add(record)
                if snapshot.is_full:
                    snapshot.write()
            self._settle(snapshot, generation)
        except BaseException:
            snapshot.abandon()
            raise
        self._journal.snapshot_installed(generation, snapshot.size)
        return generation

    def _settle(self, snapshot: SnapshotFile, generation: int) -> None:
        snapshot.finish()
        self._journal.install_snapshot(generation)


def _slice(snapshot: SnapshotFile, records: Iterator[Record], until: float) -> bool:
    """Add records until the time is up, the buffer full, or there are no more; tells whether there are."""
    for record in records:
        snapshot.add(record)
        if snapshot.is_full or time.monotonic() >= until:
            return True
    return False
