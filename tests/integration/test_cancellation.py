"""What a worker does with a store, cancelled at each await: no turn is doubled or out of order, no call stays with
a worker that does not hold it, nothing is left behind, and the store is usable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from itertools import count
from typing import Any

import pytest

from callstate_client import CallHandle, SessionNotFoundError, SessionState, SidecarStore, connect
from support.cancelled import cancelled_at_each_step
from support.daemon import Daemon

pytestmark = pytest.mark.system

ROUND_TRIPS = 2000
"""How many requests of another client it may take until what goes on in the background has ended."""

Scenario = Callable[[SidecarStore, str], Coroutine[Any, Any, None]]


@pytest.fixture
async def store(daemon: Daemon) -> AsyncIterator[SidecarStore]:
    async with connect(daemon.socket, worker_id="w1") as store:
        async with store.hold(SessionState("first")) as call:  # what is begun with the first call is there
            await call.beat()
        yield store


@pytest.fixture
async def operator(daemon: Daemon) -> AsyncIterator[SidecarStore]:
    async with connect(daemon.socket, register=False) as operator:
        yield operator


async def a_call(store: SidecarStore, session_id: str) -> None:
    async with store.hold(SessionState(session_id)) as call:
        await call.add_turn("user", "1")
        call.add_turn("user", "2")
        await call.update(labels={"app": "sales"})
        call.add_turn("user", "3x")
        await call.amend_last_turn(content="3")


async def a_call_that_fails(store: SidecarStore, session_id: str) -> None:
    with suppress(ZeroDivisionError):
        async with store.hold(SessionState(session_id)) as call:
            call.add_turn("user", "1")
            raise ZeroDivisionError


async def a_call_without_a_block(store: SidecarStore, session_id: str) -> None:
    call = await store.open_call(SessionState(session_id))
    try:
        call.add_turn("user", "1")
    finally:
        await call.close()


async def a_call_taken_over(store: SidecarStore, session_id: str) -> None:
    async with store.hold(SessionState(session_id)) as call:
        call.add_turn("user", "1")
        async with store.hold(SessionState(session_id), resume=True) as later:
            await later.add_turn("user", "2")
        raise asyncio.CancelledError  # the block that has lost its call does not end it


async def a_call_and_its_store(store: SidecarStore, session_id: str) -> None:
    async with store.hold(SessionState(session_id)) as call:
        call.add_turn("user", "1")
        await store.add_turn(session_id, "user", "2")
        await store.update(session_id, labels={"app": "sales"})
        call.add_turn("user", "3")
        await store.update(session_id, status="on_hold")


async def leave_orphans(store: SidecarStore, *session_ids: str) -> None:
    for session_id in session_ids:
        await store.save(SessionState(session_id, status="left"))
        await store.release(session_id, 0)


async def recovered_one_by_one(store: SidecarStore, session_id: str) -> None:
    await leave_orphans(store, session_id, f"{session_id}-2")
    async with aclosing(store.recover()) as calls:
        async for call in calls:
            async with call:
                await call.update(status="active")


async def recovered_by_a_handler(store: SidecarStore, session_id: str) -> None:
    async def go_on(call: CallHandle) -> None:
        await call.update(status="active")

    await leave_orphans(store, session_id, f"{session_id}-2")
    await store.recover(go_on, concurrency=1)


SCENARIOS = [
    a_call,
    a_call_that_fails,
    a_call_without_a_block,
    a_call_taken_over,
    a_call_and_its_store,
    recovered_one_by_one,
    recovered_by_a_handler,
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_a_call_is_whole_and_nobodys_whenever_it_is_cancelled(
    store: SidecarStore, operator: SidecarStore, scenario: Scenario
) -> None:
    before = tasks()
    numbers = count()

    async def remains() -> list[str]:
        held = [found.state.id async for found in operator.sessions(status="active") if found.owner == "w1"]
        unanswered = len(store._connection._pending) + len(store._held.undelivered)
        return [*held, *(tasks() - before), *["a request"] * unanswered]

    async for _ in cancelled_at_each_step(lambda: scenario(store, f"c{next(numbers)}")):
        await until_nothing(remains)
        async for found in operator.sessions():
            said = [turn.content for turn in (await store.load(found.state.id)).history]
            assert said == [str(number) for number, _ in enumerate(said, 1)] or said == ["1", "2", "3x"]
            await operator.delete(found.state.id)


@pytest.mark.timeout(300)
async def test_a_store_is_closed_whenever_its_connecting_or_closing_is_cancelled(
    daemon: Daemon, operator: SidecarStore
) -> None:
    async def connected() -> None:
        async with connect(daemon.socket, worker_id="w2") as store, store.hold(SessionState("c1")) as call:
            await call.add_turn("user", "1")

    before = tasks()

    async def remains() -> list[str]:
        connected = [found.worker_id async for found in operator.workers() if found.connections]
        return [*(name for name in connected if name == "w2"), *(tasks() - before)]

    async for _ in cancelled_at_each_step(connected):
        await until_nothing(remains)
        with suppress(SessionNotFoundError):
            await operator.delete("c1")


def tasks() -> set[str]:
    """The names of the tasks that there are, other than the present one."""
    present = asyncio.current_task()
    return {task.get_name() for task in asyncio.all_tasks() if task is not present}


async def until_nothing(remains: Callable[[], Awaitable[list[str]]]) -> None:
    """Return once nothing remains of what goes on in the background."""
    left = ["not asked yet"]
    for _ in range(ROUND_TRIPS):
        left = await remains()
        if not left:
            return
    raise AssertionError(left)
