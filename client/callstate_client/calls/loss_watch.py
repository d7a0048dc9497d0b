"""One event subscription per store, which reports at once that a held call is lost or that the host drains.

An event is only a hint: it may be older than the claim, since ids are reused, and lacks what the error has to say.
So the session is read, and the call is lost if it is no longer this worker's. Failure cases: after missed events
(`gap`) all calls are read; with a daemon that has no events, the next heartbeat or mutation reports the loss.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from callstate_client.calls.background import BackgroundTasks
from callstate_client.calls.handle import CallHandle
from callstate_client.errors import CallstateError, FencedError, SessionEndedError, SessionNotFoundError
from callstate_client.protocol.events import GAP, Event
from callstate_client.session_api import SessionApi
from callstate_client.store import Record

__all__ = ["LossWatch"]

_log = logging.getLogger("callstate")

DRAIN: Final = "server.drain"
OF_CALLS: Final = ("claimed", "fenced", "expired", "ended", "deleted")
"""Events after which a held call may be lost."""


class LossWatch:
    """The subscription of one store, from its first call on until it is closed.

    Args:
        store: the store.
        handles: its calls, by session id.
        background: runs the look-ups.
        on_drain: called with whether the host drains, whenever that becomes known.
    """

    def __init__(
        self,
        store: SessionApi,
        handles: Mapping[str, CallHandle],
        background: BackgroundTasks,
        on_drain: Callable[[bool], None],
    ) -> None:
        self._store = store
        self._handles = handles
        self._background = background
        self._on_drain = on_drain
        self._task: asyncio.Task[None] | None = None
        self._too_old = False

    def start(self) -> None:
        """Subscribe, unless subscribed already."""
        if not self._too_old and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run(), name="callstate-watch")

    async def close(self) -> None:
        """Unsubscribe."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        try:
            # what others do with their own calls would wake each worker of the host for each call that ends
            claimant = self._store._claimant or None
            async with self._store.events(*OF_CALLS, DRAIN, worker_id=claimant) as events:
                await self._reconcile()  # with what happened before the subscription
                while True:
                    await self._handle(await anext(events))
        except StopAsyncIteration:
            pass
        except CallstateError as error:  # most likely an older daemon
            self._too_old = True
            _log.info("can't receive events for held calls: %s", error)

    async def _handle(self, event: Event) -> None:
        if event.type == GAP:
            await self._reconcile()
        elif event.type == DRAIN:
            self._on_drain(bool(event.drain))
        elif event.session_id is not None:
            call = self._handles.get(event.session_id)
            ours = event.type == "claimed" and event.owner == self._store._claimant
            if call is not None and call.is_held and not ours:
                self._check_soon(call)

    async def _reconcile(self) -> None:
        for call in [*self._handles.values()]:
            if call.is_held:
                self._check_soon(call)
        try:
            self._on_drain(bool((await self._store.stats()).get("draining")))
        except CallstateError as error:
            _log.debug("can't tell whether the host is draining: %s", error)

    def _check_soon(self, call: CallHandle) -> None:
        # in a task: a late reply must not hold up the events of other calls
        self._background.start(self._check(call), f"callstate-check-{call.id}")

    async def _check(self, call: CallHandle) -> None:
        try:
            record = await self._store.get(call.id, "none")
        except SessionNotFoundError as error:
            call.lose(error)
        except CallstateError as error:
            _log.debug("%s could not be read: %s", call.id, error)
        else:
            loss = self._loss(call, record)
            if loss is not None and call.is_held:
                call.lose(loss)

    def _loss(self, call: CallHandle, record: Record) -> CallstateError | None:
        """Why a call whose session is in this state is lost; None if it is not."""
        if record.owner not in (None, self._store._claimant):
            text = f"{call.id} was claimed by {record.owner}"
            return FencedError(text, epoch=record.epoch, owner=record.owner)
        if record.owner is None and call.epoch is not None and record.epoch != call.epoch:
            return FencedError(f"{call.id} was claimed by another worker since", epoch=record.epoch)
        if not record.state.is_active:
            reason = record.ended_reason
            return SessionEndedError(f"{call.id} has ended: {reason or 'no reason given'}", reason=reason)
        return None
