"""The calls that one store holds: adding and releasing them, and checking that no other store of the process does.

Invariants: a session is held by at most one handle of a store at a time, and, unless it is stolen or the other
loop stands still, by one store of the process: a second block would end the call while the first one still talks.
Handles are kept by weak references, so a handle that its user drops can be released; what it has queued keeps it
alive (`undelivered`) until that is delivered.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

from callstate_client.calls.background import BackgroundTasks
from callstate_client.calls.handle import CallHandle
from callstate_client.calls.heartbeats.schedule import Heartbeats
from callstate_client.calls.hold_rules import BeatMode
from callstate_client.calls.loss_watch import LossWatch
from callstate_client.calls.outbox.delivery import deliver_or_give_up, deliver_or_raise
from callstate_client.calls.outbox.outbox import Outbox
from callstate_client.errors import (
    CallstateError,
    ConflictError,
    FencedError,
    MethodNotFoundError,
    SessionEndedError,
    SessionNotFoundError,
    ShuttingDownError,
    StoreClosedError,
    UndeliveredError,
)
from callstate_client.requester import EventSource
from callstate_client.session_api import SessionApi
from callstate_client.store import Record

__all__ = ["HeldCalls"]

_of_process: WeakValueDictionary[int, HeldCalls] = WeakValueDictionary()
"""Of all stores of this process, in any thread. Without a lock: after a fork it could stay locked in the child
for ever."""


class HeldCalls:
    """The calls of one store.

    Args:
        store: sends the requests.
        heartbeats: sends their heartbeats in the background.
        on_drain: called with whether the host drains, whenever that becomes known.
    """

    def __init__(self, store: SessionApi, heartbeats: Heartbeats, on_drain: Callable[[bool], None]) -> None:
        self.store = store
        self.heartbeats = heartbeats
        self._on_drain = on_drain
        self.background = BackgroundTasks(store)
        self.undelivered: set[Outbox] = set()
        """Outboxes that are not empty, also of calls that were left."""
        self.handles: WeakValueDictionary[str, CallHandle] = WeakValueDictionary()
        self._entries: defaultdict[str, set[asyncio.Task[CallHandle]]] = defaultdict(set)
        self.watch = self._new_watch()
        self.leaving = False
        """Whether this worker accepts no more calls."""
        self.closing = False
        """Whether the store is being closed, after which nothing would release a call."""
        self.claims = 0
        """How many claims are in flight that name no session."""
        self.recoveries: set[EventSource] = set()
        """The subscriptions of `recover(watch=True)`; closed when the worker leaves."""
        _of_process[id(self)] = self

    def _new_watch(self) -> LossWatch:
        return LossWatch(self.store, self.handles, self.background, self._on_drain)

    # -- which calls are held -----------------------------------------------------------------------------

    @property
    def takes_more(self) -> bool:
        """Whether this worker accepts more calls."""
        return not (self.leaving or self.closing)

    def check_takes_more(self, session_id: str) -> None:
        """Check that this worker accepts more calls.

        Raises:
            StoreClosedError, ShuttingDownError: it does not.
        """
        if self.closing:
            raise StoreClosedError
        if self.leaving:
            raise ShuttingDownError(f"{session_id} is not accepted: this worker is shutting down")

    def holds(self, session_id: str) -> bool:
        """Whether a handle of this store holds the session."""
        held = self.handles.get(session_id)
        return held is not None and not (held.released or held.lost)

    async def was_claimed_since(self, session_id: str) -> bool:
        """Whether a session held here has been claimed by another worker, and the block has not noticed yet."""
        held = self.handles.get(session_id)
        return held is not None and (await self.store.get(session_id, "none")).epoch != held.epoch

    def check_unheld(self, session_id: str, *, steal: bool) -> None:
        """Check that this process does not hold the session. Another store of the same worker id whose loop is
        stalled does not count.

        Args:
            session_id: of the call.
            steal: it may be held by another store.

        Raises:
            ConflictError: it holds it.
        """
        others = [] if steal else [calls for calls in self._of_same_worker() if not calls.heartbeats.stalled]
        if any(calls.holds(session_id) for calls in (self, *others)):
            text = (
                f"{session_id} is already held by this process, by a block that has not been left;"
                " hold(state, resume=True) takes it over from a block of the same store"
            )
            raise ConflictError(text, owner=self.store._claimant)

    async def settle_before_claim(self, session_id: str, *, take_over: bool) -> None:
        """Wait until a block of this store that is being left has delivered what it has queued: its release, sent
        after a new claim, would release that one.

        Args:
            session_id: of the call.
            take_over: a block that still holds it loses it.

        Raises:
            UndeliveredError: not all was acknowledged within the store's `close_timeout_s`.
        """
        held = self.handles.get(session_id)
        if held is not None and take_over and self.holds(session_id):
            await held.hand_over()
        for outbox in [outbox for outbox in self.undelivered if outbox.session_id == session_id and outbox.closed]:
            await deliver_or_raise(outbox, self.store.close_timeout_s)
            if len(outbox):  # a release, which is no loss
                text = f"an earlier block has released {session_id}, and that is not acknowledged yet"
                raise UndeliveredError(text, going_on=True)

    def _of_same_worker(self) -> list[HeldCalls]:
        """The calls of this process's other stores that the daemon can't tell from this one."""
        mine = self.store._place, self.store.worker_id
        all_calls = [reference() for reference in _of_process.valuerefs()]
        return [
            calls
            for calls in all_calls
            if calls is not None and calls is not self and (calls.store._place, calls.store.worker_id) == mine
        ]

    def renewed(self, record: Record) -> bool:
        """Note a claim that named no session, and whether it was of one that a handle of this store holds: it had
        become an orphan, and goes on in its new epoch."""
        held = self.handles.get(record.state.id)
        if held is None or not self.holds(record.state.id):
            return False
        held.reclaimed(record.epoch)
        return True

    # -- holding and giving up ----------------------------------------------------------------------------

    def start_entry(self, session_id: str, entry: Coroutine[Any, Any, CallHandle]) -> asyncio.Task[CallHandle]:
        """Run what creates or claims a session, and adds it, as a task."""
        task = self.background.start(entry, f"callstate-hold-{session_id}")
        self._entries[session_id].add(task)
        task.add_done_callback(lambda _: self._entry_ended(session_id, task))
        return task

    def _entry_ended(self, session_id: str, task: asyncio.Task[CallHandle]) -> None:
        self._entries[session_id].discard(task)
        if not self._entries[session_id]:
            del self._entries[session_id]

    async def add(self, record: Record, *, beat: BeatMode = "auto", epoch: int | None) -> CallHandle:
        """Hold a session that this worker has just created or claimed; heartbeats start.

        Args:
            record: the session.
            beat: see `CallStore.hold`.
            epoch: the session's; None: it was created here, and its epoch is not known.

        Raises:
            ConflictError: another task of this store holds it by now.
            ShuttingDownError: the worker is leaving by now; the session is released.
        """
        if self.leaving and not self.closing:  # what is added while the store is being closed is released by that
            await self.give_up(record.state.id, epoch)
            self.check_takes_more(record.state.id)
        timeout_s = record.heartbeat_timeout_s
        if timeout_s is None:  # an older daemon does not say it for each session
            timeout_s = await self.store.default_heartbeat_timeout_s()
        held = self.handles.get(record.state.id)
        if held is not None and held.epoch == epoch:
            self.check_unheld(record.state.id, steal=True)
        elif held is not None and self.holds(held.id):
            held.lose(FencedError(f"{held.id} was claimed by another worker, and again by this one", epoch=epoch))
        handle = CallHandle(self, record, epoch)
        self.handles[handle.id] = handle
        self.watch.start()
        if self.store._telemetry is not None:
            self.store._telemetry.call_held()
        if beat == "auto":
            handle.start_heartbeats(timeout_s)
        return handle

    async def give_up(self, session_id: str, epoch: int | None) -> None:
        """Release a session, if it can still be released.

        Args:
            session_id: of the call.
            epoch: of the claim; None: it was created here, and its epoch is not known.
        """
        with suppress(SessionEndedError, SessionNotFoundError, FencedError, MethodNotFoundError):
            if epoch is None:
                epoch = (await self.store.get(session_id, "none")).epoch
            await self.store.release(session_id, epoch)

    async def give_up_if_ours(self, session_id: str) -> None:
        """Release a session that this worker owns and no handle holds: an unanswered entry may have got it.

        An entry of another block may be about to hold it, in the same epoch: that is waited for.
        """
        while True:
            record = await self.store.get(session_id, "none")
            if record.owner != self.store._claimant or self.holds(session_id):
                return
            if session_id not in self._entries:
                await self.give_up(session_id, record.epoch)
                return
            await asyncio.wait([*self._entries[session_id]])

    def take_no_more(self) -> None:
        """Accept no calls from now on. Runs of `recover()` end."""
        self.leaving = True
        for events in self.recoveries:
            events.close()

    # -- the end of the store -----------------------------------------------------------------------------

    async def deliver_all(self) -> UndeliveredError | None:
        """The store is being closed: release what is held, and deliver what is queued, within `close_timeout_s`.

        Returns:
            what was not acknowledged; logged for each call.
        """
        for handle in [*self.handles.values()]:
            handle.store_closes()
        return await deliver_or_give_up([*self.undelivered], self.store.close_timeout_s)

    async def close(self) -> None:
        """End heartbeats and the subscription for lost calls."""
        try:
            await self.watch.close()
        finally:
            await self.heartbeats.close()

    def abandon(self, error: CallstateError) -> None:
        """In a forked child: the calls and what they have queued belong to the parent.

        Args:
            error: why the handles are lost here.
        """
        for handle in [*self.handles.values()]:
            handle.abandon(error)
        self.handles = WeakValueDictionary()
        self.background.forget()
        self._entries.clear()
        self.watch = self._new_watch()
        for outbox in self.undelivered:  # also of calls that were left
            outbox.abandon()
        self.undelivered = set()
        self.claims = 0
        self.closing = False
