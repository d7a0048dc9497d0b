"""Deletions that the store has: repeated if the store turns out to have lost them.

After a failover to a replica that lagged behind, a session is back that was deleted, and the daemon has nothing hot
that could show it. So flushed deletions are remembered for as long as the store keeps their tombstones, the newest
of them, and in memory only: a restart forgets them, as it would be the journal's to keep each of them for a day.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from callstate_client.engine.flush_queue import FlushQueue
from callstate_client.engine.sessions.writes import Whole
from callstate_client.engine.table.tombstones import Tombstone
from callstate_sidecar.slices import in_slices
from callstate_sidecar.system.clock import SystemClock

MAX_DELETIONS: Final = 100_000
"""Deletions are rare, as calls end and expire; so many take about 30 MB."""

FORGOTTEN_AT_ONCE: Final = 2
"""Old deletions forgotten with each new one: all at last, and never thousands in one go."""


class FlushedDeletions:
    """The deletions of the last `ttl_s` seconds that the store has confirmed."""

    def __init__(self, queue: FlushQueue, clock: SystemClock, ttl_s: float) -> None:
        self._queue = queue
        self._clock = clock
        self._ttl_s = ttl_s
        self._deleted: dict[str, tuple[float, Tombstone]] = {}
        self._order: deque[tuple[float, str]] = deque()
        """When each was, oldest first; also of those that are not remembered any more."""
        self._first = 0
        """How many have been removed from its beginning so far."""

    def __len__(self) -> int:
        return len(self._deleted)

    def written(self, write: Whole) -> None:
        """Take note of what the store has written: a deletion, or a session in its place. A session that is patched
        has been written whole before."""
        deleted = self._deleted
        if not deleted and write.document is not None:
            return
        now = self._clock.mono()
        deleted.pop(write.session_id, None)
        if write.document is None:
            meta = write.meta
            deleted[write.session_id] = now, Tombstone(meta.version, meta.epoch, meta.ops)
            self._order.append((now, write.session_id))
        for _ in range(FORGOTTEN_AT_ONCE):
            if self._order and (len(self._order) > MAX_DELETIONS or self._order[0][0] < now - self._ttl_s):
                self._forget_oldest()

    def _forget_oldest(self) -> None:
        at, session_id = self._order.popleft()
        self._first += 1
        if session_id in self._deleted and self._deleted[session_id][0] == at:  # else it was deleted once more
            del self._deleted[session_id]

    async def repeat(self) -> None:
        """Delete all of them again."""
        async for at, session_id in in_slices(self._now_known()):
            if session_id in self._deleted and self._deleted[session_id][0] == at:
                self._queue.delete_again(session_id, self._deleted[session_id][1], self._clock.mono())

    def _now_known(self) -> Iterator[tuple[float, str]]:
        """The deletions known when the iteration began, as far as they are still known when it reaches them."""
        place, end = self._first, self._first + len(self._order)
        while (place := max(place, self._first)) < end:
            yield self._order[place - self._first]
            place += 1
