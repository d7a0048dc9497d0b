"""Batches of dirty sessions, one after the other, and the search for the culprit when one is not answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from callstate_client.engine.flush_batch import FlushBatch
from callstate_client.engine.flush_queue import FlushQueue
from callstate_client.engine.sessions.stored import (
    StoreBrokenError,
    StoreBugError,
    StoreDownError,
    StoreError,
    StorePartDownError,
    StoreRefusingError,
    StoreTimeoutError,
)
from callstate_client.engine.sessions.writes import Write
from callstate_sidecar.config.schema import StoreConfig
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.slices import Slices
from callstate_sidecar.stores.backend import Backend, WriteResult
from callstate_sidecar.system.clock import SystemClock
from callstate_sidecar.write_behind.away_writes import AwayWrites
from callstate_sidecar.write_behind.batch_limit import BatchLimit
from callstate_sidecar.write_behind.flush import FlushBarrier
from callstate_sidecar.write_behind.outcomes import Outcomes
from callstate_sidecar.write_behind.store_state import StoreState

log = EventLog(__name__)

MAX_CULPRITS: Final = 2
"""Sessions put into quarantine because the store did not answer them, while it answered for no other. If there are
more, it is the store's fault."""


class Batches:
    """Writes one batch at a time.

    Args:
        store: is told what came of each.
        barrier: is told that there may be progress.
        outcomes: applies the results.
        commit: commits the open group.
    """

    def __init__(
        self,
        queue: FlushQueue,
        backend: Backend,
        clock: SystemClock,
        config: StoreConfig,
        metrics: Metrics,
        host_id: str,
        store: StoreState,
        barrier: FlushBarrier,
        outcomes: Outcomes,
        commit: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._backend = backend
        self._clock = clock
        self._config = config
        self._metrics = metrics
        self._host_id = host_id
        self._store = store
        self._barrier = barrier
        self._outcomes = outcomes
        self._commit = commit
        self._limit = BatchLimit(config.batch_sessions)
        self._away = AwayWrites(queue, clock)
        self.retry_away = self._away.retry_due
        self._breaks = 0
        """Connections broken by batches one after the other."""
        self._chances = 1
        """So many of these may be chance: two if the batch was repeated at once, as a bad line breaks that too."""
        self._culprits: set[str] = set()
        """Sessions that the store did not answer, each sent alone, since it last took any."""

    async def write(self) -> int | None:
        """Write one batch.

        Returns:
            how many sessions were answered for; 0: none, and there may be others; None: the store failed, or the
            journal does not note what would be sent.
        """
        taken = FlushBatch()
        batch = taken.writes
        try:
            noted = await self._take(taken)
            if not batch:  # all that is dirty waits in quarantine, or for the journal
                self._barrier.signal()
                return len(taken.unwritable) if noted else None
            results = await self._send(batch)
        except StoreError as error:
            return await self._not_answered(batch, error)
        except BaseException:
            self._put_back(batch)
            raise
        other_state = await self._outcomes.apply(batch, results, self._away)
        if self._limit.is_searching:
            self._limit.clear(write.session_id for write, _ in batch)
        self._breaks, self._chances = 0, 1
        self._culprits.clear()
        self._store.succeeded()
        self._metrics.count("store_batches")
        self._metrics.count("store_writes", len(batch))
        try:
            await self._outcomes.reconcile(other_state)
        except StorePartDownError:
            pass  # those left are dirty again
        except StoreError as error:
            self._store.failed(error)
            return None
        finally:
            self._barrier.signal()
        return len(batch) + len(taken.unwritable)

    async def _send(self, batch: list[tuple[Write, float]]) -> list[WriteResult]:
        try:
            return await self._backend.write([write for write, _ in batch])
        except StoreError:
            raise
        except Exception as bug:
            if not self._is_suspected(batch[0][0].session_id):
                log.exception("store_write_failed", "writing to the store failed")
            raise StoreBugError(f"{type(bug).__name__}, a bug in callstated") from bug

    async def _take(self, batch: FlushBatch) -> bool:
        """Put a batch in flight, in slices; a state that changes in between is taken as it is at its turn.

        Returns:
            whether the journal has taken note of it all; what it has not is dirty again.
        """
        slices = Slices()
        most, most_bytes, now = self._limit.sessions, self._config.batch_bytes, self._clock.mono()
        await slices.pause()  # encoding each batch, and sending it, take turns of the loop of their own
        while True:
            self._commit()
            known = len(batch.unwritable)
            taken = self._queue.take(self._host_id, most, most_bytes, now, batch, lambda: slices.is_over)
            for session_id, error in batch.unwritable[known:]:
                self._away.resent(session_id)
                self._outcomes.unwritable(session_id, error)
            if not taken:
                return True
            if len(self._away):
                for write, _ in taken:
                    self._away.resent(write.session_id)
            self._commit()  # journals what is in flight, so that a replay can tell it from another host's write
            noted = self._queue.withhold(taken)
            if len(noted) < len(taken):
                batch.writes[-len(taken) :] = noted
                return False
            is_all = not slices.is_over  # then the batch is full, or nothing else is dirty
            await slices.pause()
            if is_all:
                return True

    def _put_back(self, batch: list[tuple[Write, float]]) -> None:
        """Nobody knows what the store has taken of this: repeating it is harmless."""
        for write, since in reversed(batch):
            self._queue.retry(write, since)
        self._barrier.signal()

    async def _not_answered(self, batch: list[tuple[Write, float]], error: StoreError) -> int | None:
        """A batch failed: find out whether because of the store or of a session. Returns as `write`."""
        is_up, may_be_chance = False, self._may_be_chance(error)
        if may_be_chance:  # an idle connection may have ended unnoticed: then the batch is sent again at once
            is_asked = self._breaks == 1 and isinstance(error, StoreBrokenError)
        else:
            is_asked = isinstance(error, StoreDownError | StoreBugError)
        try:
            is_up = is_asked and await self._answers()
        finally:
            guilty = is_up and not may_be_chance
            session_ids = [write.session_id for write, _ in batch]
            known = self._culprits.union(session_ids)
            suspected = len(batch) == 1 and self._is_suspected(session_ids[0])
            is_culprit = guilty and suspected and len(known) <= MAX_CULPRITS
            if guilty:
                batch.sort(key=lambda sent: sent[0].size)  # the larger, the more suspicious
            if not is_culprit:
                self._put_back(batch)
        if not is_up:
            self._store.failed(error)
            return None
        if may_be_chance:
            self._chances = 2
            return 0
        if is_culprit:
            self._culprits = known
            self._outcomes.unanswered(batch[0][0], error)
            self._limit.clear(session_ids)
            self._barrier.signal()
            return 1
        if suspected:  # one after the other: try another one after the backoff
            self._queue.postpone(session_ids[0])
            self._store.failed(StoreRefusingError(f"it answers PING, but no write: {error}"))
            return None
        self._limit.halve(session_ids)
        self._metrics.count("store_batches_halved")
        return 0

    def _is_suspected(self, session_id: str) -> bool:
        """Whether it was not answered before. Once may be a stall of the store that was over by the ping."""
        return session_id in self._limit.suspects or session_id in self._queue.table.quarantined

    def _may_be_chance(self, error: StoreError) -> bool:
        """Whether a connection broke for which no session is to blame, as far as is known."""
        if not isinstance(error, StoreDownError) or isinstance(error, StoreTimeoutError):
            return False
        self._breaks += 1
        return self._breaks <= self._chances and not self._limit.is_searching

    async def _answers(self) -> bool:
        """Whether the store answers, although a batch was not answered."""
        try:
            await self._backend.ping()
        except StoreError:
            return False
        return True
