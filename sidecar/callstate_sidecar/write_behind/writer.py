"""The rounds of write-behind: batches of dirty sessions, their results, and beats."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from callstate_client.engine.events import Events
from callstate_client.engine.flush_queue import FlushQueue
from callstate_client.engine.sessions.stored import StoreError, StorePartDownError
from callstate_sidecar.background import BackgroundTask
from callstate_sidecar.config.schema import StoreConfig
from callstate_sidecar.journal import PartsLog
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.reconcile import Reconciler
from callstate_sidecar.slices import in_slices
from callstate_sidecar.stores.backend import Backend
from callstate_sidecar.system.clock import SystemClock
from callstate_sidecar.write_behind.batches import Batches
from callstate_sidecar.write_behind.deletions import FlushedDeletions
from callstate_sidecar.write_behind.flush import FlushBarrier
from callstate_sidecar.write_behind.guarded_reads import GuardedReads
from callstate_sidecar.write_behind.outcomes import Outcomes
from callstate_sidecar.write_behind.store_check import StoreCheck
from callstate_sidecar.write_behind.store_state import StoreState
from callstate_sidecar.write_behind.store_watch import StoreWatch
from callstate_sidecar.write_behind.sweep import StoreSweep

log = EventLog(__name__)

RETRIES_A_ROUND: Final = 200
"""Sessions in quarantine that one round tries again: if thousands are due at once, the others wait no longer."""

LOSS_CHECK_S: Final = 1.0
"""How often an idle store is checked for data loss."""

BEATS_A_CALL: Final = 1000
"""Heartbeats written at a time: about a millisecond of the loop."""


class WriteBehind(BackgroundTask):
    """Copies sessions from the table to the store.

    Args:
        events: publishes what becomes of the store, and sessions that it refuses.
        commit: commits the open group.
        reconciler: decides about sessions that the store has in another state.
        parts: journals long histories in parts; None: there is no log.

    Attributes:
        store: whether the store is up.
        reads: what is read from the store on behalf of clients.
        check: compares memory with the store; see `StoreCheck.run`.
        may_write: whether this daemon is known to be the only one with its host id.
    """

    def __init__(
        self,
        queue: FlushQueue,
        backend: Backend,
        clock: SystemClock,
        config: StoreConfig,
        metrics: Metrics,
        host_id: str,
        events: Events,
        commit: Callable[[], None],
        reconciler: Reconciler,
        parts: PartsLog | None = None,
    ) -> None:
        super().__init__(metrics)
        self._table = queue.table
        self._queue = queue
        self._backend = backend
        self._clock = clock
        self._config = config
        self._commit = commit
        self._wake = asyncio.Event()
        self.store = StoreState(queue.table, events, clock, metrics, commit, self._look_at_store)
        self.reads = GuardedReads(backend, self.store)
        self._watch = StoreWatch(backend, self.store, clock, metrics, config.timeout_s)
        self._barrier = FlushBarrier(queue.table, self.store, self._wake)
        self._deletions = FlushedDeletions(queue, clock, config.ttl_s)
        outcomes = Outcomes(queue, backend, clock, metrics, events, commit, reconciler, self._deletions, parts)
        self._sweep = StoreSweep(
            queue, backend, clock, config, metrics, self.store, commit, reconciler, self._rewrite_after_loss
        )
        self._batches = Batches(
            queue, backend, clock, config, metrics, host_id, self.store, self._barrier, outcomes, commit
        )
        check = StoreCheck(
            queue.table,
            backend,
            clock,
            self.store,
            self._sweep,
            self._rewrite_after_loss,
            self._barrier,
            host_id,
            commit,
        )
        self.check = check.run
        self.may_write: Callable[[], bool] = lambda: True
        self._next_beats = clock.mono() + config.beat_interval_s
        self._data_losses = backend.data_losses
        self._checking_loss = asyncio.Lock()
        self._next_loss_check = clock.mono() + LOSS_CHECK_S

    def start(self) -> None:
        """Start the rounds, the watch over the store, and the sweep."""
        super().start()
        self._watch.start()
        self._sweep.start()

    async def stop(self) -> None:
        """Stop all three; see `BackgroundTask.stop`."""
        await self._sweep.stop()
        await self._watch.stop()
        await super().stop()

    def wake(self) -> None:
        """Begin a round now."""
        self._wake.set()

    async def flush(self, session_ids: list[str] | None, timeout_s: float | None) -> dict[str, int]:
        """Wait until the store has what is dirty now; see `FlushBarrier.wait`."""
        deadline = None if timeout_s is None else self._clock.mono() + timeout_s
        await self._look_for_loss(timeout_s)
        left_s = None if deadline is None else max(0.0, deadline - self._clock.mono())
        return await self._barrier.wait(session_ids, left_s)

    async def flush_before_stop(self, timeout_s: float) -> int:
        """Wait until the store has what is dirty, the time is up, or the store turns out to be down.

        Returns:
            how many sessions and deletions the store does not have: the journal has them, and the next start writes
            them.
        """
        deadline = self._clock.mono() + timeout_s
        if not self.store.is_open:
            await self._look_for_loss(min(timeout_s, self._config.timeout_s))
        left_s = max(0.0, deadline - self._clock.mono())
        left = await self._barrier.wait(None, left_s, unless_down=True)
        return left["unflushed"] - self._barrier.count_lost()

    async def _look_for_loss(self, timeout_s: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._rewrite_after_loss()

    def _look_at_store(self) -> None:
        """Begin a round, and let those who wait for a flush check whether that has a point."""
        self._wake.set()
        self._barrier.signal()

    # -- rounds -------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            failing = self.store.failures
            delay_s = self.store.retry_delay_s() if failing else self._config.flush_interval_s
            with suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.write_round()
            except Exception:
                # a bug that one session triggers must not end the flushing of all others
                log.exception("store_write_failed", "writing to the store failed")
                self.store.failures += 1

    async def write_round(self) -> None:
        """Write what is dirty, oldest first, then beats if they are due; stop at the first failure of the store.

        Sessions that become dirty meanwhile wait for the next round: by then they have gathered more changes, and
        on a busy host the beats would never be reached.
        """
        if not self.may_write():
            if self.store.failures:
                await self._attempt(self._backend.ping())
            return
        self._queue.retry_refused(self._clock.mono(), RETRIES_A_ROUND)
        await self._batches.retry_away()
        left = len(self._table.dirty.marks)
        while left > 0 and self._table.dirty.marks:
            written = await self._batches.write()
            if written is None:
                return
            left -= written
        if self._clock.mono() >= self._next_beats:
            await self._write_beats()
        elif self.store.failures:
            await self._attempt(self._backend.ping())
        due = self._clock.mono() >= self._next_loss_check or self._backend.data_losses != self._data_losses
        if due or (self._table.store_in_doubt and not self.store.failures):
            await self._rewrite_after_loss()

    async def _attempt(self, work: Awaitable[None]) -> bool:
        """Await an operation of the store; returns whether it succeeded."""
        try:
            await work
        except StorePartDownError:
            return False
        except StoreError as error:
            self.store.failed(error)
            return False
        self.store.succeeded()
        return True

    async def _write_beats(self) -> None:
        self._next_beats = self._clock.mono() + self._config.beat_interval_s
        for _ in range(-(-len(self._table.unflushed_beats) // BEATS_A_CALL)):  # not those that arrive meanwhile
            beats = self._queue.take_beats(BEATS_A_CALL)
            self._commit()
            at_ms = {session_id: at_us // 1000 for session_id, at_us in beats.items()}
            if not await self._attempt(self._backend.write_beats(at_ms)):
                self._queue.retry_beats(beats)
                return

    async def _rewrite_after_loss(self) -> None:
        """Mark everything hot dirty if the store has lost what was written to it."""
        if not self.may_write():  # nothing was, and the mark is another daemon's
            return
        async with self._checking_loss:
            self._next_loss_check = self._clock.mono() + LOSS_CHECK_S
            try:
                await self._backend.check_for_loss()
            except StoreError as error:
                self.store.failed(error)
                return
            data_losses = self._backend.data_losses
            if data_losses == self._data_losses:
                self._table.store_in_doubt = bool(self._backend.away)  # it may come back empty
                return
            self._table.store_in_doubt = True
            sessions = 0
            async for session_id in in_slices(self._table.each_id()):
                self._queue.not_stored(session_id, self._clock.mono())
                sessions += 1
            await self._deletions.repeat()
            self._data_losses, self._table.store_in_doubt = data_losses, False
        log.error("store_repaired", "the store may have lost data; %d sessions are written to it again", sessions)
        self._metrics.count("store_repairs")
        self.store.publish("store.repaired")
        self._wake.set()
