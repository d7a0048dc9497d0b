"""The journal's chores: syncing, checkpoints when they are due, and coming back when the disk does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from callstate_sidecar.journal.checkpoint import Checkpointer
from callstate_sidecar.journal.log import Journal

log = logging.getLogger(__name__)

RETRY_S: Final = 10.0
"""After a checkpoint that failed, the next is tried so much later: on a full disk it would only fill it again."""


class Keeper:
    """Looks after a journal while the daemon serves.

    Args:
        interval_s: seconds between syncs: what a power loss takes at most (durability `process`).
        fatal: told when a sync fails, for then nobody knows what is on disk.
    """

    def __init__(
        self, journal: Journal, checkpointer: Checkpointer, interval_s: float, fatal: Callable[[OSError], None]
    ) -> None:
        self._journal = journal
        self._checkpointer = checkpointer
        self._interval_s = interval_s
        self._fatal = fatal
        self._tasks: list[asyncio.Task[None]] = []
        self._busy = asyncio.Lock()

    def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.ensure_future(work) for work in (self._sync(), self._checkpoints())]

    async def stop(self) -> None:
        """End; a checkpoint under way is given up, and what counted before still counts."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._tasks = []

    async def sync(self) -> None:
        """Sync in a thread, one at a time."""
        async with self._busy:
            if self._journal.unsynced:
                await asyncio.get_running_loop().run_in_executor(None, self._journal.sync)

    async def _sync(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.sync()
            except OSError as error:
                if self._journal.is_gone:
                    continue  # removed, not failed: writes are refused, and the next checkpoint builds it anew
                self._fatal(error)
                return

    async def _checkpoints(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            if not self._journal.is_gone and not self._journal.wants_checkpoint:
                continue
            try:
                await self._checkpointer.run()
            except OSError as error:
                log.error("the checkpoint failed: %s; the next is tried in %g s", error, RETRY_S)  # noqa: TRY400
                await asyncio.sleep(RETRY_S)
            else:
                log.debug("checkpoint of %d bytes", self._journal.snapshot_bytes)
