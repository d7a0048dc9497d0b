"""How a call's task learns that the call is lost: by waiting for it, or by being cancelled."""

from __future__ import annotations

import asyncio

__all__ = ["CancelOnLost", "Signal"]


class Signal:
    """Something that happens once, which any number of tasks may wait for, and one block be cancelled by."""

    __slots__ = ("_event", "_guard", "is_given")

    def __init__(self) -> None:
        self.is_given = False
        """Whether it has happened."""
        self._event: asyncio.Event | None = None
        self._guard: CancelOnLost | None = None

    def give(self, *, cancel: bool = True) -> None:
        """It has happened; `cancel`: for which a block that is guarded is cancelled."""
        self.is_given = True
        if self._event is not None:
            self._event.set()
        if self._guard is not None and cancel:
            self._guard.cancel()

    async def wait(self) -> None:
        """Return once it has."""
        if self._event is None:
            self._event = asyncio.Event()
            if self.is_given:
                self._event.set()
        await self._event.wait()

    def guard(self) -> CancelOnLost:
        """Cancel the present task when it happens, or now if it has."""
        self._guard = CancelOnLost()
        if self.is_given:
            self._guard.cancel()
        return self._guard


class CancelOnLost:
    """Cancels the task that a block runs in, and knows its own cancellation from another's: as asyncio.timeout().

    To be made, and left, in that task.
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
        """Cancel the block, unless it was left or is cancelled by this already."""
        if self._task is not None and not self._cancelled:
            self._cancelled = True
            self._task.cancel()

    async def leave(self, error: BaseException | None) -> bool:
        """The block is left, by this exception; gives whether it was cancelled by this, and by nothing else."""
        task, self._task = self._task, None
        if task is None or not self._cancelled:
            return False
        others = task.uncancel() > self._before
        if isinstance(error, asyncio.CancelledError):
            return not others
        try:
            await asyncio.sleep(0)  # where a cancellation arrives that the block was too quick for
        except asyncio.CancelledError:
            if others:
                raise
        return False
