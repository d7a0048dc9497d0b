"""Background work on the journal: periodic syncs, checkpoints when they are due, and recovery of deleted files.

A failed sync is fatal (log.py says why). A failed checkpoint is not: the log goes on growing and the next one is
tried later. If the files were deleted, writes are refused until a checkpoint has written a new journal.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Final

from callstate_sidecar.background import cancel_and_wait, in_thread, supervise
from callstate_sidecar.journal.checkpoint import Checkpointer
from callstate_sidecar.journal.log import Journal
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.metrics import Metrics

log = EventLog(__name__)

RETRY_S: Final = 10.0
"""Pause after a failed checkpoint: on a full disk, the next one would only fill it again."""


class Maintenance:
    """Syncs and checkpoints a journal while the daemon serves.

    Args:
        interval_s: seconds between syncs: how much a power loss can lose (durability `process`).
        fatal: called if a sync fails, because then it is unknown what is on disk.
        metrics: counts checkpoints that failed.
        logged: whether changes are journaled as they are made: not with durability `memory`.
    """

    def __init__(
        self,
        journal: Journal,
        checkpointer: Checkpointer,
        interval_s: float,
        fatal: Callable[[Exception], None],
        metrics: Metrics,
        *,
        logged: bool = True,
    ) -> None:
        self._journal = journal
        self._checkpointer = checkpointer
        self._interval_s = interval_s
        self._fatal = fatal
        self._metrics = metrics
        self._logged = logged
        self._tasks: list[asyncio.Task[None]] = []
        self._syncing = asyncio.Lock()
        self._checkpointing = asyncio.Lock()
        self._stopped = False

    def start(self) -> None:
        """Start the tasks."""
        work = {"sync": self._sync_periodically, "checkpoint": self._checkpoint_when_due}
        self._tasks = [supervise(name, loop, self._metrics) for name, loop in work.items()]

    async def stop(self) -> None:
        """Stop the tasks; an unfinished checkpoint is abandoned. May be called twice.

        When this returns, no thread works on the journal any more.
        """
        self._stopped = True
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            await cancel_and_wait(task)
        async with self._checkpointing:
            pass  # wait for an erasure
        async with self._syncing:
            pass  # wait for a sync that the sync gate has started

    async def sync(self) -> None:
        """Sync in a thread, one at a time."""
        async with self._syncing:
            if self._journal.unsynced:
                await in_thread(self._journal.sync)

    async def erase(self) -> None:
        """Have no file contain bytes of records of what is no longer in memory.

        Raises:
            OSError: of the file system; such files may be left.
        """
        async with self._checkpointing:
            if self._stopped:
                raise OSError(errno.ECANCELED, "the daemon is stopping")
            if self._logged:
                await self._checkpointer.run_clean()
            else:
                await self._checkpointer.discard_clean()
        await self.sync()  # which closes the removed files, and so releases their space

    async def _sync_periodically(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.sync()
            except Exception as error:  # noqa: BLE001 - any failure: what is on disk is unknown
                if isinstance(error, OSError) and self._journal.is_removed:
                    continue  # deleted, not failed: the next checkpoint writes a new journal
                self._fatal(error)
                return

    async def _checkpoint_when_due(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                if not self._is_checkpoint_due():
                    continue
                async with self._checkpointing:
                    await self._checkpointer.run()
            except Exception as error:  # noqa: BLE001 - a bug too: the log must not grow for ever
                self._failed(error)
                await asyncio.sleep(RETRY_S)
            else:
                self._metrics.count("checkpoints")
                log.debug("checkpoint", "checkpoint of %d bytes", self._journal.snapshot_bytes)

    def _is_checkpoint_due(self) -> bool:
        journal = self._journal
        return journal.is_removed or journal.checkpoint_due or journal.is_short_of_space()

    def _failed(self, error: Exception) -> None:
        self._metrics.count("checkpoints_failed")
        bug = None if isinstance(error, OSError) else error  # with its traceback
        log.error(
            "checkpoint_failed",
            "the checkpoint failed: %s; the next is tried in %g s",
            error,
            RETRY_S,
            exc_info=bug,
        )
