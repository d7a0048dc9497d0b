"""Writes to a part of the store that does not answer, while other parts do: in flight until they are tried again.

Sessions of a cluster's primary that is away must neither be forgotten nor be sent with every batch. So they stay in
flight, counted as dirty, and all of them are tried again by backoff; a session that changes meanwhile goes with the
next batch.
"""

from __future__ import annotations

import random
from typing import Final

from callstate_client.engine.flush_queue import FlushQueue
from callstate_client.engine.sessions.writes import Write
from callstate_sidecar.slices import in_slices
from callstate_sidecar.system.clock import SystemClock

BACKOFF_FIRST_S: Final = 0.2
BACKOFF_MAX_S: Final = 5.0
"""Trying again costs the loop some 20 µs for each session that waits."""


class AwayWrites:
    """The writes whose part of the store is away."""

    def __init__(self, queue: FlushQueue, clock: SystemClock) -> None:
        self._queue = queue
        self._clock = clock
        self._writes: dict[str, tuple[Write, float]] = {}
        self._delay_s = BACKOFF_FIRST_S
        self._due = 0.0

    def __len__(self) -> int:
        return len(self._writes)

    def keep(self, write: Write, since: float) -> None:
        """This one was not answered. `since`: as returned by `FlushQueue.take`."""
        if not self._writes:
            self._due = self._clock.mono() + self._delay_s
        self.resent(write.session_id)
        self._writes[write.session_id] = write, since
        self._queue.table.hot.total += write.size

    def resent(self, session_id: str) -> None:
        """A later state of this session is on its way."""
        before = self._writes.pop(session_id, None)
        if before is not None:
            self._queue.table.hot.total -= before[0].size

    async def retry_due(self) -> None:
        """Make all of them dirty again, if it is time."""
        now = self._clock.mono()
        if not self._writes:
            self._delay_s = BACKOFF_FIRST_S
        elif now >= self._due:
            self._delay_s = min(BACKOFF_MAX_S, self._delay_s * 2) * random.uniform(0.75, 1.0)
            self._due = now + self._delay_s
            async for session_id in in_slices([*self._writes]):
                if session_id in self._writes:
                    write, since = self._writes[session_id]
                    self.resent(session_id)
                    self._queue.retry(write, since)
                    self._queue.postpone(session_id)  # the others first: these may wait again
