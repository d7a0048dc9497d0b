"""Heartbeats from a thread with a connection of its own, so that a busy loop is not taken for a dead one; and only
while the loop turns, so that a hung one is not taken for a live one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic

from callstate_client.calls.heartbeat_schedule import Beat, LostCallback
from callstate_client.calls.heartbeat_thread import LEAVE_S, BeatThread
from callstate_client.calls.loop_watchdog import Pulse
from callstate_client.errors import CallstateError
from callstate_client.transport.discovery import Candidate
from callstate_client.transport.identity import Identity


class BeatingThread(BeatThread):
    """As its base, but belongs to the loop it is made in, where it tells what is lost.

    Args:
        places: where to look for the daemon's socket.
        identity: gives whom the connection is registered for; None: nobody.
        stall_timeout_s: without a turn of the loop for so long no heartbeat is sent, seconds.
        clock: tells when a heartbeat is due and how long the loop stands still, seconds that never go back.
    """

    def __init__(
        self,
        places: Callable[[], Sequence[Candidate]],
        identity: Callable[[], Identity | None],
        stall_timeout_s: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(places, identity, clock)
        self._loop = asyncio.get_running_loop()
        self._pulse = Pulse(self._loop, stall_timeout_s, self._turned, clock)
        self._stalled = False

    # -- in the loop ----------------------------------------------------------------------------------------

    def add(self, session_id: str, timeout_s: float, lost: LostCallback) -> None:
        """Beat for this call from now on; see BeatThread."""
        self._pulse.start()
        super().add(session_id, timeout_s, lost)

    def discard(self, session_id: str, lost: LostCallback | None) -> None:
        """Beat no more for this call, as far as it was added with this callback; None: with one that is gone."""
        super().discard(session_id, lost)
        if not self._beats:
            self._pulse.stop()

    @property
    def stalled(self) -> bool:
        """Whether no beats are sent because the loop stands still. From any thread."""
        return bool(self._beats) and self._pulse.stalled

    async def close(self) -> None:
        """Beat no more for any."""
        self._pulse.stop()
        thread = self.leave()
        if thread is not None:
            await self._loop.run_in_executor(None, thread.join, LEAVE_S)

    def _turned(self) -> None:
        if self._stalled:
            with self._changed:
                self._changed.notify()

    # -- in the thread --------------------------------------------------------------------------------------

    def _look_for_stall(self) -> bool:
        self._stalled = self._pulse.stalled
        return self._stalled

    def _tell(self, beat: Beat, error: CallstateError) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(beat.tell, error)
