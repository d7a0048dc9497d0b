"""Group commit to disk (durability `power`): replies wait until the changes that they report are synced.

Every turn of the event loop hands over the replies it has queued, after its group was appended to the journal. One
sync runs at a time, in a thread; the turns that end meanwhile wait for the next one and share it. Replies of a turn
without changes leave with the sync in progress, if any, because they may report changes that it covers. If a sync
fails, the replies are never sent, and the daemon stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from callstate_client.engine.long_result import Result


class HeldReplies(Protocol):
    """A connection, as far as its queued replies go."""

    def take(self) -> Result:
        """Remove and return the queued replies."""
        ...

    def release(self, data: Result, /) -> None:
        """Send replies taken before."""
        ...


class SyncGate:
    """Holds replies until the group they saw is synced.

    Args:
        unsynced: returns the number of records not yet synced.
        sync: syncs, in a thread.
        fatal: called if that fails.
    """

    def __init__(
        self, unsynced: Callable[[], int], sync: Callable[[], Awaitable[None]], fatal: Callable[[Exception], None]
    ) -> None:
        self._unsynced = unsynced
        self._sync = sync
        self._fatal = fatal
        self._held: list[tuple[HeldReplies, Result]] = []
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def hold(self, connections: Iterable[HeldReplies]) -> None:
        """Take the queued replies of these connections, and send them once they may leave."""
        self._held.extend((connection, connection.take()) for connection in connections)
        if self._task is None and not self._closed:
            if self._unsynced():
                self._task = asyncio.ensure_future(self._run())
            else:
                self._release(self._take_held())

    async def _run(self) -> None:
        try:
            while self._unsynced():
                held = self._take_held()
                await self._sync()
                self._release(held)
            self._task = None
            self._release(self._take_held())
        except Exception as error:  # noqa: BLE001 - any failure: what is on disk is unknown
            self._fatal(error)

    def _take_held(self) -> list[tuple[HeldReplies, Result]]:
        held, self._held = self._held, []
        return held

    def _release(self, held: list[tuple[HeldReplies, Result]]) -> None:
        for connection, data in held:
            connection.release(data)

    async def drained(self) -> None:
        """Wait until no reply is held."""
        if self._task is not None:
            await self._task

    async def close(self) -> None:
        """Wait for the sync in progress and begin no other: replies held from now on are never sent."""
        self._closed = True
        await self.drained()
