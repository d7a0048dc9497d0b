"""Heartbeats in the background for all calls a store holds, from a task of the worker's loop: a MemoryStore's.

A daemon's are sent by a thread (heartbeat_process.py); whoever adds a call need not know.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from callstate_client.calls.heartbeat_schedule import (
    EARLY,
    Beat,
    LostCallback,
)
from callstate_client.errors import CallstateError
from callstate_client.transport.backoff import HEARTBEAT

_log = logging.getLogger("callstate")


class Beats(Protocol):
    """What beats for the calls of a store, in the background."""

    def add(self, session_id: str, timeout_s: float, lost: LostCallback) -> None:
        """Beat for this call from now on."""
        ...

    def discard(self, session_id: str, lost: LostCallback | None) -> None:
        """Beat no more for this call, unless somebody else has added it since: it may be held anew."""
        ...

    @property
    def stalled(self) -> bool:
        """Whether no beats are sent because the loop stands still. From any thread."""
        ...

    async def close(self) -> None:
        """Beat no more for any."""
        ...


class Beater:
    """Beats for the calls added to it, until they are discarded or lost.

    Args:
        beat: sends one heartbeat, and gives the call's timeout, seconds, where it has changed.
    """

    def __init__(self, beat: Callable[[str], Awaitable[float | None]]) -> None:
        self._beat = beat
        self._beats: dict[str, Beat] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, session_id: str, timeout_s: float, lost: LostCallback) -> None:
        """Beat for this call from now on.

        Args:
            session_id: of the call.
            timeout_s: the call's heartbeat timeout, seconds.
            lost: called once when the call takes no more beats; it is discarded then.
        """
        loop = asyncio.get_running_loop()
        self._beats[session_id] = Beat(timeout_s, loop.time(), lost)
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run(), name="callstate-beats")

    def discard(self, session_id: str, lost: LostCallback | None) -> None:
        """Beat no more for this call, as far as it was added with this callback; None: with one that is gone."""
        beat = self._beats.get(session_id)
        if beat is not None and beat.is_of(lost):
            del self._beats[session_id]

    @property
    def stalled(self) -> bool:
        """Never known: what beats is of the same loop."""
        return False

    async def close(self) -> None:
        """Beat no more for any."""
        self._beats.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._beats:
            self._changed.clear()
            delay_s = min(beat.due for beat in self._beats.values()) - loop.time()
            if delay_s > 0:
                try:
                    async with asyncio.timeout(delay_s):
                        await self._changed.wait()
                except TimeoutError:
                    pass
                else:
                    continue  # a new call may be due sooner
            now = loop.time()
            due = [sid for sid, beat in self._beats.items() if beat.due - beat.interval_s * EARLY <= now]
            await asyncio.gather(*(self._send(session_id) for session_id in due))

    async def _send(self, session_id: str) -> None:
        beat = self._beats[session_id]
        loop = asyncio.get_running_loop()
        beat.due = loop.time() + beat.interval_s
        try:
            timeout_s = await self._beat(session_id)
            if timeout_s is not None:
                beat.retime(timeout_s, loop.time())
        except CallstateError as error:
            if error.retryable:
                _log.warning("no heartbeat of %s: %s", session_id, error)
                beat.due = loop.time() + min(HEARTBEAT.longest_s, beat.interval_s)
            elif self._beats.get(session_id) is beat:
                del self._beats[session_id]
                beat.tell(error)
