"""Long work gives way when its time is up, however much of it there is."""

from __future__ import annotations

import asyncio

import pytest

from callstate_sidecar.slices import SLICE_S, Slices, in_slices


class Clock:
    """A clock that work moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_a_slice_ends_with_the_item_that_takes_its_time() -> None:
    clock, held_s = Clock(), []
    began = clock.now

    async def others() -> None:
        nonlocal began
        while True:
            await asyncio.sleep(0)
            held_s.append(clock.now - began)
            began = clock.now

    other = asyncio.ensure_future(others())
    await asyncio.sleep(0)
    async for _ in in_slices(range(20), Slices(4.0, clock)):
        clock.now += 1.0
    other.cancel()
    assert held_s == [4.0, 0.0] * 4, "in the second turn goes on what requests of the first have started"


async def test_each_of_the_long_items_is_a_slice() -> None:
    clock, turns = Clock(), 0

    def count() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(count)

    count()
    async for _ in in_slices(range(5), Slices(clock=clock)):
        clock.now += 3 * SLICE_S
    assert turns == 1 + 2 * 4


@pytest.mark.parametrize(
    ("others_s", "lasts_s"),
    [
        (0.0, SLICE_S),
        (3 * SLICE_S, SLICE_S),
        (6 * SLICE_S, 2 * SLICE_S),
        (60.0, 3 * SLICE_S),
    ],
)
async def test_work_keeps_a_quarter_of_the_time_beside_long_turns_of_others(
    others_s: float, lasts_s: float
) -> None:
    clock = Clock()
    slices = Slices(clock=clock)
    clock.now += SLICE_S

    def others() -> None:
        clock.now += others_s

    asyncio.get_running_loop().call_soon(others)
    await slices.give_way()
    began = clock.now
    clock.now = began + lasts_s * 0.99
    assert not slices.is_over
    clock.now = began + lasts_s * 1.01
    assert slices.is_over


async def test_work_begins_with_a_slice_of_its_own_after_a_wait() -> None:
    clock = Clock()
    slices = Slices(clock=clock)
    clock.now += 60.0
    assert slices.is_over
    slices.begin()
    assert not slices.is_over
