"""Whether the store is up, down or refusing writes, and how long to wait before the next attempt."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Final, Literal

from callstate_client.engine.events import Events
from callstate_client.engine.sessions.stored import StoreError, StoreRefusingError
from callstate_client.engine.table.session_table import SessionTable
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.system.clock import SystemClock

log = logging.getLogger(__name__)

BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MAX_S: Final = 5.0
"""A store that comes back is noticed within this; a shorter limit would hammer one that is starting."""


class StoreState:
    """The result of the last attempts to use the store.

    Args:
        table: counts the dirty sessions, for the log.
        events: publishes `store.down`, `store.up` and `store.repaired`.
        commit: commits the open group, which publishes the events.

    Attributes:
        status: `up`, `down` (no answer) or `refusing` (the answer is an error, such as OOM or READONLY).
        error: why it is not up, in words; empty while it is.
        failures: consecutive failures.
    """

    def __init__(
        self, table: SessionTable, events: Events, clock: SystemClock, metrics: Metrics, commit: Callable[[], None]
    ) -> None:
        self._table = table
        self._events = events
        self._clock = clock
        self._metrics = metrics
        self._commit = commit
        self.status: Literal["up", "down", "refusing"] = "up"
        self.error = ""
        self.failures = 0

    def retry_delay_s(self) -> float:
        """How long to wait after the last failure: exponential backoff with jitter."""
        delay_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(self.failures - 1, 10))
        return delay_s * random.uniform(0.5, 1.0)

    def failed(self, error: StoreError) -> None:
        """Take note of a failed attempt."""
        status: Literal["down", "refusing"] = "refusing" if isinstance(error, StoreRefusingError) else "down"
        if status != self.status:
            self.publish("store.down", str(error))
            log.warning(
                "the store is %s: %s; serving goes on, %d dirty", status, error, len(self._table.dirty.marks)
            )
        self.status, self.error = status, str(error)
        self._table.store_in_doubt = True
        self.failures += 1
        self._metrics.count("store_failures")

    def succeeded(self) -> None:
        """Take note of a successful attempt."""
        if self.status != "up":
            self.publish("store.up")
            log.info("the store is up again, %d dirty", len(self._table.dirty.marks))
        self.status, self.error, self.failures = "up", "", 0

    def publish(self, event: Literal["store.down", "store.up", "store.repaired"], error: str = "") -> None:
        """Publish an event about the store."""
        self._events.note(event, self._clock.wall_us(), error=error)
        self._commit()
