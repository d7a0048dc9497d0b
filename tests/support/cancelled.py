"""Cancelling a coroutine at each of its awaits, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any

MOST_STEPS = 200
"""No coroutine that is tested so suspends more often."""


class _Cancelled(Coroutine[Any, Any, Any]):
    """A coroutine that is cancelled when it suspends for the given time.

    Args:
        coroutine: which.
        step: the number of the suspension, from 1.
        answered: cancel it once what it waits for is there, before it runs again; else while it waits.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], step: int, *, answered: bool) -> None:
        self._coroutine = coroutine
        self._step = step
        self._answered = answered
        self.steps = 0
        self.task: asyncio.Task[Any]

    @property
    def was_cancelled(self) -> bool:
        """Whether it has suspended so often."""
        return self.steps >= self._step

    def _suspended(self, waits_for: Any) -> Any:
        self.steps += 1
        if self.steps == self._step:
            if self._answered and isinstance(waits_for, asyncio.Future):
                waits_for.add_done_callback(lambda _: self.task.cancel())
            else:
                asyncio.get_running_loop().call_soon(self.task.cancel)
        return waits_for

    def send(self, value: Any) -> Any:
        return self._suspended(self._coroutine.send(value))

    def throw(self, *error: Any) -> Any:
        return self._suspended(self._coroutine.throw(*error))

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise NotImplementedError  # it is run as a task


async def cancelled_at_each_step(make: Callable[[], Coroutine[Any, Any, object]]) -> AsyncIterator[None]:
    """Run new coroutines until one is not cancelled any more; yields after each that was.

    Raises whatever one of them raises other than its cancellation.
    """
    for answered in (False, True):
        for step in range(1, MOST_STEPS):
            coroutine = _Cancelled(make(), step, answered=answered)
            coroutine.task = asyncio.get_running_loop().create_task(coroutine)
            await asyncio.wait((coroutine.task,))
            if not coroutine.task.cancelled():
                coroutine.task.result()
            yield
            if not coroutine.was_cancelled:
                break
        else:
            raise AssertionError(f"it suspends more than {MOST_STEPS} times")
