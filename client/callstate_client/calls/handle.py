"""CallHandle: a call that a worker holds, and what the worker does with it.

A handle begins held, with heartbeats running. How it stops being held is in tenure.py, what its mutations do in
mutations.py, and how they are delivered in calls/outbox. This module joins them, and says how a call is left: what
is queued is delivered first, and heartbeats go on until it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, TypeVar, Unpack

from callstate_client.calls.background import BackgroundTasks
from callstate_client.calls.heartbeats.call_heartbeats import CallHeartbeats
from callstate_client.calls.heartbeats.schedule import Heartbeats
from callstate_client.calls.hold_rules import COMPLETED, reason_to_end
from callstate_client.calls.mutations import Mutations
from callstate_client.calls.outbox.delivery import deliver_or_raise
from callstate_client.calls.outbox.in_order import InOrder
from callstate_client.calls.outbox.outbox import Outbox
from callstate_client.calls.queued import AmendableTurn, QueuedMutation
from callstate_client.calls.task import CancelOnLost
from callstate_client.calls.tenure import Tenure
from callstate_client.calls.view import StateView
from callstate_client.errors import CallstateError, FencedError, StoreClosedError, UndeliveredError
from callstate_client.model.state import SessionState
from callstate_client.requests.patches import Beside, Changes
from callstate_client.session_api import SessionApi
from callstate_client.store import Record
from callstate_client.uncopied import Uncopied

__all__ = ["CallHandle"]

RecoveryT = TypeVar("RecoveryT")

_log = logging.getLogger("callstate")


class Holder(Protocol):
    """The part of HeldCalls (held.py) that a call uses."""

    store: SessionApi
    heartbeats: Heartbeats
    background: BackgroundTasks
    undelivered: set[Outbox]
    claims: int

    def holds(self, session_id: str) -> bool:
        """Whether a handle of the store holds the session."""
        ...

    async def give_up(self, session_id: str, epoch: int | None) -> None:
        """Release a session, if it can still be released."""
        ...


class CallHandle(Uncopied):
    """One call that is held. Its methods queue at once and return an awaitable, which ends when it is acknowledged.

    What is queued survives reconnects and restarts of the daemon, and is delivered in order, once. When too
    much is unacknowledged, methods raise OverloadedError at once.

    A handle from `recover()` is left by `async with call:`, with the rules of `hold()`.
    """

    instead = "copy its `state`; another process or task claims the call with hold(id)"

    def __init__(self, holder: Holder, record: Record, epoch: int | None = None) -> None:
        state = record.state
        self._holder = holder
        self._store = holder.store
        self._loop = asyncio.get_running_loop()
        self._state = state
        self._view = StateView(state)
        self.version = record.version
        """The session's version after the last acknowledged mutation."""
        self.labels: Mapping[str, str] = record.labels
        """Its labels as they were on entry, or as an acknowledged `update(labels=…)` has set them. Read-only."""
        self.end_on: tuple[type[BaseException], ...] = ()
        """Exceptions that mean, if they leave the block, that the call is over."""
        self.handovers = record.handovers
        """How often in a row the call was claimed and then held for less than a minute, by any worker."""
        self._tenure = Tenure()
        self._heartbeats = CallHeartbeats(holder.heartbeats, state.id, self.lose)
        self._outbox = Outbox(
            holder.store,
            holder.undelivered,
            state.id,
            epoch,
            on_version=self._set_version,
            on_lost=self.lose,
            on_empty=self._delivered,
            is_claiming=lambda: bool(holder.claims),
        )
        self._mutations = Mutations(state, self._outbox, holder.store, self._set_beside)

    def __repr__(self) -> str:
        return f"CallHandle({self.id!r}, status={self._state.status!r}, unacknowledged={self.unacknowledged})"

    def __del__(self) -> None:
        # its user has dropped it; this may run in any thread, as the garbage collector does
        if not (self.released or self.ended or self.lost):
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._release_dropped)

    def _release_dropped(self) -> None:
        self._holder.heartbeats.discard(self.id, None)
        if not (self._store.closed or self._holder.holds(self.id)):
            _log.warning("%s is released: its handle was dropped without being left or closed", self.id)
            self._queue_release()
            self._mark_released()

    # -- properties -----------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The session's id."""
        return self._state.id

    @property
    def state(self) -> SessionState:
        """The call as this worker sees it, including what is queued. Read-only: the methods of the call change it;
        setting a member raises an error that names the method to use."""
        return self._view

    @property
    def epoch(self) -> int | None:
        """The fencing token of this claim, until another worker claims the session.
        None: the session was created here, and its epoch is not known."""
        return self._outbox.epoch

    @property
    def ended(self) -> bool:
        """Whether `end()` was called, and not refused."""
        return self._tenure.ended

    @property
    def lost(self) -> CallstateError | None:
        """Why the session accepts no more heartbeats or mutations from this worker; None while it does."""
        return self._tenure.lost

    @property
    def released(self) -> bool:
        """Whether `release()` was called, or its block left."""
        return self._tenure.released

    @property
    def is_held(self) -> bool:
        """Whether this worker still has it: not lost, not released, and not ended by this worker."""
        return self._tenure.is_held

    @property
    def unacknowledged(self) -> int:
        """How many mutations are queued or in flight."""
        return len(self._outbox)

    @property
    def full(self) -> CallstateError | None:
        """Why the session accepts no more turns: it has reached `limits.session_bytes`. None while there is room.

        Turns that are too large for what is left are refused without being sent. What makes room (a turn amended
        to something shorter, an update) is accepted, and after that so are turns.
        """
        return self._outbox.full

    def recovery(self, as_type: type[RecoveryT]) -> RecoveryT | None:
        """The recovery data of the call, converted to this type; see `SessionState.recovery`."""
        return self._state.recovery(as_type)

    # -- losing it ------------------------------------------------------------------------------------------

    async def wait_lost(self) -> CallstateError:
        """Wait until the call is lost, and return why: claimed by another worker, ended by an operator or by its
        `max_duration_s`, reaped, deleted. The daemon reports it at once.

        Raises:
            StoreClosedError: it was left or released instead.
        """
        await self._tenure.wait_over()
        if self.lost is None:
            raise StoreClosedError(f"{self.id} is no longer held")
        return self.lost

    async def wait_not_held(self) -> None:
        """Wait until the call is lost or released."""
        await self._tenure.wait_over()

    def cancel_on_lost(self) -> CancelOnLost:
        """Cancel the current task as soon as the call is lost, as `hold(cancel_on_lost=True)` does."""
        return self._tenure.cancel_current_task()

    def lose(self, error: CallstateError) -> None:
        """Note that the session accepts nothing more from this worker."""
        self._heartbeats.stop()
        if not (self.ended or self.released) and self.lost is None:
            self._mark_lost(error)
            _log.warning("%s is lost: %s", self.id, error)

    def lose_released(self, error: CallstateError) -> None:
        """The call was released while its block runs: the block finds it lost, and `cancel_on_lost` cancels it."""
        if self.lost is None and not self.ended:
            self._mark_lost(error)

    def abandon(self, error: CallstateError) -> None:
        """In a forked child: the call and what is queued for it belong to the parent."""
        self._mark_lost(error)
        self._mark_released()
        self._outbox.abandon()

    def _mark_lost(self, error: CallstateError) -> None:
        self._report_left(error)
        self._tenure.lose(error)
        self._heartbeats.unwatch()

    def _report_left(self, error: CallstateError | None) -> None:
        if self._store._telemetry is not None and not (self.released or self.lost):
            self._store._telemetry.call_left(error)

    def _mark_released(self) -> None:
        self._report_left(None)
        self._tenure.release()
        self._heartbeats.unwatch()

    def reclaimed(self, epoch: int) -> None:
        """Note the epoch of a new claim: the session had become an orphan, and this worker has claimed it again."""
        self._outbox.epoch = epoch

    # -- heartbeats -----------------------------------------------------------------------------------------

    def start_heartbeats(self, timeout_s: float) -> None:
        """Send heartbeats in the background.

        Args:
            timeout_s: the call's heartbeat timeout, seconds.
        """
        self._heartbeats.start(timeout_s)

    def start_watchdog(self, watchdog_s: float) -> None:
        """Send heartbeats only while `alive()` is called often enough, as `hold(watchdog_s=…)` does.

        Args:
            watchdog_s: the longest time between two calls, seconds.
        """
        self._heartbeats.watch(watchdog_s, self._beat_soon)

    def alive(self) -> None:
        """Report that this call's task is alive, for `hold(watchdog_s=…)`. Without a watchdog it does nothing."""
        self._heartbeats.alive()

    async def beat(self) -> None:
        """Send a heartbeat: for `beat="manual"`.

        Raises:
            SessionNotFoundError, SessionEndedError: the call is over; see `lost`.
            FencedError: another worker holds it; see `lost`.
        """
        try:
            await self._store.update_heartbeat(self.id)
        except CallstateError as error:
            if not error.retryable:
                self.lose(error)
            raise

    def _beat_soon(self) -> None:
        self._holder.background.start(self._beat_quietly(), f"callstate-beat-{self.id}")

    async def _beat_quietly(self) -> None:
        with suppress(CallstateError):  # `lost` has it if the call is lost; else the next one is due soon
            await self.beat()

    # -- what happens in the call ---------------------------------------------------------------------------

    def add_turn(
        self,
        role: str,
        content: str,
        duration_ms: int = 0,
        *,
        at: datetime | None = None,
        extra: dict[str, Any] | None = None,
        response_ms: int | None = None,
    ) -> AmendableTurn:
        """Append a turn: something was said. Also accepted after `end()`, for late transcripts.

        Args:
            role: see `Role`.
            content: what was said.
            duration_ms: how long it took to say, milliseconds; any real number, rounded.
            at: when it was said; default now.
            extra: further members of the turn.
            response_ms: time from the end of what the user said to the first word of this turn, milliseconds; goes
                into `first_response_ms` and `average_response_ms` of the metrics.

        Returns:
            the turn. You can await it, change it with `amend()`, or ignore it.

        Raises:
            DocumentError: this can't be sent; nothing has changed.
            OverloadedError: too much is unacknowledged; same.
        """
        return self._mutations.add_turn(role, content, duration_ms, at, extra, response_ms)

    def amend_last_turn(
        self,
        *,
        content: str | None = None,
        duration_ms: int | None = None,
        extra: dict[str, Any] | None = None,
        role: str | None = None,
    ) -> QueuedMutation:
        """Change the last turn, or the last one of a role, for example to what was heard before a barge-in.

        Args:
            content: what was said; None leaves it.
            duration_ms: how long it took, milliseconds; None leaves it. Speech time is not counted again.
            extra: members to add or replace; None as a value removes one.
            role: the last turn of this role, whatever has been said since.

        Raises:
            ConflictError: there is no such turn.
            MethodNotFoundError: `role` was given, and the daemon is too old to know it.
        """
        return self._mutations.amend_last_turn(content, duration_ms, extra, role)

    def record_interruption(self) -> QueuedMutation:
        """Count an interruption: the caller spoke over the agent."""
        return self._mutations.record_interruption()

    def update(self, **changes: Unpack[Changes]) -> QueuedMutation:
        """Change members of the session, all but its history; see `CallStore.update`."""
        return self._mutations.update(changes)

    def end(self, reason: str = COMPLETED, detail: Any = None) -> QueuedMutation:
        """End the call. Leaving the block does not end it a second time.

        Args:
            reason: why, in a word of your choice, up to 64 bytes.
            detail: any JSON that explains the reason.
        """
        return self._mutations.end(reason, detail, self._set_ended)

    @property
    def _in_order(self) -> InOrder:
        """Sends what the store's own methods do with this call, after what is queued."""
        return InOrder(self._outbox, self, self._store)

    # -- what the outbox reports ----------------------------------------------------------------------------

    def _set_version(self, version: int) -> None:
        self.version = version

    def _set_ended(self, ended: bool) -> None:
        self._tenure.ended = ended

    def _set_beside(self, beside: Beside) -> None:
        if "labels" in beside:
            self.labels = beside["labels"]
        if "heartbeat_timeout_s" in beside and self.is_held:
            self._heartbeats.retime(beside["heartbeat_timeout_s"])

    def _delivered(self) -> None:
        """Heartbeats of a call that was left continue until everything that it has queued is delivered."""
        if self.released:
            self._heartbeats.stop()

    # -- leaving it -----------------------------------------------------------------------------------------

    async def release(self) -> None:
        """Release the call without ending it: deliver what is queued, then let another worker claim it at once.

        Raises:
            UndeliveredError: not all was acknowledged within the store's `close_timeout_s`. Delivery continues for
                as long as the store is open, and the call is released after it.
        """
        if not self.released:
            await self._deliver_and_release()

    def _queue_release(self) -> None:
        """Accept nothing more; release the session, unless it has ended, once all is delivered."""
        if not (self.ended or self.lost or self.released):
            self._outbox.put_action("session.release", lambda: self._holder.give_up(self.id, self.epoch))
        self._outbox.close()

    async def _deliver_and_release(self) -> None:
        self._queue_release()
        self._mark_released()
        if not len(self._outbox):
            self._delivered()
        await deliver_or_raise(self._outbox, self._store.close_timeout_s)

    async def hand_over(self) -> None:
        """A later block of this store takes the call over: deliver what is queued. This block finds it lost.

        Raises:
            UndeliveredError: not all was acknowledged within the store's `close_timeout_s`. Delivery continues, and
                the call is released after it.
        """
        self._outbox.close()
        self._mark_lost(FencedError(f"{self.id} was taken over by a later block of this worker", epoch=self.epoch))
        self._mark_released()
        _log.info("%s is taken over by a later block of this worker", self.id)
        try:
            await deliver_or_raise(self._outbox, self._store.close_timeout_s)
        except UndeliveredError:
            self._outbox.put_action("session.release", lambda: self._holder.give_up(self.id, self.epoch))
            raise
        finally:
            if not len(self._outbox):
                self._delivered()

    def store_closes(self) -> None:
        """The store is being closed while this call is held: release it. Its block gets StoreClosedError."""
        if not self.released:
            self._queue_release()
            self._mark_lost(StoreClosedError())

    async def __aenter__(self) -> CallHandle:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave(error)

    async def close(self, error: BaseException | None = None) -> None:
        """Leave a call from `open_call()` as a block is left: without an exception it ends with `completed`.

        Args:
            error: the exception, if any: one in `end_on` ends the call with its reason, any other releases it.

        Raises:
            CallstateError: why the end was not acknowledged.
        """
        if self.released:
            return
        acknowledged: QueuedMutation | None = None
        if not self.ended:
            reason = reason_to_end(error, self.end_on)
            if reason is None:
                await self.release()
                return
            acknowledged = self.end(reason)
        await self._deliver_and_release()
        if acknowledged is not None:
            await acknowledged

    async def leave(self, error: BaseException | None) -> None:
        """End or release the call, as its block is left; see hold_rules.py.

        Args:
            error: the exception that leaves the block and propagates afterwards; None for none.

        Raises:
            CallstateError: why the end was not acknowledged, unless there is an `error`.
            UndeliveredError: not all was acknowledged within the store's `close_timeout_s`; same.
            asyncio.CancelledError: a first cancellation, after the delivery; a second one, at once.
        """
        try:
            await self.close(error)
        except CallstateError as failure:
            if error is None:
                raise
            if not isinstance(failure, UndeliveredError):  # which was logged
                _log.warning("%s was not left cleanly: %s", self.id, failure)
