"""Delivery of what a held call has queued: through cancellations, after the call was left, and in time or not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from callstate_client import (
    Clock,
    ConnectionLostError,
    RequestTimeoutError,
    SessionState,
    StoreClosedError,
    UndeliveredError,
)
from support.flaky import AWAY, FOR_EVER, START, FlakyStore, said


def delivering() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("callstate-outbox")]


# -- cancellation --


async def test_a_request_in_flight_when_its_task_is_cancelled_takes_effect_once(awaiting_store: FlakyStore) -> None:
    store = awaiting_store
    async with store.hold(SessionState("c1")) as call:
        store.fail("session.add_turn", ConnectionLostError("lost"), times=1, applied=True)
        first = call.add_turn("user", "1")
        await store.when_asked("session.add_turn", 1)
        (task,) = delivering()
        task.cancel()
        await asyncio.wait({task})
        assert not first.done()
        await call.add_turn("user", "2")
        assert first.done()
    assert said(await store.load("c1")) == ["1", "2"]


async def test_an_awaited_acknowledgement_arrives_although_the_task_was_cancelled(
    awaiting_store: FlakyStore,
) -> None:
    store = awaiting_store
    async with store.hold(SessionState("c1")) as call:
        store.fail("session.add_turn", AWAY, times=1)

        async def say() -> int:
            return await call.add_turn("user", "1")

        waits = asyncio.ensure_future(say())
        await store.when_asked("session.add_turn", 1)
        (task,) = delivering()
        task.cancel()
        assert await waits == call.version


async def leave_while_away(store: FlakyStore, left: asyncio.Event) -> None:
    async with store.hold(SessionState("c1")) as call:
        store.fail("session.add_turn", AWAY, times=FOR_EVER)
        call.add_turn("user", "1")
        left.set()


async def test_the_first_cancellation_waits_for_the_delivery(store: FlakyStore) -> None:
    left = asyncio.Event()
    task = asyncio.ensure_future(leave_while_away(store, left))
    await left.wait()
    await store.when_asked("session.add_turn", 1)
    task.cancel()
    await store.when_asked("session.add_turn", 2)
    assert not task.done()
    store.fail("session.add_turn", AWAY, times=0)
    with pytest.raises(asyncio.CancelledError):
        await task
    record = await store.get("c1")
    assert (record.turn_count, record.ended_reason) == (1, "completed")


async def test_the_second_cancellation_does_not_and_delivery_goes_on(
    store: FlakyStore, caplog: pytest.LogCaptureFixture
) -> None:
    left = asyncio.Event()
    task = asyncio.ensure_future(leave_while_away(store, left))
    await left.wait()
    await store.when_asked("session.add_turn", 1)
    for times in (2, 3):
        task.cancel()
        await store.when_asked("session.add_turn", times)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "2 never sent" in caplog.text
    store.fail("session.add_turn", AWAY, times=0)
    await asyncio.wait(delivering())
    record = await store.get("c1")
    assert (record.turn_count, record.ended_reason) == (1, "completed")


# -- not in time --


async def test_turns_left_in_the_outbox_are_delivered_in_the_background(
    store: FlakyStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.close_timeout_s = 0.05
    store.fail("session.add_turn", AWAY, times=FOR_EVER)
    with pytest.raises(UndeliveredError, match="there is no daemon") as caught:
        async with store.hold(SessionState("c1")) as call:
            call.add_turn("user", "1")
            call.add_turn("user", "2")
            call.record_interruption()
    assert (caught.value.unsent, caught.value.unknown, caught.value.going_on) == ({"c1": 4}, {}, True)
    assert len([record for record in caplog.records if "not acknowledged" in record.getMessage()]) == 1
    store.fail("session.add_turn", AWAY, times=0)
    await asyncio.wait(delivering())
    record = await store.get("c1")
    assert (said(record.state), record.ended_reason) == (["1", "2"], "completed")
    assert not store._held.undelivered


@pytest.mark.parametrize(
    ("failure", "unsent", "unknown"),
    [(AWAY, 3, 0), (ConnectionLostError("gone"), 1, 2), (RequestTimeoutError("late"), 1, 2)],
    ids=["never sent", "lost", "late"],
)
async def test_an_unanswered_request_is_not_reported_as_refused(
    caplog: pytest.LogCaptureFixture, failure: Any, unsent: int, unknown: int
) -> None:
    store = FlakyStore(Clock(START))
    store.close_timeout_s = 0.05
    call = await store.hold(SessionState("c1")).__aenter__()
    store.fail("session.add_turn", failure, times=FOR_EVER, applied=failure is not AWAY)
    first, second = call.add_turn("user", "1"), call.add_turn("user", "2")
    call.update(status="active")
    with pytest.raises(UndeliveredError) as caught:
        await store.close()
    assert caught.value.unsent == {"c1": unsent}
    assert caught.value.unknown == ({"c1": unknown} if unknown else {})
    assert "refused" not in caplog.text
    assert ("outcome unknown" in caplog.text) is bool(unknown)
    for queued in (first, second):
        with pytest.raises(UndeliveredError):
            await queued
    assert not delivering()


async def test_closing_delivers_what_all_calls_have_and_releases_them(store: FlakyStore) -> None:
    other = store.worker("worker-2")
    calls = [await store.hold(SessionState(f"c{n}")).__aenter__() for n in range(3)]
    for call in calls:
        call.add_turn("user", "1")
    calls[1].end("hung_up")
    await store.close()
    records = [await other.get(f"c{n}") for n in range(3)]
    assert [record.turn_count for record in records] == [1, 1, 1]
    assert [record.ended_reason for record in records] == [None, "hung_up", None]
    assert {records[0].owner, records[2].owner} == {None}
    assert isinstance(calls[0].lost, StoreClosedError)
    with pytest.raises(StoreClosedError):
        await calls[0].leave(None)
    await calls[1].leave(None)


async def test_closing_tells_of_each_call_once(caplog: pytest.LogCaptureFixture) -> None:
    store = FlakyStore(Clock(START))
    store.close_timeout_s = 0.05
    calls = [await store.hold(SessionState(f"c{n}")).__aenter__() for n in range(3)]
    store.fail("session.add_turn", AWAY, times=FOR_EVER)
    for call in calls:
        for n in range(5):
            call.add_turn("user", str(n))
    with pytest.raises(UndeliveredError, match="3 calls") as caught:
        await store.close()
    assert caught.value.unsent == {"c0": 5, "c1": 5, "c2": 5}
    told = [record.getMessage() for record in caplog.records if "not acknowledged" in record.getMessage()]
    assert len(told) == 3
    assert store.closed


async def test_the_error_of_the_stores_block_goes_before(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="mine"):
        async with FlakyStore(Clock(START)) as store:
            store.close_timeout_s = 0.05
            call = await store.hold(SessionState("c1")).__aenter__()
            store.fail("session.add_turn", AWAY, times=FOR_EVER)
            call.add_turn("user", "1")
            raise ValueError("mine")
    assert "1 never sent" in caplog.text
