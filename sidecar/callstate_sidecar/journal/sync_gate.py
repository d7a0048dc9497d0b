"""Durability `power`: replies wait until what they tell of is on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol


class HeldReplies(Protocol):
    """Replies of one connection (serving.connection.Connection)."""

    def take(self) -> bytes:
        """Take what is queued."""
        ...

    def release(self, data: bytes, /) -> None:
        """Send what was taken."""
        ...


class SyncGate:
    """Holds the replies of a turn of the loop until the group they saw is synced.

    One sync is under way at a time; the turns meanwhile gather behind it and share the next. Replies of turns
    that changed nothing leave with the sync under way, if any, for they may have seen what it covers.

    Args:
        unsynced: how many records wait for a sync.
        sync: syncs in a thread.
        fatal: told when that fails; replies held are never sent then.
    """

    def __init__(
        self, unsynced: Callable[[], int], sync: Callable[[], Awaitable[None]], fatal: Callable[[Exception], None]
    ) -> None:
        self._unsynced = unsynced
        self._sync = sync
        self._fatal = fatal
        self._held: list[tuple[HeldReplies, bytes]] = []
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def hold(self, connections: Iterable[HeldReplies]) -> None:
        """Take a turn's replies; they leave when they may."""
        self._held.extend((connection, connection.take()) for connection in connections)
        if self._task is None and not self._closed:
            if self._unsynced():
                self._task = asyncio.ensure_future(self._run())
            else:
                self._release()

    async def _run(self) -> None:
        try:
            while self._unsynced():
                held, self._held = self._held, []
                await self._sync()
                for connection, data in held:
                    connection.release(data)
            self._task = None
            self._release()
        except Exception as error:  # noqa: BLE001 - whatever it was: nobody knows what is on disk
            self._fatal(error)

    def _release(self) -> None:
        held, self._held = self._held, []
        for connection, data in held:
            connection.release(data)

    async def drained(self) -> None:
        """Wait until nothing is held."""
        if self._task is not None:
            await self._task

    async def close(self) -> None:
        """Wait for the sync under way, and begin no other: replies held from now on are never sent."""
        self._closed = True
        await self.drained()
