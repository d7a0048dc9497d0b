"""Plays one scripted call against a store, as a voice worker would, and keeps its ledger.

Like media code it does not wait for acknowledgements: what is said is queued at once, and latencies are measured
when the acknowledgements arrive.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar, Unpack

from callstate_client.api import CallStore
from callstate_client.calls.handle import CallHandle
from callstate_client.cli.simulate.ledger import TURN_NUMBER, Ledger
from callstate_client.cli.simulate.scenario import HEARTBEAT_INTERVAL_S, CallScript, Note, Say, SetStatus, Step
from callstate_client.cli.simulate.tally import Latencies, Tally
from callstate_client.errors import CallstateError, ConflictError, SessionEndedError
from callstate_client.model.state import Role, SessionState, Status
from callstate_client.requests.patches import Changes

T = TypeVar("T")

RETRY_INTERVAL_S: Final = 0.1


class WorkerDiedError(Exception):
    """Leaves a call without ending it, like a crash of its worker."""


@dataclass(slots=True)
class RunContext:
    """What the calls of one simulation share.

    Args:
        store: where the calls are kept.
        labels: of every call.
        speed: call time is divided by this.
        max_outage_s: how long something is retried while the daemon is unreachable, seconds.
        on_change: called with the counts after each answer.
    """

    store: CallStore
    labels: dict[str, str]
    speed: float
    max_outage_s: float
    on_change: Callable[[Tally], None]
    tally: Tally = field(default_factory=Tally)
    latencies: Latencies = field(default_factory=Latencies)

    def answered(self, operation: str, started: float) -> None:
        """Count an answer to a request that was sent at `started` (`time.perf_counter`)."""
        self.latencies.add(operation, time.perf_counter() - started)
        self.tally.requests += 1
        self.on_change(self.tally)

    async def retrying(self, operation: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Do something idempotent, retrying while the daemon is unreachable.

        Raises:
            CallstateError: the attempt's, if it can't be retried or the outage takes too long.
        """
        started = time.perf_counter()
        while True:
            try:
                result = await attempt()
            except CallstateError as error:
                if not error.retryable or time.perf_counter() - started > self.max_outage_s:
                    raise
                self.tally.retries += 1
                await asyncio.sleep(RETRY_INTERVAL_S)
            else:
                self.answered(operation, started)
                return result


