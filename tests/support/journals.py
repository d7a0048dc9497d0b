"""Journals for tests: a small table whose changes are journaled, and file calls that fail on purpose."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from callstate_client.engine.table.replay import replay
from callstate_client.engine.table.session_table import SessionTable
from callstate_sidecar.journal import Checkpointer, Files, Journal
from support.table_harness import TableHarness


def turn(number: int) -> bytes:
    """A turn that contains its number."""
    return b'{"role":"user","content":"turn %d","timestamp":"2026-01-01T00:00:00Z","duration_ms":1}' % number


class JournaledTable:
    """A table and its journal, changed as the daemon does it: each group is journaled, then committed."""

    def __init__(self, directory: Path, files: Files | None = None, **options: Any) -> None:
        self.files = files or Files()
        options = {"checkpoint_min_bytes": 1 << 30, "segment_bytes": 4096} | options
        self.journal = Journal(directory, files=self.files, **options)
        self.harness = TableHarness()
        self.clock_us = 1_000_000
        self.replayed = self.journal.replay(self.harness.replay)
        self.journal.start()

    def create(self, session_id: str) -> None:
        """Create a session without turns."""
        self.clock_us += 1
        self.harness.create(session_id, at_us=self.clock_us)
        self.commit()

    def add_turn(self, session_id: str, content: bytes) -> None:
        """Add a turn."""
        self.clock_us += 1
        self.harness.add_turn(self.harness.table.sessions[session_id], turn=content, at_us=self.clock_us)
        self.commit()

    def delete(self, session_id: str) -> None:
        """Delete a session."""
        self.clock_us += 1
        session = self.harness.table.sessions[session_id]
        self.harness.tx.remove(session, session.next_version(self.clock_us), 0.0)
        self.commit()

    def commit(self) -> None:
        """Journal and commit the group; if that fails, roll it back and raise."""
        try:
            self.journal.append(self.harness.tx.records)
        except OSError:
            self.harness.rollback()
            raise
        self.harness.tx.commit()

    def checkpoint(self) -> None:
        """Write a checkpoint now."""
        Checkpointer(self.journal, self.files, self.harness.snapshot, lambda: None).run_now()

    def state(self) -> dict[str, bytes]:
        """Every session's document."""
        return documents(self.harness.table)


def documents(table: SessionTable) -> dict[str, bytes]:
    """Every session's document, as a load would give it."""
    return {session.id: session.doc.to_json(session.doc.updated_us) for session in table.sessions.values()}


def recovered(directory: Path) -> dict[str, bytes]:
    """The documents that a start would restore from a journal."""
    table = SessionTable()
    Journal(directory, checkpoint_min_bytes=1 << 30).replay(partial(replay, table))
    return documents(table)


def write_long_journal(directory: Path, turns: int) -> None:
    """Write a journal of session `c1` with so many turns, each a record, for a replay that takes some time."""
    journaled = JournaledTable(directory, segment_bytes=1 << 22)
    journaled.create("c1")
    for number in range(turns):
        journaled.add_turn("c1", turn(number % 10))
    journaled.journal.close()


class Killed(BaseException):
    """Stands for kill -9: nothing runs after it, and only what was written is left."""


class FaultyFiles(Files):
    """File calls of which the one numbered `fail_at` fails.

    Args:
        fail_at: the number, from 0, among the calls named in `calls`.
        failure: gets the real call; raises, perhaps after executing it.
        calls: which calls count.
        forever: all later calls fail too, as on a dead disk.
    """

    def __init__(
        self,
        fail_at: int,
        failure: Callable[[Callable[[], Any]], Any],
        calls: tuple[str, ...] = (
            "create", "open", "allocate", "write", "truncate", "sync", "rename", "unlink", "sync_directory",
        ),
        *,
        forever: bool = False,
    ) -> None:  # fmt: skip
        self.count = 0
        self.fail_at = fail_at
        self.failed: str | None = None
        for name in calls:
            setattr(self, name, self._wrapped(name, getattr(super(), name), failure, forever))

    def _wrapped(
        self, name: str, real: Callable[..., Any], failure: Callable[[Callable[[], Any]], Any], forever: bool
    ) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            number, self.count = self.count, self.count + 1
            if number == self.fail_at or (forever and number > self.fail_at):
                self.failed = self.failed or name
                return failure(lambda: real(*args))
            return real(*args)

        return call


def eio(_: Callable[[], Any]) -> Any:
    """An I/O error."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def enospc(_: Callable[[], Any]) -> Any:
    """The disk is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def erofs(_: Callable[[], Any]) -> Any:
    """The file system was remounted read-only."""
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def done_then_eio(real: Callable[[], Any]) -> Any:
    """The call succeeds, and reports an I/O error."""
    real()
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def killed(_: Callable[[], Any]) -> Any:
    """The process dies before the call."""
    raise Killed


def done_then_killed(real: Callable[[], Any]) -> Any:
    """The process dies right after the call."""
    real()
    raise Killed


class VolatileFiles(Files):
    """Records what was synced of each file, so that a power loss can drop the rest."""

    def __init__(self) -> None:
        self.synced: dict[int, bytes] = {}

    def sync(self, fd: int) -> None:
        """Sync, and record the file's content."""
        super().sync(fd)
        status = os.fstat(fd)
        self.synced[status.st_ino] = os.pread(fd, status.st_size, 0)

    def lose_power(self, directory: Path, into: Path) -> None:
        """Copy the directory as it may be after a power loss: what was not synced is zeros."""
        into.mkdir()
        for path in directory.iterdir():
            status = path.stat()
            known = self.synced.get(status.st_ino, b"")
            (into / path.name).write_bytes(known.ljust(status.st_size, b"\0")[: status.st_size])
