"""A call whose task must show that it lives: heartbeats alone prove that the loop turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Watchdog"]


class Watchdog:
    """Notices when a call's task has not said for too long that it is alive. Belongs to the loop it is made in.

    Args:
        timeout_s: how long, seconds.
        silent: called once it has been silent for so long.
        back: called when it is heard of again after that.

    Raises:
        ValueError: no time at all.
    """

    def __init__(self, timeout_s: float, silent: Callable[[], None], back: Callable[[], None]) -> None:
        if not timeout_s > 0:
            raise ValueError(f"watchdog_s is a number of seconds above 0, not {timeout_s!r}")
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self._silent = silent
        self._back = back
        self._last = self._loop.time()
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(timeout_s, self._check)

    def alive(self) -> None:
        """It is."""
        self._last = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._check)
            self._back()

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._silent = self._back = lambda: None

    def _check(self) -> None:
        # one timer for many signs of life: it looks how long ago the last one is
        left = self._last + self._timeout_s - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check)
        else:
            self._timer = None
            self._silent()
