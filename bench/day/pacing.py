"""When each request of a worker is due, on a clock that stops while another side is measured."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Coroutine
from typing import Any


class Pacing:
    """Starts coroutines when they are due, whether or not earlier ones have finished: calls wait for no store.

    While it is paused its clock stands still, so that nothing is overdue when it continues.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: list[tuple[float, int, Callable[[], Coroutine[Any, Any, None]]]] = []
        self._order = itertools.count()
        self._stood_since: float | None = self._loop.time()
        self._stood_s = self._stood_since
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[None]] = set()

    def now(self) -> float:
        """Seconds that it has been running."""
        return (self._loop.time() if self._stood_since is None else self._stood_since) - self._stood_s

    def after(self, delay_s: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start this that many seconds from now."""
        heapq.heappush(self._due, (self.now() + delay_s, next(self._order), work))
        if self._due[0][2] is work:
            self._arm()

    def start(self) -> None:
        """Continue."""
        if self._stood_since is not None:
            self._stood_s += self._loop.time() - self._stood_since
            self._stood_since = None
            self._arm()

    async def pause(self) -> None:
        """Stop starting anything, and wait for what has been started.

        Raises:
            Exception: the first that one of them raised.
        """
        self._stood_since = self._loop.time()
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(*self._running)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._due and self._stood_since is None:
            self._timer = self._loop.call_at(self._due[0][0] + self._stood_s, self._start_due)

    def _start_due(self) -> None:
        now = self.now()
        while self._due and self._due[0][0] <= now:
            _, _, work = heapq.heappop(self._due)
            task = self._loop.create_task(work())
            self._running.add(task)
            task.add_done_callback(self._ended)
        self._arm()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "a request failed", "exception": error})
