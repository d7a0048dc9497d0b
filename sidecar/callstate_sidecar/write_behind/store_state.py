"""The circuit breaker between the daemon and its store: one for reads and writes.

    up         the store answers
    down       it does not: the circuit is open. Reads fail at once; write-behind tries again by backoff, and the
               first answer closes the circuit
    refusing   it answers, but takes no writes. Reads go on; write-behind tries again by backoff

Whoever uses the store says what came of it. What has not been used for a while is asked by a ping (store_watch.py),
so the state is never an old opinion. The state itself changes at once; events and log lines tell of a change only
when it has lasted for SETTLE_S, so that a store that comes and goes does not flood them.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Final, Literal

from callstate_client.engine.events import Events
from callstate_client.engine.sessions.stored import (
    StoreDownError,
    StoreError,
    StoreRefusingError,
    StoreUnsuitableError,
)
from callstate_client.engine.table.session_table import SessionTable
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.system.clock import SystemClock

log = EventLog(__name__)

Status = Literal["up", "down", "refusing"]

BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MAX_S: Final = 5.0
"""A store that comes back is noticed within this; a shorter limit would hammer one that is starting."""

SETTLE_S: Final = 1.0
"""How long a change has to last before it is told."""


class StoreState:
    """The result of the last attempts to use the store.

    Args:
        table: counts the dirty sessions, for the log.
        events: publishes `store.down`, `store.up` and `store.repaired`.
        commit: commits the open group, which publishes the events.
        wake: has write-behind look at the store at once.

    Attributes:
        status: `up`, `down` (no answer) or `refusing` (the answer is an error, such as OOM or READONLY).
        error: why it is not up, in words; empty while it is.
        failures: consecutive failures.
        answers: how often it has answered.
        used_at: when the store was last used, with or without success, monotonic seconds.
    """

    def __init__(
        self,
        table: SessionTable,
        events: Events,
        clock: SystemClock,
        metrics: Metrics,
        commit: Callable[[], None],
        wake: Callable[[], None],
    ) -> None:
        self._table = table
        self._events = events
        self._clock = clock
        self._metrics = metrics
        self._commit = commit
        self._wake = wake
        self.status: Status = "up"
        self.error = ""
        self.failures = 0
        self.used_at = clock.mono()
        self.answers = 0
        self._since = clock.mono()
        self._told: Status = "up"
        self._severity = logging.WARNING

    @property
    def is_open(self) -> bool:
        """Whether the store does not answer: requests that need it are refused at once."""
        return self.status == "down"

    def check(self) -> None:
        """Refuse to use the store while the circuit is open.

        Raises:
            StoreDownError: it is.
        """
        if self.status == "down":
            raise StoreDownError(self.error)

    def retry_delay_s(self) -> float:
        """How long to wait after the last failure: exponential backoff with jitter."""
        delay_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(self.failures - 1, 10))
        return delay_s * random.uniform(0.5, 1.0)

    # -- what came of an attempt ----------------------------------------------------------------------------------

    def failed(self, error: StoreError) -> None:
        """Take note of a failed attempt of write-behind."""
        self._severity = logging.ERROR if isinstance(error, StoreUnsuitableError) else logging.WARNING
        self._become("refusing" if isinstance(error, StoreRefusingError) else "down", str(error))
        self._table.store_in_doubt = True
        self.failures += 1
        self._metrics.count("store_failures")

    def succeeded(self) -> None:
        """Take note that the store has taken a write, or that it answers and there is nothing to write."""
        self._become("up", "")
        self.failures = 0
        self.answers += 1

    def unanswered(self, error: StoreDownError) -> None:
        """Take note that the store did not answer a read or a ping: write-behind is to find out how it is."""
        if self.status != "down":
            self.failed(error)
            self._wake()

    def answered(self) -> None:
        """Take note that the store has answered a read or a ping; it need not take writes for that."""
        self.used_at = self._clock.mono()
        self.answers += 1
        if self.status == "down":
            self.succeeded()
            self._wake()

    def _become(self, status: Status, error: str) -> None:
        self.used_at = self._clock.mono()
        if status != self.status:
            self._since = self.used_at
        self.status, self.error = status, error
        self.settle()

    # -- telling --------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Tell of a change of state that has lasted."""
        if self.status == self._told or self._clock.mono() - self._since < SETTLE_S:
            return
        self._told = self.status
        dirty = self._table.dirty.sessions
        if self.status == "up":
            self.publish("store.up")
            log.info("store_up", "the store is up again, %d dirty", dirty)
        else:
            self.publish("store.down", self.error)
            log.at(
                self._severity, "store_down", "the store is %s: %s; serving continues, %d dirty",
                self.status, self.error, dirty, store=self.status,
            )  # fmt: skip

    def publish(self, event: Literal["store.down", "store.up", "store.repaired"], error: str = "") -> None:
        """Publish an event about the store."""
        self._events.note(event, self._clock.wall_us(), error=error)
        self._commit()
