"""`store.recover()`: the calls of workers that are gone, claimed one by one, and those that come back held back."""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Final

from callstate_client import protocol
from callstate_client.calls.handle import CallHandle
from callstate_client.calls.held import HeldCalls
from callstate_client.calls.hold_rules import ended_by
from callstate_client.errors import (
    CallstateError,
    ConflictError,
    SessionEndedError,
    SessionNotFoundError,
    StoreClosedError,
)
from callstate_client.protocol.events import GAP, Event
from callstate_client.session_api import EventSource
from callstate_client.store import Record
from callstate_client.transport.backoff import RECOVER, Backoff, Delays

__all__ = ["CONCURRENCY", "MAX_ATTEMPTS", "Handler", "Recovery"]

_log = logging.getLogger("callstate")

Handler = Callable[[CallHandle], Awaitable[object]]
"""What goes on with a recovered call."""

CONCURRENCY: Final = 100
"""Handlers that run at once: a worker whose host has lost thousands of calls takes what it can serve."""

MAX_ATTEMPTS: Final = 5
"""Claims of one call in a row that came to nothing, after which it is left to others: with the pauses between them
a quarter of a minute, in which a dependency that was restarted is back, and longer than which nobody waits on the
line."""

HOLD_BACK: Final = Delays(1.0, 30.0)
"""How long a call that comes back is held before it is given again, seconds. Below a minute, so
that the daemon counts the claim among those in a row."""

SHORT_S: Final = 60.0
"""Who has held a call for so long, seconds, had it; the daemon counts likewise."""

REMEMBERED: Final = 10_000
"""Calls whose failures are remembered, the latest: as many as a worker may have given within the longest pause."""

JITTER_S: Final = 0.02
"""Up to so long a recoverer waits before it claims what it was told of, seconds: of many, most then hear first that
another has it, and a call costs a few claims instead of one by each."""

FORSAKEN: Final = ("suspect", "orphaned", "released")
"""Events after which somebody may claim a call."""

ANY: Final = ""
"""In place of an id: some calls may be to be claimed, nobody knows which."""

OVER: Final = ("ended", "expired", "deleted")
"""Events after which nobody can."""

TAKEN: Final = ("claimed", "recovered", *OVER)
"""Events after which nobody need."""


