"""The journal's chores: syncing, checkpoints when they are due, and coming back when the disk does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from callstate_sidecar.background import cancel_and_wait, in_thread, supervise
from callstate_sidecar.journal.checkpoint import Checkpointer
from callstate_sidecar.journal.log import Journal
from callstate_sidecar.metrics import Metrics

log = logging.getLogger(__name__)

RETRY_S: Final = 10.0
"""After a checkpoint that failed, the next is tried so much later: on a full disk it would only fill it again."""


class Maintenance:
    """Looks after a journal while the daemon serves.

    Args:
        interval_s: seconds between syncs: what a power loss takes at most (durability `process`).
        fatal: told when a sync fails, for then nobody knows what is on disk.
        metrics: counts checkpoints that failed.
    """

    def __init__(
        self,
        journal: Journal,
        checkpointer: Checkpointer,
        interval_s: float,
        fatal: Callable[[Exception], None],
        metrics: Metrics,
    ) -> None:
        self._journal = journal
        self._checkpointer = checkpointer
        self._interval_s = interval_s
        self._fatal = fatal
        self._metrics = metrics
        self._tasks: list[asyncio.Task[None]] = []
        self._busy = asyncio.Lock()

    def start(self) -> None:
        """Begin."""
        work = {"sync": self._sync, "checkpoint": self._checkpoints}
        self._tasks = [supervise(name, each, self._metrics) for name, each in work.items()]

    async def stop(self) -> None:
        """End. A checkpoint under way is given up, and what counted before still counts.

        When this returns no thread works on the journal any more. May be called twice.
        """
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            await cancel_and_wait(task)
        async with self._busy:
            pass  # a sync that somebody else has asked for

    async def sync(self) -> None:
        """Sync in a thread, one at a time."""
        async with self._busy:
            if self._journal.unsynced:
                await in_thread(self._journal.sync)

    async def _sync(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.sync()
            except Exception as error:  # noqa: BLE001 - of ours too: nobody knows what is on disk
                if isinstance(error, OSError) and self._journal.is_removed:
                    continue  # removed, not failed: writes are refused, and the next checkpoint builds it anew
                self._fatal(error)
                return

    async def _checkpoints(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            if not self._journal.is_removed and not self._journal.checkpoint_due:
                continue
            try:
                await self._checkpointer.run()
            except Exception as error:  # noqa: BLE001 - ours too: the log must not grow for ever for one of them
                self._failed(error)
                await asyncio.sleep(RETRY_S)
            else:
                log.debug("checkpoint of %d bytes", self._journal.snapshot_bytes)

    def _failed(self, error: Exception) -> None:
        self._metrics.count("checkpoints_failed")
        fault = None if isinstance(error, OSError) else error  # a fault of ours: with its traceback
        log.error("the checkpoint failed: %s; the next is tried in %g s", error, RETRY_S, exc_info=fault)
