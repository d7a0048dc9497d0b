"""`hold(state, resume=True)`, and holding again what this store has only just left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from callstate_client import Clock, ConflictError, FencedError, MemoryStore, SessionState, UndeliveredError
from support.flaky import AWAY, FOR_EVER, FlakyStore, said

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture
async def store(clock: Clock) -> AsyncIterator[FlakyStore]:
    async with FlakyStore(clock, worker_id="w1") as store:
        yield store


def a_call() -> SessionState:
    return SessionState("c1", provider="twilio", created_at=START)


async def test_a_reaped_call_is_resumed_within_the_retention(store: FlakyStore, clock: Clock) -> None:
    other = store.worker("w2")
    await other.save(a_call())
    await other.add_turn("c1", "user", "hello", 900)
    other.kill_worker()
    clock.advance(31)
    record = await store.get("c1")
    assert (record.state.status, record.ended_reason) == ("ended", "worker_exited")
    async with store.hold(a_call(), resume=True) as call:
        assert (said(call.state), call.state.status, call.epoch) == (["hello"], "pending", record.epoch + 1)


async def test_the_block_that_loses_its_call_to_a_later_one_is_cancelled(store: FlakyStore) -> None:
    entered = asyncio.Event()

    async def stream() -> None:
        async with store.hold(a_call(), resume=True, cancel_on_lost=True) as call:
            call.add_turn("user", "hello")
            entered.set()
            await asyncio.Event().wait()

    first = asyncio.create_task(stream())
    await entered.wait()
    async with store.hold(a_call(), resume=True) as call:
        with pytest.raises(FencedError, match="taken over by a later block"):
            await first
        assert said(call.state) == ["hello"]
    assert (await store.get("c1")).ended_reason == "completed"


async def test_a_call_is_taken_over_with_all_that_it_has_queued_or_not_at_all(clock: Clock) -> None:
    async with FlakyStore(clock, worker_id="w1") as store:
        store.close_timeout_s = 0.01
        async with store.hold(a_call()) as first:
            store.fail("session.add_turn", AWAY, times=FOR_EVER)
            first.add_turn("user", "hello")
            with pytest.raises(UndeliveredError):
                await store.open_call(a_call(), resume=True)
        store.fail("session.add_turn", AWAY, times=0)
        store.close_timeout_s = 10.0
        async with store.hold(a_call(), resume=True) as call:
            assert said(call.state) == ["hello"]


async def test_a_claim_waits_for_the_release_of_the_block_before(clock: Clock) -> None:
    async with FlakyStore(clock, worker_id="w1") as store:
        store.close_timeout_s = 0.01
        store.fail("session.add_turn", AWAY, times=1)
        with pytest.raises(UndeliveredError):
            async with store.hold(a_call()) as first:
                first.add_turn("user", "hello")
                await first.release()
        store.close_timeout_s = 10.0
        async with store.hold("c1") as call:
            await call.add_turn("agent", "again")
            record = await store.get("c1")
            assert (record.owner, record.epoch, call.epoch) == ("w1", 1, 1)
            assert [turn.content for turn in record.state.history] == ["hello", "again"]


async def test_the_same_state_is_not_taken_from_another_store_of_the_process(store: FlakyStore) -> None:
    async with store.hold(a_call()), store.worker("w1") as same_worker:
        with pytest.raises(ConflictError, match="already held by this process"):
            await same_worker.open_call(a_call(), resume=True)


async def test_a_copy_of_a_new_state_is_new(store: MemoryStore) -> None:
    async with store.hold(a_call().copy()) as call:
        assert call.state.status == "active"
