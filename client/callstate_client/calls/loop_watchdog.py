"""Whether a worker's loop still turns, as another thread can see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

PULSES_A_STALL: Final = 4
"""How often the loop shows itself within the time after which it counts as stalled."""

MAX_INTERVAL_S: Final = 1.0
"""And at least this often, seconds: a loop that goes on is seen to within that."""


class Pulse:
    """Notes when the loop last turned.

    Args:
        loop: whose loop.
        stall_timeout_s: without a turn for so long it counts as stalled, seconds.
        back: called in the loop at each of its pulses.
        clock: tells the time, seconds that never go back.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stall_timeout_s: float,
        back: Callable[[], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._loop = loop
        self._stall_timeout_s = stall_timeout_s
        self._interval_s = min(stall_timeout_s / PULSES_A_STALL, MAX_INTERVAL_S)
        self._back = back
        self._clock = clock
        self._last = clock()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def stalled(self) -> bool:
        """Whether the loop has not turned for too long. From any thread."""
        return self._clock() - self._last > self._stall_timeout_s

    def start(self) -> None:
        """Show that the loop turns, from now on. In the loop."""
        if self._timer is None:
            self._beat()

    def stop(self) -> None:
        """Show it no more. In the loop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        self._last = self._clock()
        self._timer = self._loop.call_later(self._interval_s, self._beat)
        self._back()
