"""Write-behind: what is dirty goes to the store in batches, again and again until the store has it."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Literal

from callstate_client.engine.events import SUPERSEDED, Events
from callstate_client.engine.sessions.stored import (
    StoredSession,
    StoreError,
    StoreRefusingError,
    Write,
)
from callstate_client.engine.table.cache import Cache
from callstate_sidecar.background import BackgroundTask
from callstate_sidecar.config.schema import StoreConfig
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.reconcile import Reconciler
from callstate_sidecar.stores.backend import (
    Backend,
    Outcome,
    WriteResult,
)
from callstate_sidecar.stores.fencing import Stamp, superseded_by
from callstate_sidecar.system.clock import Clock

log = logging.getLogger(__name__)

BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MAX_S: Final = 5.0
"""A store that comes back is noticed within this; shorter would hammer one that is starting."""

RENEW_SHARE: Final = 0.25
"""A live session is written again when this share of its TTL is spent, changed or not."""

LOOK_EVERY_S: Final = 1.0
"""How often a store that is given nothing is looked at: one that is gone is noticed within this."""

BEATS_A_CALL: Final = 1000
"""Heartbeats given to the journal and the store at a time: about a millisecond of the loop."""

IDS_A_TURN: Final = 1000
"""Ids of a `flush` looked at in one turn of the loop: under a millisecond."""

RENEW_BATCH: Final = 200
"""Sessions marked for renewal in one round: a slice, so that 100,000 due at once don't hold the loop."""


