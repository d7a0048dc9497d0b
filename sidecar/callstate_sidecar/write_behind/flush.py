"""The barrier behind `server.flush`: wait until the store has everything that was dirty at one moment.

Each call ends an era of the table: what becomes dirty later belongs to the next era and is not waited for, so the
wait ends even on a busy host. Marks and writes in flight carry their era.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from callstate_client.engine.table.session_table import SessionTable
from callstate_sidecar.slices import in_slices
from callstate_sidecar.write_behind.store_state import StoreState


class FlushBarrier:
    """Waits for write-behind.

    Args:
        store: whether the store fails at present.
        wake: starts a round at once.
    """

    def __init__(self, table: SessionTable, store: StoreState, wake: asyncio.Event) -> None:
        self._table = table
        self._store = store
        self._wake = wake
        self._progress = asyncio.Event()

    def signal(self) -> None:
        """Let those who wait check again: a batch was answered, or failed."""
        self._progress.set()
        self._progress = asyncio.Event()

    async def wait(
        self, session_ids: list[str] | None, timeout_s: float | None, *, unless_down: bool = False
    ) -> dict[str, int]:
        """Wait until the store has what is dirty now, it has refused the rest, or the time is up.

        Args:
            session_ids: only these; None for all.
            timeout_s: seconds; None waits as long as it takes.
            unless_down: do not wait for a store that is down.

        Returns:
            `flushed` and `unflushed`: how many of these sessions the store has, and does not have.
        """
        era = self._table.dirty.end_era()
        self._wake.set()
        if session_ids is None:
            total = self._count_unflushed(era)
        else:
            total = len({i async for i in in_slices(session_ids)})
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                if session_ids is None:
                    await self._until(
                        lambda: not self._table.dirty.unwritten(era) or (unless_down and self._store.is_open)
                    )
                else:
                    async for session_id in in_slices(session_ids):
                        await self._until(partial(self._is_answered, session_id, era))
        if session_ids is None:
            unflushed = self._count_unflushed(era)
        else:
            lacking = {i async for i in in_slices(session_ids) if not self._has(i, era)}
            unflushed = len(lacking)
        return {"flushed": total - unflushed, "unflushed": unflushed}

    async def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            if not self._store.failures:  # else the backoff decides when the store is tried again
                self._wake.set()
            await self._progress.wait()

    def _is_answered(self, session_id: str, era: int) -> bool:
        """Whether the store has written or refused what was dirty of this session at the end of this era."""
        return not self._table.dirty.is_unwritten(session_id, era)

    def _has(self, session_id: str, era: int) -> bool:
        """Whether the store has written it."""
        table = self._table
        is_lost = session_id in table.set_aside and session_id not in table.sessions
        return not is_lost and session_id not in table.quarantined and self._is_answered(session_id, era)

    def _count_unflushed(self, era: int) -> int:
        """How many sessions the store does not have as they were at the end of this era."""
        table = self._table
        quarantined = sum(self._is_answered(i, era) for i in table.quarantined)
        return table.dirty.unwritten_sessions(era) + quarantined + self.count_lost()

    def count_lost(self) -> int:
        """How many sessions another host has, of which only a copy is here: it is never written."""
        return sum(i not in self._table.sessions for i in self._table.set_aside)
