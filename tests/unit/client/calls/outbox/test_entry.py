"""The outcome of a queued mutation, which is awaited by any number of tasks, or by none."""

from __future__ import annotations

import asyncio
import gc
import traceback
from typing import Any

import pytest

from callstate_client import ConflictError
from callstate_client.calls.outbox.entry import Acknowledgement


@pytest.fixture
async def outcome() -> Acknowledgement:
    return Acknowledgement(asyncio.get_running_loop())


async def waiting_for(outcome: Acknowledgement, tasks: int) -> list[asyncio.Task[int]]:
    async def wait() -> int:
        return await outcome

    started = [asyncio.ensure_future(wait()) for _ in range(tasks)]
    await asyncio.sleep(0)
    return started


async def test_every_task_that_waits_gets_it(outcome: Acknowledgement) -> None:
    tasks = await waiting_for(outcome, 3)
    assert outcome.is_awaited
    outcome.acknowledge(7)
    assert await asyncio.gather(*tasks) == [7, 7, 7]
    assert not outcome.is_awaited
    assert await outcome == 7


async def test_a_task_that_is_cancelled_leaves_the_others_waiting(outcome: Acknowledgement) -> None:
    cancelled, waits = await waiting_for(outcome, 2)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert not outcome.done()
    assert outcome.is_awaited
    outcome.acknowledge(0)
    assert await waits == 0


@pytest.mark.parametrize("first", ["cancel", "outcome"])
async def test_a_cancellation_beside_the_outcome_cancels_its_task_alone(
    outcome: Acknowledgement, first: str
) -> None:
    cancelled, waits = await waiting_for(outcome, 2)
    for step in ("cancel", "outcome") if first == "cancel" else ("outcome", "cancel"):
        if step == "cancel":
            cancelled.cancel()
        else:
            outcome.acknowledge(7)
    assert await waits == 7
    with pytest.raises(asyncio.CancelledError):
        await cancelled


async def test_the_first_outcome_stays(outcome: Acknowledgement) -> None:
    outcome.fail(ConflictError("no"))
    outcome.acknowledge(7)
    with pytest.raises(ConflictError):
        outcome.result()


async def test_without_an_outcome_there_is_no_result(outcome: Acknowledgement) -> None:
    with pytest.raises(asyncio.InvalidStateError):
        outcome.result()


async def test_a_refusal_that_is_raised_again_is_not_longer(outcome: Acknowledgement) -> None:
    outcome.fail(ConflictError("no"))
    lengths = []
    for _ in range(3):
        try:
            await outcome
        except ConflictError as error:
            lengths.append(len(traceback.extract_tb(error.__traceback__)))
    assert lengths == [lengths[0]] * 3


@pytest.mark.parametrize("early", [True, False])
async def test_callbacks_get_an_object_with_the_outcome(outcome: Acknowledgement, early: bool) -> None:
    told: asyncio.Queue[Any] = asyncio.Queue()
    if early:
        outcome.as_future().add_done_callback(told.put_nowait)
    outcome.fail(ConflictError("no"))
    if not early:
        outcome.as_future().add_done_callback(told.put_nowait)
    assert isinstance((await told.get()).exception(), ConflictError)


async def test_a_refusal_that_nobody_asks_for_is_not_logged(outcome: Acknowledgement) -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    outcome.as_future()
    outcome.fail(ConflictError("no"))
    del outcome
    gc.collect()
    assert complaints == []
