"""Deletions that the store has: repeated if the store turns out to have lost them.

After a failover to a replica that lagged behind, a session is back that was deleted, and the daemon has nothing hot
that could show it. So flushed deletions are remembered for as long as the store keeps their tombstones, the newest
of them, and in memory only: a restart forgets them, as it would be the journal's to keep each of them for a day.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from callstate_client.engine.flush_queue import FlushQueue
from callstate_client.engine.sessions.stored import Write
from callstate_client.engine.table.tombstones import Tombstone
from callstate_sidecar.slices import in_slices
from callstate_sidecar.system.clock import SystemClock

MAX_DELETIONS: Final = 100_000
"""Deletions are rare, as calls end and expire; so many take about 30 MB."""


class FlushedDeletions:
    """The deletions of the last `ttl_s` seconds that the store has confirmed."""

    def __init__(self, queue: FlushQueue, clock: SystemClock, ttl_s: float) -> None:
        self._queue = queue
        self._clock = clock
        self._ttl_s = ttl_s
        self._deleted: OrderedDict[str, tuple[float, Tombstone]] = OrderedDict()  # oldest first

    def __len__(self) -> int:
        return len(self._deleted)

    def written(self, write: Write) -> None:
        """Take note of what the store has written: a deletion, or a session in its place."""
        deleted = self._deleted
        if not deleted and write.document is not None:  # as usual
            return
        now = self._clock.mono()
        deleted.pop(write.session_id, None)
        if write.document is None:
            meta = write.meta
            deleted[write.session_id] = now, Tombstone(meta.version, meta.epoch, meta.ops)
        while deleted and (len(deleted) > MAX_DELETIONS or next(iter(deleted.values()))[0] < now - self._ttl_s):
            deleted.popitem(last=False)

    async def repeat(self) -> None:
        """Delete all of them again."""
        async for session_id in in_slices(tuple(self._deleted)):
            if session_id in self._deleted:
                self._queue.delete_again(session_id, self._deleted[session_id][1], self._clock.mono())
