"""Background tasks: supervised work beside the requests, and threads that are waited for."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.metrics import Metrics

log = EventLog(__name__)

T = TypeVar("T")

RESTART_S: Final = 1.0
"""Pause before a failed task is restarted: a permanent fault must not fill the log and the CPU."""

CANCEL_AGAIN_S: Final = 1.0
"""After this a task that still runs is cancelled again."""


def supervise(name: str, work: Callable[[], Awaitable[None]], metrics: Metrics) -> asyncio.Task[None]:
    """Run `work` in a task until it returns or is cancelled; restart it if it raises.

    A bug in one place must not silently end syncing, flushing or reaping for all calls.

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
                log.exception(
                    "task_failed",
                    "the task %s failed; it is restarted in %g s",
                    name,
                    RESTART_S,
                    task=name,
                )
                metrics.count("task_failures")
                await asyncio.sleep(RESTART_S)
            else:
                return

    return asyncio.get_running_loop().create_task(run(), name=f"callstated-{name}")


async def cancel_and_wait(task: asyncio.Task[None]) -> None:
    """Cancel a task, and wait until it has ended, whether with an exception or not.

    Libraries swallow a cancellation now and then (redis-py does if a reply times out at about the same time), so it
    is repeated until the task has ended.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_AGAIN_S)


async def in_thread(call: Callable[..., T], *args: object) -> T:
    """Call a function in a thread, and return or raise only when the thread is done.

    Awaiting `run_in_executor` is not enough: if the caller is cancelled it continues at once while its thread still
    writes, and whatever comes next works on the same files.

    Raises:
        asyncio.CancelledError: the caller was cancelled; the call has been made all the same.
    """
    future = asyncio.get_running_loop().run_in_executor(None, call, *args)
    interrupted: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            interrupted = error
    if interrupted is not None:
        future.exception()  # retrieve it, or asyncio logs it as never retrieved
        raise interrupted
    return future.result()


class BackgroundTask(ABC):
    """A supervised task that can be started and stopped; subclasses implement `_run`.

    Args:
        metrics: counts its failures.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task."""
        self._task = supervise(type(self).__name__, self._run, self._metrics)

    async def stop(self) -> None:
        """Cancel the task and wait for its end. May be called twice, and before `start`."""
        task, self._task = self._task, None
        if task is not None:
            await cancel_and_wait(task)

    @abstractmethod
    async def _run(self) -> None:
        """The task's work, an endless loop."""