class Player:
    """One call.

    Args:
        context: shared with the other calls.
        script: what happens.
        ledger: records what was sent and acknowledged.
    """

    def __init__(self, context: RunContext, script: CallScript, ledger: Ledger) -> None:
        self._context = context
        self._script = script
        self._ledger = ledger
        self._pending: set[asyncio.Future[Any]] = set()
        self._heartbeat_interval_s = HEARTBEAT_INTERVAL_S / max(context.speed, 1.0)
        self._next_heartbeat = 0.0
        self._over = False

    async def play(self) -> None:
        """Play the call from ringing to hang-up (or the worker's death); returns when every answer has arrived.

        Raises:
            CallstateError: the call could not be created or ended.
        """
        try:
            async with AsyncExitStack() as stack:
                call = await self._open(stack)
                self._next_heartbeat = time.monotonic() + self._heartbeat_interval_s
                await self._pause(call, self._script.rings_s)
                self._update(call, status=Status.ACTIVE)
                for step in self._script.steps:
                    await self._step(call, step)
                if self._script.reason is None:
                    raise WorkerDiedError
                self._over = True
                started = time.perf_counter()
                await call.end(self._script.reason)
                self._context.answered("end", started)
                self._ledger.ended_with = self._script.reason
        except WorkerDiedError:
            self._ledger.died = True
        if self._pending:
            await asyncio.wait(self._pending)

    async def _open(self, stack: AsyncExitStack) -> CallHandle:
        script, ledger = self._script, self._ledger
        state = SessionState(
            id=ledger.session_id,
            call_id=script.call_id,
            provider=script.provider,
            direction=script.direction,
            from_=script.from_,
            to=script.to,
        )
        labels = {**self._context.labels, "errand": script.errand}
        tries = 0

        async def create() -> CallHandle:
            nonlocal tries
            tries += 1
            try:
                return await stack.enter_async_context(
                    self._context.store.hold(state, labels=labels, beat="manual")
                )
            except ConflictError:
                if tries == 1:
                    raise
                # an earlier attempt succeeded, but its answer was lost
                return await stack.enter_async_context(self._context.store.hold(state.id, beat="manual"))

        return await self._context.retrying("create", create)

    # -- steps -----------------------------------------------------------------------------------------------

    async def _step(self, call: CallHandle, step: Step) -> None:
        match step:
            case Say():
                await self._pause(call, step.pause_s)
                await self._say(call, step)
            case SetStatus():
                self._update(call, status=step.status)
                self._context.tally.holds += step.status == Status.ON_HOLD
                self._context.tally.transfers += step.status == Status.TRANSFERRING
                await self._pause(call, step.lasts_s)
            case Note():
                self._ledger.recovery_sent.append(step.recovery_data)
                self._update(call, recovery_data=step.recovery_data)

    async def _say(self, call: CallHandle, say: Say) -> None:
        """A caller's turn is added once it was spoken, an agent's when its speech begins."""
        if say.role == Role.USER:
            await self._pause(call, say.speech_s)
        number = self._ledger.sent_turn(say.role, say.text)
        self._context.tally.turns_sent += 1
        turn = call.add_turn(
            say.role, say.text, duration_ms=round(say.speech_s * 1000), extra={TURN_NUMBER: number}
        )
        self._send("add_turn", turn, partial(self._turn_acknowledged, number))
        if say.heard is not None:
            await self._pause(call, say.heard_s)
            self._barge_in(call, number, say.heard, round(say.heard_s * 1000))
        elif say.role == Role.AGENT:
            await self._pause(call, say.speech_s)

    def _barge_in(self, call: CallHandle, number: int, heard: str, heard_ms: int) -> None:
        """The caller interrupts the agent: count it and cut the turn down to what was heard."""
        ledger = self._ledger
        self._context.tally.barge_ins += 1
        ledger.interruptions_sent += 1
        self._send("interruption", call.record_interruption(), ledger.interruption_acknowledged)
        ledger.sent_amendment(number, heard)
        amended = call.amend_last_turn(content=heard, duration_ms=heard_ms, extra={"interrupted": True})
        self._send("amend_turn", amended, partial(ledger.amendment_acknowledged, number, heard))

    def _turn_acknowledged(self, number: int) -> None:
        self._ledger.turns[number].acknowledged = True
        self._context.tally.turns_acknowledged += 1

    def _update(self, call: CallHandle, **changes: Unpack[Changes]) -> None:
        def acknowledged() -> None:
            if "recovery_data" in changes:
                self._ledger.recovery_data_acknowledged(changes["recovery_data"])

        self._send("update", call.update(**changes), acknowledged)

    # -- time and answers ------------------------------------------------------------------------------------

    async def _pause(self, call: CallHandle, call_s: float) -> None:
        """Let call time pass, sending heartbeats when they are due."""
        until = time.monotonic() + call_s / self._context.speed
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, max(0.0, self._next_heartbeat - time.monotonic())))
            if time.monotonic() >= self._next_heartbeat:
                self._next_heartbeat = time.monotonic() + self._heartbeat_interval_s
                self._send("heartbeat", call.beat(), self._heartbeat_acknowledged)

    def _heartbeat_acknowledged(self) -> None:
        self._context.tally.beats += 1

    def _send(self, operation: str, asked: Awaitable[Any], acknowledged: Callable[[], None]) -> None:
        future = asyncio.ensure_future(asked)
        self._pending.add(future)
        future.add_done_callback(partial(self._settled, operation, time.perf_counter(), acknowledged))

    def _settled(
        self,
        operation: str,
        started: float,
        acknowledged: Callable[[], None],
        future: asyncio.Future[Any],
    ) -> None:
        self._pending.discard(future)
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            acknowledged()
            self._context.answered(operation, started)
        elif operation == "heartbeat" and isinstance(error, CallstateError) and error.retryable:
            self._context.tally.beats_missed += 1  # the next one is soon enough
        elif operation == "heartbeat" and isinstance(error, SessionEndedError) and self._over:
            pass  # it arrived after our own hang-up
        else:
            self._context.tally.problem(
                f"{operation}: {type(error).__name__}", f"{self._ledger.session_id}: {operation}: {error}"
            )
