"""The task that handles a call: cancelling it when the call is lost, and noticing when it hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["CancelOnLost", "OneShotEvent", "Watchdog", "check_watchdog"]


class OneShotEvent:
    """An event that is set once, which any number of tasks can wait for, and which can cancel one block.

    Every held call has one, and few are waited for: an asyncio.Event, which is ten times as large, is created by
    the first wait.
    """

    __slots__ = ("_event", "_guard", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._event: asyncio.Event | None = None
        self._guard: CancelOnLost | None = None

    def set(self, *, cancel: bool = True) -> None:
        """Wake the tasks that wait.

        Args:
            cancel: cancel the block too, if there is one to cancel.
        """
        self.is_set = True
        if self._event is not None:
            self._event.set()
        if self._guard is not None and cancel:
            self._guard.cancel()

    async def wait(self) -> None:
        """Return once it is set."""
        if self._event is None:
            self._event = asyncio.Event()
            if self.is_set:
                self._event.set()
        await self._event.wait()

    def cancel_current_task(self) -> CancelOnLost:
        """Cancel the current task when it is set, or now if it is.

        Raises:
            RuntimeError: there is no current task.
        """
        self._guard = CancelOnLost()
        if self.is_set:
            self._guard.cancel()
        return self._guard


class CancelOnLost:
    """Cancels the task that a block runs in, and tells its own cancellation from others, like asyncio.timeout().

    To be created and left in that task.

    Raises:
        RuntimeError: there is no current task.
    """

    __slots__ = ("_before", "_cancelled", "_task")

    def __init__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be cancelled when its call is lost")
        self._task: asyncio.Task[object] | None = task
        self._before = task.cancelling()
        self._cancelled = False

    def cancel(self) -> None:
        """Cancel the block, unless it was left or cancelled by this before."""
        if self._task is not None and not self._cancelled:
            self._cancelled = True
            self._task.cancel()

    async def leave(self, error: BaseException | None) -> bool:
        """The block is left.

        Args:
            error: the exception that leaves it; None for none.

        Returns:
            whether it was cancelled by this and by nothing else.
        """
        task, self._task = self._task, None
        if task is None or not self._cancelled:
            return False
        others = task.uncancel() > self._before
        if isinstance(error, asyncio.CancelledError):
            return not others
        try:
            await asyncio.sleep(0)  # a cancellation that the block has not noticed is delivered here
        except asyncio.CancelledError:
            if others:
                raise
        return False


def check_watchdog(timeout_s: float) -> None:
    """Check a watchdog's timeout.

    Raises:
        ValueError: it is not above 0.
    """
    if not timeout_s > 0:
        raise ValueError(f"watchdog_s must be a number of seconds above 0, not {timeout_s!r}")


class Watchdog:
    """Notices when a call's task has not reported for too long. Belongs to the loop it is made in.

    Heartbeats alone only prove that the loop runs.

    Args:
        timeout_s: how long that is, seconds.
        on_silence: called when the task has been silent for that long.
        on_return: called when it reports again.

    Raises:
        ValueError: the timeout is not above 0.
    """

    def __init__(self, timeout_s: float, on_silence: Callable[[], None], on_return: Callable[[], None]) -> None:
        check_watchdog(timeout_s)
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self._on_silence = on_silence
        self._on_return = on_return
        self._last = self._loop.time()
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(timeout_s, self._check)

    def alive(self) -> None:
        """The task reports."""
        self._last = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._check)
            self._on_return()

    def stop(self) -> None:
        """Call nothing from now on."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._on_silence = self._on_return = lambda: None

    def _check(self) -> None:
        # a report only notes its time; the one timer is set again for what is left when it fires
        left_s = self._last + self._timeout_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._check)
        else:
            self._timer = None
            self._on_silence()