class WriteBehind(BackgroundTask):
    """Copies the cache to the store.

    Args:
        events: told when the store goes and comes.
        barrier: puts the open group down first: nothing goes to the store that the journal has not taken.
        reconciler: says what becomes of a session that the store has in another state.
    """

    def __init__(
        self,
        cache: Cache,
        backend: Backend,
        clock: Clock,
        config: StoreConfig,
        metrics: Metrics,
        host_id: str,
        events: Events,
        barrier: Callable[[], None],
        reconciler: Reconciler,
    ) -> None:
        super().__init__(metrics)
        self._cache = cache
        self._backend = backend
        self._clock = clock
        self._config = config
        self._host_id = host_id
        self._events = events
        self._barrier = barrier
        self._reconciler = reconciler
        self._kick = asyncio.Event()
        self._progress = asyncio.Event()
        self._failures = 0
        self._next_beats = clock.mono() + config.beat_interval_s
        self._written_at: OrderedDict[str, float] = OrderedDict()
        self._losses = backend.data_losses
        self._looking = asyncio.Lock()
        self._next_look = clock.mono() + LOOK_EVERY_S
        self.state = "up"
        self.error = ""

    # -- running ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            delay = self._config.flush_interval_s
            if self._failures:
                delay = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(self._failures - 1, 10))
                delay *= random.uniform(0.5, 1.0)
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._kick.wait()
            self._kick.clear()
            try:
                await self._round()
            except Exception:
                # a fault of ours must not end the flushing of every other session
                log.exception("writing to the store failed")
                self._failures += 1

    async def _round(self) -> None:
        """Write what is dirty, oldest first, unless the store does not take it, then beats when they are due.

        What gets dirty meanwhile waits for the next round: there it has gathered more changes, and a busy host
        would never come to the beats.
        """
        self._renew()
        left = len(self._cache.dirty)
        while left > 0 and self._cache.dirty:
            written = await self._write_batch()
            if not written:
                return
            left -= written
        if self._clock.mono() >= self._next_beats:
            await self._write_beats()
        elif self._failures:
            await self._attempt(self._backend.ping())
        if self._clock.mono() >= self._next_look or self._backend.data_losses != self._losses:
            await self._look()

    async def _write_batch(self) -> int:
        """Write one batch; gives its size, or 0 where the store did not take it."""
        self._barrier()
        batch = self._cache.take_dirty(self._host_id, self._config.batch_sessions, self._config.batch_bytes)
        landed = False
        try:
            self._barrier()  # what is on its way is noted where it may have to be told from another's
            await asyncio.sleep(0)  # a turn of its own for what makes the batch, and one for what sends it
            results = await self._backend.write([write for write, _ in batch])
            landed = True
        except StoreError as error:
            self._failed(error)
            return 0
        finally:
            if not landed:  # cancelled too: nobody knows what arrived, and to write it again does no harm
                for write, since in reversed(batch):
                    self._cache.bounced(write, since)
                self._signal()
        self._barrier()  # what is learned of the store is no part of a change that may be undone
        doubtful: deque[tuple[Write, float, WriteResult]] = deque()
        for (write, since), result in zip(batch, results, strict=True):
            if result.outcome is Outcome.WRITTEN:
                self._landed(write)
            elif result.outcome is Outcome.REJECTED:
                self._refused(write, result)
            else:
                doubtful.append((write, since, result))
        self._barrier()  # deletions that arrived are told to the journal too
        self._up()
        reconciled = await self._reconcile(doubtful)
        self._metrics.count("store_batches")
        self._metrics.count("store_writes", len(batch))
        self._signal()
        return len(batch) if reconciled else 0

    def _landed(self, write: Write) -> None:
        self._cache.landed(write)
        if write.active:
            self._written_at[write.session_id] = self._clock.mono()
            self._written_at.move_to_end(write.session_id)
        else:
            self._written_at.pop(write.session_id, None)

    async def _reconcile(self, doubtful: deque[tuple[Write, float, WriteResult]]) -> bool:
        """Read what the store has in another state than is known here, and see which counts.

        Returns:
            whether the store has answered.
        """
        try:
            while doubtful:
                write, since, result = doubtful[0]
                stored = await self._backend.read(write.session_id)
                self._barrier()
                settled = self._reconciler.settle(write, stored)
                doubtful.popleft()
                if settled:
                    self._barrier()
                    self._cache.bounced(write, since)
                else:
                    self._superseded(write, result, stored)
        except StoreError as error:
            self._failed(error)
            return False
        finally:
            while doubtful:
                write, since, _ = doubtful.pop()
                self._cache.bounced(write, since)
        return True

    def _superseded(self, write: Write, result: WriteResult, stored: StoredSession | None) -> None:
        """What the store has counts: ours stays here, and whoever listens is told, once."""
        session = self._cache.sessions.get(write.session_id)
        if not result.detail and stored is not None and stored.meta is not None:
            meta = stored.meta
            result.detail = superseded_by(Stamp(meta.host, meta.epoch, meta.version))
        if session is not None and not session.quarantined:
            self._events.note("fenced", self._clock.wall_us(), session, reason=SUPERSEDED)
        self._refused(write, WriteResult(Outcome.SUPERSEDED, result.detail))
        self._barrier()

    def _refused(self, write: Write, result: WriteResult) -> None:
        outcome, detail = result.outcome, result.detail
        session = self._cache.sessions.get(write.session_id)
        known = session is not None and session.quarantined
        self._cache.refused(write, f"{outcome.value}: {detail}")
        self._metrics.count("store_refused")
        if known:  # said before, and each turn of the call is refused again
            return
        log.error(
            "the store does not take session %s (%s%s); it stays here and in the journal",
            write.session_id, outcome.value, f": {detail}" if detail else "",
        )  # fmt: skip

    async def _write_beats(self) -> None:
        """Beats of many sessions in each call; those a store that is away has missed go with the next round."""
        self._next_beats = self._clock.mono() + self._config.beat_interval_s
        for _ in range(-(-len(self._cache.beaten) // BEATS_A_CALL)):  # later ones go with the next round
            beats = self._cache.take_beats(BEATS_A_CALL)
            self._barrier()
            at_ms = {session_id: at_us // 1000 for session_id, at_us in beats.items()}
            if not await self._attempt(self._backend.write_beats(at_ms)):
                self._cache.beats_bounced(beats)
                return

    def _renew(self) -> None:
        """Mark what the store would forget while the call goes on."""
        due = self._clock.mono() - self._config.ttl_s * RENEW_SHARE
        for _ in range(RENEW_BATCH):
            if not self._written_at:
                return
            session_id = next(iter(self._written_at))
            if self._written_at[session_id] > due:
                return
            del self._written_at[session_id]
            session = self._cache.sessions.get(session_id)
            if session is not None and not session.ended:
                self._cache.mark_stale(session_id, self._clock.mono(), session.doc.size)

    # -- the store's state --------------------------------------------------------------------------------

    async def _attempt(self, work: object) -> bool:
        try:
            await work  # type: ignore[misc]
        except StoreError as error:
            self._failed(error)
            return False
        self._up()
        return True

    def _failed(self, error: Exception) -> None:
        state = "refusing" if isinstance(error, StoreRefusingError) else "down"
        if state != self.state:
            self._tell("store.down", str(error))
            log.warning("the store is %s: %s; serving goes on, %d dirty", state, error, len(self._cache.dirty))
        self.state, self.error = state, str(error)
        self._failures += 1
        self._metrics.count("store_failures")

    async def _look(self) -> None:
        """Where what the store had is gone, write everything hot again."""
        async with self._looking:
            self._next_look = self._clock.mono() + LOOK_EVERY_S
            try:
                await self._backend.check_for_loss()
            except StoreError as error:
                self._failed(error)
                return
            losses = self._backend.data_losses
            if losses == self._losses:
                return
            self._cache.repairing = True
            session_ids = [*self._cache.sessions]
            async for session_id in _in_slices(session_ids):
                self._cache.not_stored(session_id, self._clock.mono())
            self._losses, self._cache.repairing = losses, False
        log.error("the store was removed or replaced; %d sessions are written to it again", len(session_ids))
        self._metrics.count("store_repairs")
        self._tell("store.repaired")
        self._kick.set()

    def _up(self) -> None:
        if self.state != "up":
            self._tell("store.up")
            log.info("the store is up again, %d dirty", len(self._cache.dirty))
        self.state, self.error, self._failures = "up", "", 0

    def _tell(self, event: Literal["store.down", "store.up", "store.repaired"], error: str = "") -> None:
        self._events.note(event, self._clock.wall_us(), error=error)
        self._barrier()

    # -- the barrier --------------------------------------------------------------------------------------

    def _signal(self) -> None:
        self._progress.set()
        self._progress = asyncio.Event()

    async def flush(self, session_ids: list[str] | None, timeout_s: float | None) -> dict[str, int]:
        """Wait until the store has what is dirty now, the time is up, or it is known not to take the rest.

        Args:
            session_ids: only these; None for all.
            timeout_s: seconds; None waits as long as it takes.

        Returns:
            `flushed` and `unflushed`: how many sessions of those asked for the store has, and has not.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._look()
        cache, era = self._cache, self._cache.end_era()
        self._kick.set()
        total = self._count_unflushed(era) if session_ids is None else len(set(session_ids))
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                if session_ids is None:
                    await self._until(lambda: not cache.unwritten(era))
                else:
                    async for session_id in _in_slices(session_ids):
                        await self._until(partial(self._is_written, session_id, era))
        if session_ids is None:
            unflushed = self._count_unflushed(era)
        else:
            lacking = {i async for i in _in_slices(session_ids) if not self._has(i, era)}
            unflushed = len(lacking)
        return {"flushed": total - unflushed, "unflushed": unflushed}

    async def _until(self, done: Callable[[], bool]) -> None:
        """Wait, batch by batch, until this is so."""
        while not done():
            if not self._failures:  # else the store is tried again when it has had its rest
                self._kick.set()
            await self._progress.wait()

    def _is_written(self, session_id: str, era: int) -> bool:
        return not self._cache.is_unwritten(session_id, era)

    def _has(self, session_id: str, era: int) -> bool:
        """Whether the store has what was dirty of this session at the end of this era."""
        return session_id not in self._cache.quarantined and self._is_written(session_id, era)

    def _count_unflushed(self, era: int) -> int:
        """How many sessions the store does not have as they were at the end of this era, quarantined ones too."""
        cache = self._cache
        twice = sum(flight.era <= era and _mark_era(cache, i) <= era for i, flight in cache.flying.items())
        quarantined = sum(self._is_written(i, era) for i in cache.quarantined)
        return cache.unwritten(era) - twice + quarantined


def _mark_era(cache: Cache, session_id: str) -> float:
    mark = cache.dirty.get(session_id)
    return math.inf if mark is None else mark[2]


async def _in_slices(session_ids: Sequence[str]) -> AsyncIterator[str]:
    """Ids one by one, with a turn of the loop for others now and then."""
    for number, session_id in enumerate(session_ids):
        if number % IDS_A_TURN == IDS_A_TURN - 1:
            await asyncio.sleep(0)
        yield session_id
