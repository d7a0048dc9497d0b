"""Background work of a store for its calls: tasks that end with the store at the latest."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from callstate_client.errors import StoreClosedError
from callstate_client.session_api import SessionApi

__all__ = ["BackgroundTasks"]

SETTLE_S: Final = 2.0
"""How long closing a store waits for releases in the background, seconds. A call that is not released by then
becomes an orphan when the daemon's reconnect grace is over."""

ResultT = TypeVar("ResultT")


class BackgroundTasks:
    """The tasks of one store.

    Args:
        store: once it is closed, no task is started.
    """

    def __init__(self, store: SessionApi) -> None:
        self._store = store
        self._tasks: set[asyncio.Task[Any]] = set()  # the loop itself keeps only weak references

    def start(self, work: Coroutine[Any, Any, ResultT], name: str) -> asyncio.Task[ResultT]:
        """Run this as a task. It need not be awaited; an exception that is not retrieved is dropped.

        Raises:
            StoreClosedError: the store is closed. The coroutine is closed too.
        """
        if self._store.closed:
            work.close()
            raise StoreClosedError
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()

    async def settle(self) -> None:
        """Wait SETTLE_S for the tasks to end, then cancel them."""
        if self._tasks:
            await asyncio.wait([*self._tasks], timeout=SETTLE_S)
        while tasks := [*self._tasks]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def forget(self) -> None:
        """In a forked child: the tasks are the parent's."""
        self._tasks = set()
