"""`store.recover()`: the calls of workers that died, claimed one by one, and passed to a handler or an iteration.

A cancellation does not undo a claim in flight: what that claim gets is released, as are calls that are held back
when the run ends. With `watch` a run sends claims only when events say that there may be a session to claim
(orphan_events.py). A call that comes back is held back for a while (retries.py).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Final

from callstate_client import protocol
from callstate_client.calls.handle import CallHandle
from callstate_client.calls.held import HeldCalls
from callstate_client.calls.hold_rules import ended_by
from callstate_client.calls.recovery.orphan_events import TYPES, OrphanEvents
from callstate_client.calls.recovery.retries import CONCURRENCY, MAX_ATTEMPTS, Retries
from callstate_client.errors import (
    CallstateError,
    ConflictError,
    SessionEndedError,
    SessionNotFoundError,
    ShuttingDownError,
    StoreClosedError,
)
from callstate_client.store import Record
from callstate_client.transport.backoff import RECOVER, Backoff

__all__ = ["CONCURRENCY", "MAX_ATTEMPTS", "Handler", "Recovery"]

_log = logging.getLogger("callstate")

Handler = Callable[[CallHandle], Awaitable[object]]
"""Continues a recovered call."""

JITTER_S: Final = 0.02
"""A recoverer waits up to this long, seconds, before it claims what an event announced. Meanwhile most of many
recoverers learn that another one has it, so a call costs a few claims instead of one by each."""


class Recovery:
    """One run of `recover()`.

    Args:
        held: the calls of the store; claimed ones are added to it.
        labels: only calls that have all of these.
        watch: continue for ever.
    """

    def __init__(self, held: HeldCalls, labels: Mapping[str, str] | None, *, watch: bool) -> None:
        self._held = held
        self._store = held.store
        self._labels = labels
        self._watch = watch
        self._retries: Retries[CallHandle] = Retries(watch=watch)

    # -- with a handler -------------------------------------------------------------------------------------

    async def run(
        self,
        handler: Handler,
        concurrency: int,
        max_attempts: int | None,
        end_on: tuple[type[BaseException], ...],
    ) -> None:
        """Run a handler for each call; see `CallStore.recover`."""
        if concurrency < 1:
            raise ValueError(f"concurrency must be 1 or more, not {concurrency!r}")
        slots = asyncio.Semaphore(concurrency)
        running: set[asyncio.Task[None]] = set()

        def done(task: asyncio.Task[None]) -> None:
            running.discard(task)
            slots.release()

        try:
            async with aclosing(self.calls()) as calls:
                while True:
                    await slots.acquire()  # before claiming: another worker may have a free one
                    call = await anext(calls, None)
                    if call is None:
                        break
                    call.end_on = end_on
                    task = asyncio.create_task(
                        self._handle(handler, call, max_attempts), name=f"callstate-recover-{call.id}"
                    )
                    running.add(task)
                    task.add_done_callback(done)
            if running:
                await asyncio.wait([*running])
        finally:
            while running:
                for task in running:
                    task.cancel()
                await asyncio.wait([*running])

    async def _handle(self, handler: Handler, call: CallHandle, max_attempts: int | None) -> None:
        try:
            async with call:
                try:
                    await handler(call)
                except Exception as error:
                    if ended_by(error, call.end_on) is None:
                        self._retries.abandon_if_hopeless(call, error, max_attempts)
                    raise
        except Exception as error:  # noqa: BLE001 - the other calls continue in any case
            if ended_by(error, call.end_on) is None:
                _log.exception("%s was recovered, and its handler failed", call.id)

    # -- one by one -----------------------------------------------------------------------------------------

    async def calls(self) -> AsyncGenerator[CallHandle, None]:
        """The calls, each held."""
        try:
            if not self._watch:
                async with aclosing(self._claimable(None)) as calls:
                    async for call in calls:
                        yield call
                return
            async with self._store.events(*TYPES) as events:
                self._held.recoveries.add(events)
                orphans = OrphanEvents(events, self._labels, self._retries)
                try:
                    async with aclosing(self._watched(orphans)) as calls:
                        async for call in calls:
                            yield call
                finally:
                    orphans.close()
                    self._held.recoveries.discard(events)
        finally:
            while self._retries:
                with suppress(CallstateError):
                    await self._retries.take().release()

    async def _watched(self, orphans: OrphanEvents) -> AsyncGenerator[CallHandle, None]:
        backoff = Backoff(RECOVER)
        while self._held.takes_more:
            try:
                while orphans and self._held.takes_more:  # else others have claimed all that events announced
                    async with aclosing(self._claimable(orphans)) as calls:
                        async for call in calls:
                            backoff.reset()
                            yield call
            except StoreClosedError:
                return
            except CallstateError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(backoff.pause_s())
                orphans.add_any()
                continue
            while not (orphans or self._retries.due_in_s() == 0):
                if not await orphans.wait(self._retries.due_in_s()):
                    return
            if orphans:
                await asyncio.sleep(random.uniform(0, JITTER_S))
                orphans.note_arrived()
            while self._retries.due_in_s() == 0:
                call = self._retries.take()
                if call.lost is None:
                    yield call

    async def _claimable(self, orphans: OrphanEvents | None) -> AsyncGenerator[CallHandle, None]:
        """The calls that can be claimed now, except those that are held back."""
        while self._held.takes_more:
            if orphans is not None:
                orphans.note_arrived()
                orphans.clear()
            record = await self._claim_next()
            if record is None:
                return
            if orphans is not None:
                orphans.add_any()
            try:
                call = await self._held.add(record, epoch=record.epoch)
            except ShuttingDownError:
                return
            if self._store._telemetry is not None:
                self._store._telemetry.call_recovered()
            if not self._retries.hold_back(call):
                yield call

    # -- claiming -------------------------------------------------------------------------------------------

    async def _claim_next(self) -> Record | None:
        """As the store's method, but never a call that this store holds; and one that a cancelled claim gets is
        released."""
        claiming = self._held.background.start(self._claim_new(), "callstate-claim")
        try:
            await asyncio.wait((claiming,))
        except BaseException:
            if not self._store.closed:  # else nothing can be released
                self._held.background.start(self._unclaim(claiming), "callstate-unclaim")
            raise
        if claiming.cancelled() and self._held.closing:  # it is not this task that was cancelled
            raise StoreClosedError
        return claiming.result()

    async def _claim_new(self) -> Record | None:
        """Claim until it is a call that this store does not hold. What one that it does hold has in flight may be
        fenced by its own claim, so its new epoch is noted before the claim counts as answered."""
        self._held.claims += 1
        try:
            while (record := await self._claim_any()) is not None and self._held.renewed(record):
                pass
            return record
        finally:
            self._held.claims -= 1

    async def _claim_any(self) -> Record | None:
        if not self._retries.has_abandoned:
            return await self._store.claim_next(self._labels)
        if protocol.LIST_STATE not in await self._store.features():
            return await self._claim_another()
        for state in ("orphan", "suspect"):  # claim_next might return what was abandoned
            async for found in self._store.sessions(state=state, labels=self._labels):
                if self._retries.is_abandoned(found.state.id):
                    continue
                with suppress(ConflictError, SessionEndedError, SessionNotFoundError):  # another worker was faster
                    return await self._store.claim(found.state.id)
        return None

    async def _claim_another(self) -> Record | None:
        """For an older daemon: an abandoned call that it returns is released at once."""
        record = await self._store.claim_next(self._labels)
        if record is not None and self._retries.is_abandoned(record.state.id):
            await self._store.release(record.state.id, record.epoch)
            return None
        return record

    async def _unclaim(self, claiming: asyncio.Task[Record | None]) -> None:
        await asyncio.wait((claiming,))
        if claiming.cancelled() or claiming.exception() is not None:
            return
        record = claiming.result()
        if record is not None:
            with suppress(CallstateError):
                await self._held.give_up_if_ours(record.state.id)
