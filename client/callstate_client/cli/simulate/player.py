"""Plays one scripted call against a store, as a voice worker would, and keeps its ledger.

Media code does not wait for acknowledgements, so neither does this: what is said is queued at once, and
latencies are taken when the answers come.
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
from callstate_client.cli.simulate.scenario import (
    BEAT_INTERVAL_S,
    CallScript,
    Note,
    Say,
    SetStatus,
    Step,
)
from callstate_client.cli.simulate.tally import Latencies, Tally
from callstate_client.errors import CallstateError, ConflictError, SessionEndedError
from callstate_client.model.state import Role, SessionState, Status
from callstate_client.protocol.patches import Changes

T = TypeVar("T")

RETRY_INTERVAL_S: Final = 0.1


class WorkerDiedError(Exception):
    """Leaves a call the way a crash does: nothing ends it."""


@dataclass(slots=True)
class Stage:
    """What all calls of one simulation share.

    Args:
        store: where the calls are kept.
        labels: of every call.
        speed: call time is divided by this.
        patience_s: how long something is tried again while the daemon is away.
        on_change: called after each answer.
    """

    store: CallStore
    labels: dict[str, str]
    speed: float
    patience_s: float
    on_change: Callable[[Tally], None]
    tally: Tally = field(default_factory=Tally)
    latencies: Latencies = field(default_factory=Latencies)

    def answered(self, operation: str, started: float) -> None:
        """An answer came to what was asked at `started` (`time.perf_counter`)."""
        self.latencies.add(operation, time.perf_counter() - started)
        self.tally.requests += 1
        self.on_change(self.tally)

    async def patiently(self, operation: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Do something that may be repeated, again and again while the daemon is away.

        Raises:
            CallstateError: the attempt's, when trying again is of no use or patience has run out.
        """
        started = time.perf_counter()
        while True:
            try:
                result = await attempt()
            except CallstateError as error:
                if not error.retryable or time.perf_counter() - started > self.patience_s:
                    raise
                self.tally.retries += 1
                await asyncio.sleep(RETRY_INTERVAL_S)
            else:
                self.answered(operation, started)
                return result


class Player:
    """One call.

    Args:
        stage: what it shares with the other calls.
        script: what happens.
        ledger: where to note what was sent and acknowledged.
    """

    def __init__(self, stage: Stage, script: CallScript, ledger: Ledger) -> None:
        self._stage = stage
        self._script = script
        self._ledger = ledger
        self._pending: set[asyncio.Future[Any]] = set()
        self._beat_every_s = BEAT_INTERVAL_S / max(stage.speed, 1.0)
        self._next_beat = 0.0
        self._over = False

    async def play(self) -> None:
        """From ringing to hang-up (or the worker's death); returns when every answer is in.

        Raises:
            CallstateError: the call could not be created, or not be ended.
        """
        try:
            async with AsyncExitStack() as stack:
                call = await self._open(stack)
                self._next_beat = time.monotonic() + self._beat_every_s
                await self._pause(call, self._script.rings_s)
                self._update(call, status=Status.ACTIVE)
                for step in self._script.steps:
                    await self._step(call, step)
                if self._script.reason is None:
                    raise WorkerDiedError
                self._over = True
                started = time.perf_counter()
                await call.end(self._script.reason)
                self._stage.answered("end", started)
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
        labels = {**self._stage.labels, "errand": script.errand}
        tries = 0

        async def create() -> CallHandle:
            nonlocal tries
            tries += 1
            try:
                return await stack.enter_async_context(self._stage.store.hold(state, labels=labels, beat="manual"))
            except ConflictError:
                if tries == 1:
                    raise
                # an earlier try went through, only its answer was lost
                return await stack.enter_async_context(self._stage.store.hold(state.id, beat="manual"))

        return await self._stage.patiently("create", create)

    # -- steps -----------------------------------------------------------------------------------------------

    async def _step(self, call: CallHandle, step: Step) -> None:
        match step:
            case Say():
                await self._pause(call, step.pause_s)
                await self._say(call, step)
            case SetStatus():
                self._update(call, status=step.status)
                self._stage.tally.holds += step.status == Status.ON_HOLD
                self._stage.tally.transfers += step.status == Status.TRANSFERRING
                await self._pause(call, step.lasts_s)
            case Note():
                self._ledger.recovery_sent.append(step.recovery_data)
                self._update(call, recovery_data=step.recovery_data)

    async def _say(self, call: CallHandle, say: Say) -> None:
        """A caller's turn is known once it was spoken, an agent's when its speech begins."""
        if say.role == Role.USER:
            await self._pause(call, say.speech_s)
        number = self._ledger.sent_turn(say.role, say.text)
        self._stage.tally.turns_sent += 1
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
        """The caller spoke over the agent: count it, and cut the turn down to what was heard of it."""
        ledger = self._ledger
        self._stage.tally.barge_ins += 1
        ledger.interruptions_sent += 1
        self._send("interruption", call.record_interruption(), ledger.interruption_acknowledged)
        ledger.sent_amendment(number, heard)
        amended = call.amend_last_turn(content=heard, duration_ms=heard_ms, extra={"interrupted": True})
        self._send("amend_turn", amended, partial(ledger.amendment_acknowledged, number, heard))

    def _turn_acknowledged(self, number: int) -> None:
        self._ledger.turns[number].acknowledged = True
        self._stage.tally.turns_acknowledged += 1

    def _update(self, call: CallHandle, **changes: Unpack[Changes]) -> None:
        def acknowledged() -> None:
            if "recovery_data" in changes:
                self._ledger.recovery_is(changes["recovery_data"])

        self._send("update", call.update(**changes), acknowledged)

    # -- time and answers ------------------------------------------------------------------------------------

    async def _pause(self, call: CallHandle, call_s: float) -> None:
        """Let call time pass, with a beat now and then."""
        until = time.monotonic() + call_s / self._stage.speed
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, max(0.0, self._next_beat - time.monotonic())))
            if time.monotonic() >= self._next_beat:
                self._next_beat = time.monotonic() + self._beat_every_s
                self._send("heartbeat", call.beat(), self._beat_acknowledged)

    def _beat_acknowledged(self) -> None:
        self._stage.tally.beats += 1

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
            self._stage.answered(operation, started)
        elif operation == "heartbeat" and isinstance(error, CallstateError) and error.retryable:
            self._stage.tally.beats_missed += 1  # the next one will do
        elif operation == "heartbeat" and isinstance(error, SessionEndedError) and self._over:
            pass  # our own hang-up overtook it
        else:
            self._stage.tally.problem(
                f"{operation}: {type(error).__name__}", f"{self._ledger.session_id}: {operation}: {error}"
            )