class Recovery:
    """One run of `recover()`.

    Args:
        held: the calls of the store, among which those come that are claimed.
        labels: only calls that have all of these.
        watch: go on for ever.
    """

    def __init__(self, held: HeldCalls, labels: Mapping[str, str] | None, *, watch: bool) -> None:
        self._held = held
        self._store = held.store
        self._labels = labels
        self._watch = watch
        self._given: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._given_up: OrderedDict[str, None] = OrderedDict()
        self._held_back: list[tuple[float, int, CallHandle]] = []
        self._order = 0
        self._forsaken: set[str] = set()
        self._news: asyncio.Task[Event] | None = None

    # -- with a handler -------------------------------------------------------------------------------------

    async def run(
        self,
        handler: Handler,
        concurrency: int,
        max_attempts: int | None,
        end_on: tuple[type[BaseException], ...],
    ) -> None:
        """Run a handler for each call, so many at once."""
        if concurrency < 1:
            raise ValueError(f"concurrency is 1 or more, not {concurrency!r}")
        slots = asyncio.Semaphore(concurrency)
        running: set[asyncio.Task[None]] = set()

        def done(task: asyncio.Task[None]) -> None:
            running.discard(task)
            slots.release()

        try:
            async with aclosing(self.calls()) as calls:
                while True:
                    await slots.acquire()  # before claiming: another worker may have one free
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
                        self._give_up_if_hopeless(call, error, max_attempts)
                    raise
        except Exception as error:  # noqa: BLE001 - of whatever kind: the others go on
            if ended_by(error, call.end_on) is None:
                _log.exception("%s was recovered, and its handler failed", call.id)

    def _give_up_if_hopeless(self, call: CallHandle, error: Exception, max_attempts: int | None) -> None:
        attempts = max(call.handovers + 1, self._given[call.id][0] if call.id in self._given else 1)
        if max_attempts is not None and attempts >= max_attempts and not (call.lost or call.ended):
            self._given_up[call.id] = None
            if len(self._given_up) > REMEMBERED:
                self._given_up.popitem(last=False)
            _log.error(
                "%s is left to other workers: %d attempts in a row failed, with %r", call.id, attempts, error
            )

    # -- one by one -----------------------------------------------------------------------------------------

    async def calls(self) -> AsyncGenerator[CallHandle, None]:
        """The calls, each held."""
        try:
            if not self._watch:
                async with aclosing(self._forsaken_calls()) as calls:
                    async for call in calls:
                        yield call
                return
            async with self._store.events(*FORSAKEN, *TAKEN) as events, aclosing(self._watched(events)) as calls:
                self._held.recoveries.add(events)
                try:
                    async for call in calls:
                        yield call
                finally:
                    self._held.recoveries.discard(events)
        finally:
            await self._give_back()

    async def _watched(self, events: EventSource) -> AsyncGenerator[CallHandle, None]:
        backoff = Backoff(RECOVER)
        self._forsaken.add(ANY)
        while not self._held.leaving:
            try:
                while self._forsaken:  # else all that was told has been taken by others
                    async with aclosing(self._forsaken_calls(events)) as calls:
                        async for call in calls:
                            backoff.reset()
                            yield call
            except StoreClosedError:
                return
            except CallstateError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(backoff.pause_s())
                self._forsaken.add(ANY)
                continue
            while not (self._forsaken or self._is_due()):
                if not await self._wait(events):
                    return
            if self._forsaken:
                await asyncio.sleep(random.uniform(0, JITTER_S))
                self._take_news(events)
            while self._is_due():
                call = heapq.heappop(self._held_back)[2]
                if call.lost is None:
                    yield call

    async def _forsaken_calls(self, events: EventSource | None = None) -> AsyncGenerator[CallHandle, None]:
        """Those that are to be had at this moment."""
        while not self._held.leaving:
            if events is not None:
                self._take_news(events)
            self._forsaken.clear()  # the next claim finds them, or nobody need
            record = await self._claim_next()
            if record is None:
                return
            self._forsaken.add(ANY)
            held = self._held.handles.get(record.state.id)
            if held is not None and self._held.holds(record.state.id):
                held.reclaimed(record.epoch)
                continue
            call = await self._held.add(record, epoch=record.epoch)
            if not self._hold_back(call):
                yield call

    async def _claim_next(self) -> Record | None:
        """As the store's, but a claim that nobody waits for any more is given back."""
        claiming = self._held.background.start(self._claim_any(), "callstate-claim")
        try:
            await asyncio.wait((claiming,))
        except BaseException:
            self._held.background.start(self._unclaim(claiming), "callstate-unclaim")
            raise
        return claiming.result()

    async def _claim_any(self) -> Record | None:
        if not self._given_up:
            return await self._store.claim_next(self._labels)
        if protocol.LIST_STATE not in await self._store.features():
            return await self._claim_another()
        for state in ("orphan", "suspect"):  # claim_next would give what was given up
            async for found in self._store.sessions(state=state, labels=self._labels):
                if found.state.id in self._given_up:
                    continue
                with suppress(ConflictError, SessionEndedError, SessionNotFoundError):  # others were quicker
                    return await self._store.claim(found.state.id)
        return None

    async def _claim_another(self) -> Record | None:
        """For a daemon of an earlier version: what was given up, and is given again, goes back at once."""
        record = await self._store.claim_next(self._labels)
        if record is not None and record.state.id in self._given_up:
            await self._store.release(record.state.id, record.epoch)
            return None
        return record

    async def _unclaim(self, claiming: asyncio.Task[Record | None]) -> None:
        await asyncio.wait((claiming,))
        if claiming.cancelled() or claiming.exception() is not None:
            return
        record = claiming.result()
        if record is not None and not self._held.holds(record.state.id):
            with suppress(CallstateError):
                await self._held.give_up(record.state.id, record.epoch)

    # -- what comes back --------------------------------------------------------------------------------------

    def _hold_back(self, call: CallHandle) -> bool:
        """Keep a call that was here, or at other workers, a moment ago, for as long as it is to wait."""
        now = asyncio.get_running_loop().time()
        before, at = self._given.pop(call.id, (0, now))
        if self._watch and now - at > SHORT_S:
            before = 0
        failures = max(before, call.handovers - 1)  # once is no failure: its worker may have been restarted
        held_back = failures > 0 if self._watch else before > 0
        pause_s = HOLD_BACK.after_s(failures) if held_back else 0.0
        self._given[call.id] = (before + 1, now + pause_s)
        if len(self._given) > REMEMBERED:
            self._given.popitem(last=False)
        if held_back:
            self._order += 1
            heapq.heappush(self._held_back, (now + pause_s, self._order, call))
        return held_back

    def _is_due(self) -> bool:
        return bool(self._held_back) and self._held_back[0][0] <= asyncio.get_running_loop().time()

    async def _give_back(self) -> None:
        """Release what was held back, for other workers."""
        if self._news is not None and not self._news.cancel() and not self._news.cancelled():
            self._news.exception()  # seen
        while self._held_back:
            call = self._held_back.pop()[2]
            with suppress(CallstateError):
                await call.release()

    # -- what is told -----------------------------------------------------------------------------------------

    async def _wait(self, events: EventSource) -> bool:
        """Until something is told, or what is held back is due. False: nothing will be told any more."""
        if self._news is None:
            self._news = asyncio.ensure_future(anext(events))
        timeout_s = None
        if self._held_back:
            timeout_s = max(0.0, self._held_back[0][0] - asyncio.get_running_loop().time())
        done, _ = await asyncio.wait((self._news,), timeout=timeout_s)
        if not done:
            return True
        news, self._news = self._news, None
        try:
            self._note(news.result())
        except StopAsyncIteration:
            return False
        return True

    def _take_news(self, events: EventSource) -> None:
        """Note what has been told already."""
        if self._news is not None and self._news.done() and self._news.exception() is None:
            self._note(self._news.result())
            self._news = None
        if self._news is None:
            while (event := events.take()) is not None:
                self._note(event)

    def _note(self, event: Event) -> None:
        if event.type == GAP:
            self._forsaken.add(ANY)
        elif event.session_id is None:
            return
        elif event.session_id in self._given_up:
            if event.type in OVER:
                del self._given_up[event.session_id]
        elif event.type in TAKEN:
            self._forsaken.discard(event.session_id)
        elif (self._labels or {}).items() <= event.labels.items():
            self._forsaken.add(event.session_id)
