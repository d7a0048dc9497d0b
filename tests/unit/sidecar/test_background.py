"""Tasks that outlive their faults, and threads that are waited for."""

from __future__ import annotations

import asyncio
import threading

import pytest

from callstate_sidecar import background
from callstate_sidecar.background import BackgroundTask, cancel_and_wait, in_thread, supervise
from callstate_sidecar.metrics import Metrics


async def test_a_task_that_fails_is_logged_counted_and_restarted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "RESTART_S", 0)
    metrics, runs = Metrics(), 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise OverflowError("a fault of ours")

    await supervise("polling", work, metrics)
    assert runs == 3
    assert metrics.to_dict()["task_failures"] == 2
    assert "the task polling failed" in caplog.text
    assert "OverflowError: a fault of ours" in caplog.text


async def test_a_chore_goes_on_after_a_fault_and_stops_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "RESTART_S", 0)
    again = asyncio.Event()

    class Flaky(BackgroundTask):
        runs = 0

        async def _run(self) -> None:
            self.runs += 1
            if self.runs == 1:
                raise RuntimeError("once")
            again.set()
            await asyncio.Event().wait()

    metrics = Metrics()
    flaky = Flaky(metrics)
    await flaky.stop()
    flaky.start()
    await asyncio.wait_for(again.wait(), 10)
    await flaky.stop()
    await flaky.stop()
    assert metrics.counters == {"task_failures": 1}


async def test_a_cancelled_caller_waits_until_its_thread_is_done() -> None:
    begun, allowed, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert allowed.wait(20)
        done.set()

    async def call() -> None:
        await in_thread(work)

    task = asyncio.get_running_loop().create_task(call())
    while not begun.is_set():
        await asyncio.sleep(0)
    for _ in range(2):  # however often
        task.cancel()
        assert (await asyncio.wait([task], timeout=0.01))[1] == {task}
    allowed.set()
    await cancel_and_wait(task)
    assert task.cancelled()
    assert done.is_set()


async def test_a_thread_passes_on_its_result_and_its_exception() -> None:
    assert await in_thread(int, "7") == 7
    with pytest.raises(ValueError, match="seven"):
        await in_thread(int, "seven")


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "CANCEL_AGAIN_S", 0.001)
    begun, swallowed = asyncio.Event(), 0

    async def stubborn() -> None:
        nonlocal swallowed
        while swallowed < 3:
            try:
                begun.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1

    task = asyncio.create_task(stubborn())
    await begun.wait()
    async with asyncio.timeout(10):
        await background.cancel_and_wait(task)
    assert swallowed == 3
