"""Renewal of TTLs: a live session that does not change is written again before the store would expire it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from callstate_client.engine.flush_queue import FlushQueue
from callstate_client.engine.sessions.stored import Write
from callstate_sidecar.system.clock import SystemClock

RENEW_SHARE: Final = 0.25
"""A live session is written again when this share of its TTL has passed."""

RENEW_BATCH: Final = 200
"""Sessions marked in one round, so that 100,000 due at once don't block the loop."""


class Renewals:
    """When each live session was last written.

    Args:
        ttl_s: the store's TTL, seconds.
    """

    def __init__(self, queue: FlushQueue, clock: SystemClock, ttl_s: float) -> None:
        self._table = queue.table
        self._queue = queue
        self._clock = clock
        self._interval_s = ttl_s * RENEW_SHARE
        self._written_at: OrderedDict[str, float] = OrderedDict()  # oldest first

    def written(self, write: Write) -> None:
        """Take note that the store has written a session."""
        if write.active:
            self._written_at[write.session_id] = self._clock.mono()
            self._written_at.move_to_end(write.session_id)
        else:
            self._written_at.pop(write.session_id, None)

    def mark_due(self) -> None:
        """Mark live sessions dirty whose renewal is due, at most RENEW_BATCH of them."""
        due = self._clock.mono() - self._interval_s
        for _ in range(RENEW_BATCH):
            if not self._written_at:
                return
            session_id = next(iter(self._written_at))
            if self._written_at[session_id] > due:
                return
            del self._written_at[session_id]
            session = self._table.sessions.get(session_id)
            if session is not None and not session.ended:
                self._queue.mark_stale(session_id, self._clock.mono(), session.doc.size)
