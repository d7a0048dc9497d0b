"""Work that goes on beside the requests until it is stopped, and calls in threads that outlive nobody."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from callstate_sidecar.metrics import Metrics

log = logging.getLogger(__name__)

T = TypeVar("T")

RESTART_S: Final = 1.0
"""A task that failed begins anew so much later: a fault that is there to stay must not fill log and processor."""


def supervise(name: str, work: Callable[[], Awaitable[None]], metrics: Metrics) -> asyncio.Task[None]:
    """Run `work` in a task until it returns or is cancelled; where it raises, begin it anew.

    A fault of ours in one place must not silently end syncing, flushing or reaping for all calls.

    Args:
        name: for the log and for debuggers.
        work: called again after each failure.
        metrics: counts `task_failures`.
    """

    async def run() -> None:
        while True:
            try:
                await work()
            except Exception:
                log.exception("the task %s failed; it begins anew in %g s", name, RESTART_S)
                metrics.count("task_failures")
                await asyncio.sleep(RESTART_S)
            else:
                return

    return asyncio.get_running_loop().create_task(run(), name=f"callstated-{name}")


async def cancel_and_wait(task: asyncio.Task[None]) -> None:
    """Cancel a task, and return when it has ended, however that was."""
    task.cancel()
    await asyncio.wait([task])


async def in_thread(call: Callable[..., T], *args: object) -> T:
    """Call in a thread, and return or raise only when the thread is done.

    Awaiting `run_in_executor` is not enough: a cancelled caller goes on at once while its thread still writes,
    and whatever comes next works on the same files.

    Raises:
        asyncio.CancelledError: the caller was cancelled meanwhile; the call has been made all the same.
    """
    future = asyncio.get_running_loop().run_in_executor(None, call, *args)
    interrupted: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            interrupted = error
    if interrupted is not None:
        future.exception()  # nobody will ask for it any more
        raise interrupted
    return future.result()


class BackgroundTask(ABC):
    """One task with a beginning and an end.

    Args:
        metrics: counts the times it failed.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = supervise(type(self).__name__, self._run, self._metrics)

    async def stop(self) -> None:
        """End; what is under way is given up. May be called twice, and before a start."""
        task, self._task = self._task, None
        if task is not None:
            await cancel_and_wait(task)

    @abstractmethod
    async def _run(self) -> None:
        """Go on for ever."""
