"""After a start: sessions of this host that a store which is not shared has, and the journal does not.

The journal was lost, is older, or keeps nothing over a crash (durability `memory`). Where hosts share a store, they
find such sessions in their sets (possession.py); here all active ones are looked through once, a page at a time and
while requests are served.
"""

from __future__ import annotations

import asyncio
from typing import Final

from callstate_client.engine.sessions.stored import StoreError
from callstate_client.engine.table.session_table import SessionTable
from callstate_sidecar.background import BackgroundTask
from callstate_sidecar.hosts.doubts import Doubts
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.stores.backend import Reads

log = EventLog(__name__)

PAUSE_S: Final = 0.02
"""Between pages, so that others may use the file."""

AGAIN_S: Final = 5.0
"""After a failure of the store, and while there is no room in memory for what was found."""


class Rereading(BackgroundTask):
    """Keeps hot what the store has of this host.

    Args:
        reads: the store.
        table: the sessions in memory.
        doubts: reads what is not hot.
        metrics: counts failures of the task.
    """

    def __init__(self, reads: Reads, table: SessionTable, doubts: Doubts, metrics: Metrics) -> None:
        super().__init__(metrics)
        self._reads = reads
        self._table = table
        self._doubts = doubts
        self._cursor: str | None = ""
        """Of the next page; None after the last one."""

    async def _run(self) -> None:
        while True:
            if await self.go_on():
                return
            await asyncio.sleep(AGAIN_S)

    async def go_on(self) -> bool:
        """Read what has not been read yet; returns whether that was all of it."""
        try:
            while self._cursor is not None:
                await self._read_page(self._cursor)
                await asyncio.sleep(PAUSE_S)
            await self._doubts.settle()
        except StoreError as error:
            log.debug("rereading_cut_short", "reading this host's sessions was cut short: %s", error)
            return False
        if self._doubts.session_ids:
            return False
        if self._doubts.found:
            log.info("sessions_reread", "%d sessions of this host were read from the store", self._doubts.found)
        return True

    async def _read_page(self, cursor: str) -> None:
        session_ids, cursor = await self._reads.active_ids(cursor)
        table = self._table
        await self._doubts.settle(
            [i for i in session_ids if i not in table.sessions and i not in table.tombstones.pending]
        )
        self._cursor = cursor or None
