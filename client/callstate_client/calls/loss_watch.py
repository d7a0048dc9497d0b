"""What happens to held calls and to the host, known at once: one subscription for each store that holds calls.

An event says that something may have happened to a call; what is so now, the store is asked. Events may be older
than the call that is held, whose id was used before, and don't say all that the error shall.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from callstate_client.calls.background import BackgroundTasks
from callstate_client.calls.handle import CallHandle
from callstate_client.errors import (
    CallstateError,
    FencedError,
    SessionEndedError,
    SessionNotFoundError,
)
from callstate_client.protocol.events import GAP, Event
from callstate_client.session_api import SessionApi
from callstate_client.store import Record

__all__ = ["LossWatch"]

_log = logging.getLogger("callstate")

DRAIN: Final = "server.drain"
OF_CALLS: Final = ("claimed", "fenced", "expired", "ended", "deleted")
"""After one of these a call may be nobody's or another's."""


class LossWatch:
    """Watches over the calls of a store, from the first one on until the store is closed.

    Args:
        store: whose.
        handles: its calls, by session id.
        background: runs the look-ups.
        told_draining: called with whether the host drains, each time that is heard of.
    """

    def __init__(
        self,
        store: SessionApi,
        handles: Mapping[str, CallHandle],
        background: BackgroundTasks,
        told_draining: Callable[[bool], None],
    ) -> None:
        self._store = store
        self._handles = handles
        self._background = background
        self._told_draining = told_draining
        self._task: asyncio.Task[None] | None = None
        self._too_old = False

    def start(self) -> None:
        """Watch from now on, if that has not begun."""
        if not self._too_old and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run(), name="callstate-watch")

    async def close(self) -> None:
        """Watch no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        try:
            async with self._store.events(*OF_CALLS, DRAIN) as events:
                await self._reconcile()  # what happened before the subscription
                while True:
                    await self._take(await anext(events))
        except StopAsyncIteration:
            pass
        except CallstateError as error:  # an older daemon, most likely: then heartbeats tell, as they did before
            self._too_old = True
            _log.info("no events for held calls: %s", error)

    async def _take(self, event: Event) -> None:
        if event.type == GAP:
            await self._reconcile()
        elif event.type == DRAIN:
            self._told_draining(bool(event.drain))
        elif event.session_id is not None:
            call = self._handles.get(event.session_id)
            ours = event.type == "claimed" and event.owner == self._store._claimant
            if call is not None and call.is_held and not ours:
                self._look_soon(call)

    async def _reconcile(self) -> None:
        for call in [*self._handles.values()]:
            if call.is_held:
                self._look_soon(call)
        try:
            self._told_draining(bool((await self._store.stats()).get("draining")))
        except CallstateError as error:
            _log.debug("whether the host drains is not known: %s", error)

    def _look_soon(self, call: CallHandle) -> None:
        # not here: a daemon that answers late shall not hold up what is told of other calls
        self._background.start(self._look(call), f"callstate-look-{call.id}")

    async def _look(self, call: CallHandle) -> None:
        try:
            record = await self._store.get(call.id, "none")
        except SessionNotFoundError as error:
            call.lose(error)
        except CallstateError as error:
            _log.debug("%s could not be looked at: %s", call.id, error)
        else:
            loss = self._loss(call, record)
            if loss is not None and call.is_held:
                call.lose(loss)

    def _loss(self, call: CallHandle, record: Record) -> CallstateError | None:
        """Why a call that is found like this is not ours any more; None while it is."""
        if record.owner not in (None, self._store._claimant):
            text = f"{call.id} was claimed by {record.owner}"
            return FencedError(text, epoch=record.epoch, owner=record.owner)
        if record.owner is None and call.epoch is not None and record.epoch != call.epoch:
            return FencedError(f"{call.id} was claimed by another worker since", epoch=record.epoch)
        if not record.state.is_active:
            reason = record.ended_reason
            return SessionEndedError(f"{call.id} has ended: {reason or 'no reason given'}", reason=reason)
        return None
