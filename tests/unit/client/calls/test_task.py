from __future__ import annotations

import asyncio

import pytest

from callstate_client.calls.task import OneShotEvent


async def test_setting_the_event_ends_present_and_later_waits() -> None:
    event = OneShotEvent()
    waiting = asyncio.create_task(event.wait())
    await asyncio.sleep(0)
    assert not event.is_set
    event.set()
    await waiting
    await event.wait()
    early = OneShotEvent()
    early.set()
    await early.wait()


async def test_a_block_is_cancelled_and_the_task_goes_on() -> None:
    event = OneShotEvent()
    guard = event.cancel_current_task()
    asyncio.get_running_loop().call_soon(event.set)
    with pytest.raises(asyncio.CancelledError) as caught:
        await asyncio.sleep(3600)
    assert await guard.leave(caught.value)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_it_may_have_happened_already() -> None:
    event = OneShotEvent()
    event.set()
    guard = event.cancel_current_task()
    with pytest.raises(asyncio.CancelledError) as caught:
        await asyncio.sleep(3600)
    assert await guard.leave(caught.value)


async def test_a_second_cancellation_from_outside_is_kept() -> None:
    event = OneShotEvent()
    began = asyncio.Event()

    async def block() -> bool:
        guard = event.cancel_current_task()
        began.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError as error:
            ours = await guard.leave(error)
            if not ours:
                raise
        return True

    task = asyncio.create_task(block())
    await began.wait()
    event.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_block_that_was_left_is_not_cancelled() -> None:
    event = OneShotEvent()
    guard = event.cancel_current_task()
    assert not await guard.leave(None)
    event.set()
    await asyncio.sleep(0)


async def test_another_error_goes_before() -> None:
    event = OneShotEvent()
    guard = event.cancel_current_task()
    event.set()
    assert not await guard.leave(OSError())
    await asyncio.sleep(0)


def test_only_a_task_can_be_cancelled() -> None:
    loop = asyncio.new_event_loop()
    failures: list[Exception] = []

    def enter() -> None:
        try:
            OneShotEvent().cancel_current_task()
        except RuntimeError as error:
            failures.append(error)
        loop.stop()

    loop.call_soon(enter)
    loop.run_forever()
    loop.close()
    assert len(failures) == 1
