"""The rounds of write-behind: batches of dirty sessions, their results, and beats."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from callstate_client.engine.events import SUPERSEDED, Events
from callstate_client.engine.flush_queue import FlushQueue
from callstate_client.engine.sessions.stored import StoredSession, StoreError, Write
from callstate_sidecar.background import BackgroundTask, in_slices
from callstate_sidecar.config.schema import StoreConfig
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.reconcile import Reconciler
from callstate_sidecar.stores.backend import Backend, WriteOutcome, WriteResult
from callstate_sidecar.stores.fencing import Stamp, superseded_by
from callstate_sidecar.system.clock import SystemClock
from callstate_sidecar.write_behind.flush import FlushBarrier
from callstate_sidecar.write_behind.renewal import Renewals
from callstate_sidecar.write_behind.store_state import StoreState

log = logging.getLogger(__name__)

LOSS_CHECK_S: Final = 1.0
"""How often an idle store is checked for data loss."""

BEATS_A_CALL: Final = 1000
"""Heartbeats written at a time: about a millisecond of the loop."""

IDS_A_SLICE: Final = 1000
"""Sessions marked without giving way to the loop: less than a millisecond."""


class WriteBehind(BackgroundTask):
    """Copies sessions from the table to the store.

    Args:
        events: publishes what becomes of the store, and sessions that it refuses.
        commit: commits the open group.
        reconciler: decides about sessions that the store has in another state.

    Attributes:
        store: whether the store is up.
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
    ) -> None:
        super().__init__(metrics)
        self._table = queue.table
        self._queue = queue
        self._backend = backend
        self._clock = clock
        self._config = config
        self._host_id = host_id
        self._events = events
        self._commit = commit
        self._reconciler = reconciler
        self.store = StoreState(queue.table, events, clock, metrics, commit)
        self._wake = asyncio.Event()
        self._barrier = FlushBarrier(queue.table, self.store, self._wake)
        self._renewals = Renewals(queue, clock, config.ttl_s)
        self._next_beats = clock.mono() + config.beat_interval_s
        self._data_losses = backend.data_losses
        self._checking_loss = asyncio.Lock()
        self._next_loss_check = clock.mono() + LOSS_CHECK_S

    async def flush(self, session_ids: list[str] | None, timeout_s: float | None) -> dict[str, int]:
        """Wait until the store has what is dirty now; see `FlushBarrier.wait`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._rewrite_after_loss()
        return await self._barrier.wait(session_ids, timeout_s)

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
                log.exception("writing to the store failed")
                self.store.failures += 1

    async def write_round(self) -> None:
        """Write what is dirty, oldest first, then beats if they are due; stop at the first failure of the store.

        Sessions that become dirty meanwhile wait for the next round: by then they have gathered more changes, and
        on a busy host the beats would never be reached.
        """
        self._renewals.mark_due()
        left = len(self._table.dirty.marks)
        while left > 0 and self._table.dirty.marks:
            written = await self._write_batch()
            if not written:
                return
            left -= written
        if self._clock.mono() >= self._next_beats:
            await self._write_beats()
        elif self.store.failures:
            await self._attempt(self._backend.ping())
        if self._clock.mono() >= self._next_loss_check or self._backend.data_losses != self._data_losses:
            await self._rewrite_after_loss()

    async def _attempt(self, work: Awaitable[None]) -> bool:
        """Await an operation of the store; returns whether it succeeded."""
        try:
            await work
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
        async with self._checking_loss:
            self._next_loss_check = self._clock.mono() + LOSS_CHECK_S
            try:
                await self._backend.check_for_loss()
            except StoreError as error:
                self.store.failed(error)
                return
            data_losses = self._backend.data_losses
            if data_losses == self._data_losses:
                return
            self._table.repairing = True
            session_ids = [*self._table.sessions]
            async for session_id in in_slices(session_ids, IDS_A_SLICE):
                self._queue.not_stored(session_id, self._clock.mono())
            self._data_losses, self._table.repairing = data_losses, False
        log.error("the store was removed or replaced; %d sessions are written to it again", len(session_ids))
        self._metrics.count("store_repairs")
        self.store.publish("store.repaired")
        self._wake.set()

    # -- batches ------------------------------------------------------------------------------------------

    async def _write_batch(self) -> int:
        """Write one batch; returns its size, or 0 if the store failed."""
        self._commit()
        batch = self._queue.take(self._host_id, self._config.batch_sessions, self._config.batch_bytes)
        answered = False
        try:
            self._commit()  # journals what is in flight, so that a replay can tell it from another host's write
            await asyncio.sleep(0)  # encoding the batch and sending it take a turn of the loop each
            results = await self._backend.write([write for write, _ in batch])
            answered = True
        except StoreError as error:
            self.store.failed(error)
            return 0
        finally:
            if not answered:  # failed or cancelled: repeating writes that may have been applied is harmless
                for write, since in reversed(batch):
                    self._queue.retry(write, since)
                self._barrier.signal()
        self._commit()  # so that no rollback undoes what the results say
        other_state = self._apply_results(batch, results)
        self._commit()  # journals deletions that the store has written
        self.store.succeeded()
        reconciled = await self._reconcile(other_state)
        self._metrics.count("store_batches")
        self._metrics.count("store_writes", len(batch))
        self._barrier.signal()
        return len(batch) if reconciled else 0

    def _apply_results(
        self, batch: list[tuple[Write, float]], results: list[WriteResult]
    ) -> deque[tuple[Write, float, WriteResult]]:
        """Apply the results of a batch; returns those where the store has another state."""
        other_state: deque[tuple[Write, float, WriteResult]] = deque()
        for (write, since), result in zip(batch, results, strict=True):
            if result.outcome is WriteOutcome.WRITTEN:
                self._queue.acked(write)
                self._renewals.written(write)
            elif result.outcome is WriteOutcome.NOT_BASE:
                self._queue.write_whole(write, since)
            elif result.outcome is WriteOutcome.REJECTED:
                self._quarantine(write, result)
            else:
                other_state.append((write, since, result))
        return other_state

    async def _reconcile(self, other_state: deque[tuple[Write, float, WriteResult]]) -> bool:
        """Read what the store has, and decide which state counts; returns whether the store has answered."""
        try:
            while other_state:
                write, since, result = other_state[0]
                stored = await self._backend.read(write.session_id)
                self._commit()
                settled = self._reconciler.settle(write, stored)
                other_state.popleft()
                if settled:
                    self._commit()
                    self._queue.retry(write, since)
                else:
                    self._superseded(write, result, stored)
        except StoreError as error:
            self.store.failed(error)
            return False
        finally:
            while other_state:
                write, since, _ = other_state.pop()
                self._queue.retry(write, since)
        return True

    def _superseded(self, write: Write, result: WriteResult, stored: StoredSession | None) -> None:
        """The store's state counts: quarantine ours, and publish that once."""
        session = self._table.sessions.get(write.session_id)
        if not result.detail and stored is not None and stored.meta is not None:
            meta = stored.meta
            result.detail = superseded_by(Stamp(meta.host, meta.epoch, meta.version))
        if session is not None and not session.quarantined:
            self._events.note("fenced", self._clock.wall_us(), session, reason=SUPERSEDED)
        self._quarantine(write, WriteResult(WriteOutcome.SUPERSEDED, result.detail))
        self._commit()

    def _quarantine(self, write: Write, result: WriteResult) -> None:
        outcome, detail = result.outcome, result.detail
        session = self._table.sessions.get(write.session_id)
        already = session is not None and session.quarantined
        self._queue.quarantine(write, f"{outcome.value}: {detail}")
        self._metrics.count("store_refused")
        if already:  # logged before; every later turn of the call is refused again
            return
        log.error(
            "the store does not take session %s (%s%s); it stays here and in the journal",
            write.session_id, outcome.value, f": {detail}" if detail else "",
        )  # fmt: skip
