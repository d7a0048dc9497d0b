from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from callstate_client import StoreClosedError
from callstate_client.calls import background as module
from callstate_client.calls.background import BackgroundTasks


def store(*, closed: bool = False) -> Any:
    return SimpleNamespace(closed=closed)


async def test_an_unretrieved_failure_is_not_logged() -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def fail() -> None:
        raise OSError

    tasks = BackgroundTasks(store())
    task = tasks.start(fail(), "callstate-test")
    await asyncio.wait([task])
    del task
    await tasks.settle()
    assert complaints == []


async def test_a_closed_store_starts_none() -> None:
    async def work() -> None:
        raise AssertionError

    coroutine = work()
    with pytest.raises(StoreClosedError):
        BackgroundTasks(store(closed=True)).start(coroutine, "callstate-test")
    with pytest.raises(RuntimeError, match="reuse"):  # it was closed, so there is no warning of it
        await coroutine


async def test_a_task_that_does_not_end_is_cancelled_with_its_children(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SETTLE_S", 0)
    tasks = BackgroundTasks(store())
    late: list[asyncio.Task[None]] = []

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            late.append(tasks.start(asyncio.sleep(3600), "callstate-late"))

    task = tasks.start(work(), "callstate-test")
    await asyncio.sleep(0)
    await tasks.settle()
    assert task.cancelled()
    assert late[0].cancelled()


async def test_a_task_that_ends_in_time_is_not_cancelled() -> None:
    tasks = BackgroundTasks(store())
    task = tasks.start(asyncio.sleep(0, "done"), "callstate-test")
    await tasks.settle()
    assert task.result() == "done"


async def test_a_forked_child_forgets_them() -> None:
    tasks = BackgroundTasks(store())
    task = tasks.start(asyncio.sleep(3600), "callstate-test")
    tasks.forget()
    await tasks.settle()
    assert not task.done()
    task.cancel()
