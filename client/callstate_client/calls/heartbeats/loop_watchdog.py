"""Heartbeats of a worker with an event loop: sent by a thread, as long as the loop runs.

A loop that is busy for a while must not be taken for dead, so a thread with a connection of its own sends the
heartbeats. A loop that hangs must not be taken for alive, so the thread sends none once the loop has not run for
the stall timeout, and continues as soon as it runs again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from callstate_client.calls.heartbeats.schedule import LostCallback, ScheduledCall
from callstate_client.calls.heartbeats.thread import LEAVE_S, HeartbeatThread
from callstate_client.errors import CallstateError
from callstate_client.transport.discovery import Candidate
from callstate_client.transport.identity import Identity

TICKS_PER_STALL: Final = 4
"""How often the loop reports within the stall timeout."""

MAX_INTERVAL_S: Final = 1.0
"""Longest time between two reports, seconds, and so until a loop that runs again is noticed."""


class LoopWatchdog:
    """Records when a loop last ran.

    Args:
        loop: the loop.
        stall_timeout_s: how long it may not run before it counts as stalled, seconds.
        on_tick: called in the loop with each report.
        clock: the time, monotonic seconds.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stall_timeout_s: float,
        on_tick: Callable[[], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._loop = loop
        self._stall_timeout_s = stall_timeout_s
        self._interval_s = min(stall_timeout_s / TICKS_PER_STALL, MAX_INTERVAL_S)
        self._on_tick = on_tick
        self._clock = clock
        self._last = clock()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def stalled(self) -> bool:
        """Whether the loop has not run for too long. May be read from any thread."""
        return self._clock() - self._last > self._stall_timeout_s

    def start(self) -> None:
        """Begin to watch the loop. Called in it."""
        if self._timer is None:
            self._tick()

    def stop(self) -> None:
        """Stop watching. Called in the loop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._last = self._clock()
        self._timer = self._loop.call_later(self._interval_s, self._tick)
        self._on_tick()


class LoopHeartbeats:
    """See `Heartbeats`. Belongs to the loop it is created in, in which callbacks are called.

    Args:
        places: where to look for the daemon's socket.
        identity: returns the worker that the connection is registered for; None: none.
        stall_timeout_s: how long the loop may not run before heartbeats stop, seconds.
        clock: the time, for heartbeats that are due and a loop that does not run; monotonic seconds.
    """

    def __init__(
        self,
        places: Callable[[], Sequence[Candidate]],
        identity: Callable[[], Identity | None],
        stall_timeout_s: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._watchdog = LoopWatchdog(self._loop, stall_timeout_s, self._ticked, clock)
        self._thread = HeartbeatThread(places, identity, clock, self._may_send, self._lose)
        self._held_back = False
        """Whether the thread found the loop stalled when it last looked."""

    # -- in the loop ----------------------------------------------------------------------------------------

    def add(self, session_id: str, timeout_s: float, lost: LostCallback) -> None:
        """See `Heartbeats.add`."""
        self._watchdog.start()
        self._thread.add(session_id, timeout_s, lost)

    def discard(self, session_id: str, lost: LostCallback | None) -> None:
        """See `Heartbeats.discard`."""
        self._thread.discard(session_id, lost)
        if not len(self._thread):
            self._watchdog.stop()

    @property
    def stalled(self) -> bool:
        """Whether none are sent because the loop is blocked. May be read from any thread."""
        return len(self._thread) > 0 and self._watchdog.stalled

    async def close(self) -> None:
        """Send no more."""
        self._watchdog.stop()
        thread = self._thread.leave()
        if thread is not None:
            await self._loop.run_in_executor(None, thread.join, LEAVE_S)

    def _ticked(self) -> None:
        if self._held_back:
            self._thread.wake()

    # -- in the thread --------------------------------------------------------------------------------------

    def _may_send(self) -> bool:
        self._held_back = self._watchdog.stalled
        return not self._held_back

    def _lose(self, call: ScheduledCall, error: CallstateError) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call.lose, error)
