"""Lets the engine act on deadlines: tick by tick, slice by slice, not counting time when the daemon stood still.

The engine decides what is due and what becomes of it (engine/expiry.py). If a thousand sessions are due at once,
they are handled in slices of a millisecond, so that no request waits for more than one slice.

A tick that is far too late by CLOCK_MONOTONIC was delayed by the daemon itself (stopped, stalled, suspended). The
gap is added to every deadline, and what clients sent during it is read before any session is judged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from callstate_client.engine.clock import EngineClock
from callstate_client.engine.engine import Engine
from callstate_client.engine.expiry import Verdicts
from callstate_sidecar.background import BackgroundTask
from callstate_sidecar.hot_memory import HotMemory
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.slices import Slices

log = EventLog(__name__)

STALL_S: Final = 0.5
"""A tick later than this means that the daemon stood still, seconds."""

SESSIONS_A_SLICE: Final = 20
"""Sessions handled in one turn of the loop at most, as each is journaled at its end. Ten thousand due at once take
two seconds in this way, and no request waits for them all."""

SESSIONS_A_STEP: Final = 4
"""Sessions handled without a look at the time: some tenths of a millisecond."""

SLICE_S: Final = 0.001
"""Seconds after which a slice ends: longer than other work's, as a pause follows and thousands may be due."""

SLICE_PAUSE_S: Final = 0.001
"""Pause before the next slice, in which requests are served, seconds."""


class Reaper(BackgroundTask):
    """Ends the sessions of dead calls.

    Args:
        engine: decides what is due.
        clock: the daemon's.
        metrics: counts suspected and reaped sessions, and records how late the last tick was.
        tick_s: seconds between ticks.
        commit: writes the changes of a slice to the journal, and publishes them.
        slices: say when a slice is over.

    Attributes:
        memory: evicts a slice in each tick, if memory is short.
    """

    def __init__(
        self,
        engine: Engine,
        clock: EngineClock,
        metrics: Metrics,
        tick_s: float,
        commit: Callable[[], None],
        slices: Slices | None = None,
    ) -> None:
        super().__init__(metrics)
        self._engine = engine
        self._clock = clock
        self._tick_s = tick_s
        self._commit = commit
        self.memory = HotMemory(engine, metrics)
        self._next_slice: asyncio.Handle | None = None
        self._slices = slices or Slices(SLICE_S)
        self._left = False
        """The last slice ended before everything due was handled."""

    async def stop(self) -> None:
        """Stop; see BackgroundTask."""
        if self._next_slice is not None:
            self._next_slice.cancel()
        await super().stop()

    # -- deadlines ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        clock = self._clock
        delay = self._tick_s
        due = clock.mono() + delay
        while True:
            await asyncio.sleep(delay)
            woke = clock.mono()
            late_s = max(0.0, woke - due)
            self._metrics.observe_lag(late_s)
            self._left = False
            if late_s > STALL_S:
                # extend all deadlines, and read what was sent meanwhile before the next tick
                clock.stalled_s += late_s
                self._engine.ctx.step_back()
                log.warning(
                    "daemon_stalled", "the daemon stalled for %.1f s; all deadlines are postponed by that", late_s
                )
            else:
                try:
                    self.tick(clock.live())
                except Exception:
                    # a bug must not stop the watch over all other sessions
                    log.exception("deadlines_failed", "checking the deadlines failed")
            delay = SLICE_PAUSE_S if self._left else self._tick_s
            due = (
                woke + delay
            )  # counted from before the tick: its own duration, even with a slow commit, is no stall

    def tick(self, now: float) -> int:
        """Act on a slice of the sessions that are due, and evict a slice of ended ones if memory is short.

        Args:
            now: seconds of the clock's `live()`.

        Returns:
            the number of sessions in the larger slice.
        """
        handled, left = self._slice(lambda most: self._engine.tick(now, most))
        evicted = self.memory.relieve()
        self._left = left or evicted >= SESSIONS_A_SLICE or self.memory.was_cut
        self.wake()  # also for departures that a full disk has delayed
        if handled or evicted:
            self._commit()
        return max(handled, evicted)

    def _slice(self, step: Callable[[int], Verdicts]) -> tuple[int, bool]:
        """Handle as many sessions as fit into a slice, and a step of them at least.

        Args:
            step: handles so many sessions at most.

        Returns:
            how many were handled, and whether there may be more.
        """
        self._slices.begin()
        handled = 0
        while handled < SESSIONS_A_SLICE:
            verdicts = step(SESSIONS_A_STEP)
            self._report(verdicts)
            handled += verdicts.sessions
            if verdicts.sessions < SESSIONS_A_STEP:
                return handled, False
            if self._slices.is_over:
                break
        return handled, True

    # -- workers that have left -----------------------------------------------------------------------------

    def wake(self) -> None:
        """From the next turn of the loop on, handle the sessions of workers that have left, if there are any."""
        if self._engine.departures and self._next_slice is None:
            self._next_slice = asyncio.get_running_loop().call_soon(self._depart)

    def _depart(self) -> None:
        self._next_slice = None
        departures = self._engine.departures
        left = len(departures.pending)
        try:
            self.depart()
        except Exception:
            log.exception("departure_failed", "handling the sessions of a departed worker failed")
        # if none was handled, the journal can't be written, and the next tick tries again
        if departures.listing or 0 < len(departures.pending) < left:
            self._next_slice = asyncio.get_running_loop().call_later(SLICE_PAUSE_S, self._depart)

    def depart(self) -> int:
        """Like `tick`, for a slice of the sessions whose worker has left."""
        now = self._clock.live()
        handled, _ = self._slice(lambda most: self._engine.depart(now, most))
        self._commit()
        return handled

    # -- both -----------------------------------------------------------------------------------------------

    def _report(self, verdicts: Verdicts) -> None:
        if verdicts.suspected:
            self._metrics.count("suspected", len(verdicts.suspected))
            self._metrics.suspected.update(verdicts.suspected)
        if verdicts.reaped:
            self._metrics.count("reaped", len(verdicts.reaped))
            self._metrics.reaped.update(reason for _, reason in verdicts.reaped)
        for session_id, reason in verdicts.reaped:
            log.info(
                "session_reaped", "session %s reaped: %s", session_id, reason, session_id=session_id, reason=reason
            )
