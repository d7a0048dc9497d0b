"""Heartbeats from a task of the worker's own event loop: for a MemoryStore, which has no daemon."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from callstate_client.calls.heartbeats.schedule import LostCallback, Schedule, ScheduledCall
from callstate_client.errors import CallstateError
from callstate_client.transport.backoff import HEARTBEAT

_log = logging.getLogger("callstate")


class HeartbeatTask:
    """See `Heartbeats`.

    Args:
        send: sends one heartbeat; returns the call's timeout, seconds, if it has changed.
    """

    def __init__(self, send: Callable[[str], Awaitable[float | None]]) -> None:
        self._send = send
        self._schedule = Schedule()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, session_id: str, timeout_s: float, lost: LostCallback) -> None:
        """See `Heartbeats.add`."""
        loop = asyncio.get_running_loop()
        self._schedule.add(session_id, timeout_s, loop.time(), lost)
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run(), name="callstate-heartbeats")

    def discard(self, session_id: str, lost: LostCallback | None) -> None:
        """See `Heartbeats.discard`."""
        self._schedule.discard(session_id, lost)

    @property
    def stalled(self) -> bool:
        """Never: a blocked loop does not run this task either."""
        return False

    async def close(self) -> None:
        """Send no more."""
        self._schedule.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while (next_due := self._schedule.next_due) is not None:
            self._changed.clear()
            delay_s = next_due - loop.time()
            if delay_s > 0:
                try:
                    async with asyncio.timeout(delay_s):
                        await self._changed.wait()
                except TimeoutError:
                    pass
                else:
                    continue  # a new call may be due sooner
            due = self._schedule.take_due(loop.time())
            await asyncio.gather(*(self._send_one(session_id, call) for session_id, call in due.items()))

    async def _send_one(self, session_id: str, call: ScheduledCall) -> None:
        loop = asyncio.get_running_loop()
        try:
            timeout_s = await self._send(session_id)
            if timeout_s is not None:
                call.retime(timeout_s, loop.time())
        except CallstateError as error:
            if error.retryable:
                _log.warning("could not send a heartbeat for %s: %s", session_id, error)
                call.retry(HEARTBEAT.longest_s, loop.time())
            elif self._schedule.drop(session_id, call):
                call.lose(error)
