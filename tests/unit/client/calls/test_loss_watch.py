"""What happens to a held call is known at once: the clock stands still, so no beat tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from callstate_client import (
    CallHandle,
    CallstateError,
    Clock,
    FencedError,
    MemoryStore,
    MethodNotFoundError,
    SessionEndedError,
    SessionNotFoundError,
    SessionState,
    StoreClosedError,
    StoreUnavailableError,
)
from support.flaky import FlakyStore

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
async def store() -> AsyncIterator[FlakyStore]:
    async with FlakyStore(Clock(START), worker_id="w1") as store:
        yield store


@pytest.fixture
async def other(store: FlakyStore) -> AsyncIterator[MemoryStore]:
    async with store.worker("w2") as other:
        yield other


def a_call(session_id: str = "c1") -> SessionState:
    return SessionState(session_id, status="active", created_at=START)


async def lost(call: CallHandle) -> CallstateError:
    async with asyncio.timeout(10):
        error = await call.wait_lost()
    assert call.lost is error
    return error


async def test_a_steal(store: FlakyStore, other: MemoryStore) -> None:
    with pytest.raises(FencedError):
        async with store.hold(a_call()) as call:
            await other.claim("c1", steal=True)
            error = await lost(call)
            assert isinstance(error, FencedError)
            assert (error.owner, error.epoch) == ("w2", 1)
            assert store.asked["session.heartbeat"] == 0


async def test_a_steal_that_was_released_at_once(store: FlakyStore, other: MemoryStore) -> None:
    call = await store.open_call(a_call())
    await other.claim("c1", steal=True)
    await other.release("c1", 1)
    assert isinstance(await lost(call), FencedError)


async def test_an_end_by_another_caller(store: FlakyStore) -> None:
    operator = store.worker(None)
    async with store.hold(a_call()) as call:
        await operator.end("c1", "operator")
        error = await lost(call)
        assert isinstance(error, SessionEndedError)
        assert error.reason == "operator"
    assert (await operator.get("c1")).ended_reason == "operator"
    await operator.close()


async def test_the_longest_it_may_last(store: FlakyStore) -> None:
    call = await store.open_call(a_call(), max_duration_s=60, heartbeat_timeout_s=3600)
    await asyncio.sleep(0)
    store.clock.advance(61)
    error = await lost(call)
    assert isinstance(error, SessionEndedError)
    assert error.reason == "max_duration"


async def test_a_deletion(store: FlakyStore) -> None:
    operator = store.worker(None)
    call = await store.open_call(a_call())
    await operator.delete("c1")
    assert isinstance(await lost(call), SessionNotFoundError)
    await operator.close()


async def test_the_holders_own_changes_are_not_a_loss(store: FlakyStore) -> None:
    async with store.hold(a_call()) as call:
        await call.add_turn("user", "hello")
        await call.end("done")
        await settled()
        assert call.lost is None
    with pytest.raises(StoreClosedError):
        await call.wait_lost()
    await store.save(a_call("c2"))
    async with store.hold("c2") as call:
        await store.claim("c2")
        await settled()
        assert call.lost is None


async def settled() -> None:
    """Let tasks that have something to do, do it: nothing here waits for time or for the outside."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_events_of_an_earlier_call_with_the_same_id_are_ignored(store: FlakyStore) -> None:
    async with store.hold(a_call("c0")):
        await settled()
        async with store.hold(a_call()):
            pass
        await store.delete("c1")
        async with store.hold(a_call()) as call:
            await settled()
            assert call.lost is None


async def test_a_wait_ends_when_the_call_is_left(store: FlakyStore) -> None:
    async with store.hold(a_call()) as call:
        waiting = asyncio.create_task(call.wait_lost())
        await asyncio.sleep(0)
    with pytest.raises(StoreClosedError, match="c1 is no longer held"):
        await waiting


# -- a block that is cancelled ------------------------------------------------------------------------------------


async def test_a_block_is_left_by_what_became_of_the_call(store: FlakyStore, other: MemoryStore) -> None:
    async def steal() -> None:
        await other.claim("c1", steal=True)

    with pytest.raises(FencedError, match="c1 was claimed by w2"):
        async with store.hold(a_call(), cancel_on_lost=True), asyncio.TaskGroup() as group:
            group.create_task(steal())
            await asyncio.sleep(3600)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert (await other.get("c1")).owner == "w2"


async def test_a_cancellation_from_outside_is_one(store: FlakyStore) -> None:
    began = asyncio.Event()

    async def handle() -> None:
        async with store.hold(a_call(), cancel_on_lost=True):
            began.set()
            await asyncio.sleep(3600)

    task = asyncio.create_task(handle())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await store.get("c1")).owner is None


# -- the subscription ---------------------------------------------------------------------------------------------


class WatchedStore(FlakyStore):
    subscriptions = 0
    refusal: CallstateError | None = None

    def events(self, *types: str, **options: Any) -> Any:
        self.subscriptions += 1
        if self.refusal is not None:
            raise self.refusal
        return super().events(*types, **options)


async def test_one_subscription_for_all_calls_and_none_before() -> None:
    async with WatchedStore(Clock(START)) as store:
        await store.save(a_call("c0"))
        await settled()
        assert store.subscriptions == 0
        for number in range(3):
            async with store.hold(a_call(f"c{number + 1}")):
                await settled()
        assert store.subscriptions == 1
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "callstate-watch"]


async def test_it_is_not_woken_by_what_others_do_with_their_own_calls() -> None:
    """On a host of many workers each would be woken by each call that ends."""
    async with FlakyStore(Clock(START)) as store, store.worker("w2") as other:
        call = await store.open_call(a_call("mine"))
        await settled()
        heard: list[tuple[str, str | None]] = []
        events = store.events("claimed", "ended", "deleted", worker_id=store.worker_id)
        async with events:
            theirs = await other.open_call(a_call("theirs"))
            await theirs.end("completed")
            await other.save(a_call("gone"))
            await other.claim("gone")
            await other.delete("gone")
            await store.save(a_call("ours"))
            await store.end("ours")
            await other.claim("mine", steal=True)
            while ("claimed", "mine") not in heard:
                event = await anext(events)
                heard.append((event.type, event.session_id))
        assert heard == [("ended", "ours"), ("claimed", "mine")]
        assert isinstance(await lost(call), FencedError)


async def test_one_that_is_cancelled_begins_again_with_the_next_call() -> None:
    async with WatchedStore(Clock(START)) as store, store.hold(a_call("c1")):
        await settled()
        for task in asyncio.all_tasks():
            if task.get_name() == "callstate-watch":
                task.cancel()
        await settled()
        async with store.hold(a_call("c2")):
            await settled()
            assert store.subscriptions == 2


async def test_a_daemon_without_events_gets_no_second_subscription() -> None:
    async with WatchedStore(Clock(START)) as store:
        store.refusal = MethodNotFoundError("no events")
        for number in range(3):
            async with store.hold(a_call(f"c{number}")):
                await settled()
        assert store.subscriptions == 1


async def test_a_call_that_can_not_be_loaded_is_not_lost(store: FlakyStore, other: MemoryStore) -> None:
    call = await store.open_call(a_call())
    await settled()
    store.fail("session.load", StoreUnavailableError("not now"), times=1)
    asked = store.asked["session.load"]
    await other.claim("c1", steal=True)
    await store.when_asked("session.load", asked + 1)
    await settled()
    assert call.lost is None


async def test_after_a_gap_all_calls_are_loaded() -> None:
    async with FlakyStore(Clock(START), events=1) as store, store.worker("w2") as other:
        call = await store.open_call(a_call())
        await settled()
        await other.claim("c1", steal=True)
        for number in range(3):  # more than are kept
            await other.save(a_call(f"other-{number}"))
            await other.end(f"other-{number}")
        assert isinstance(await lost(call), FencedError)


# -- a host that drains -------------------------------------------------------------------------------------------


async def test_draining_is_known_and_waited_for(store: FlakyStore) -> None:
    operator = store.worker(None)
    waiting = asyncio.create_task(store.wait_draining())
    await settled()
    assert not store.draining
    await operator.drain()
    async with asyncio.timeout(10):
        await waiting
    assert store.draining
    await store.wait_draining()
    await operator.drain(False)
    await settled()
    assert not store.draining
    await operator.close()


async def test_a_wait_for_draining_ends_with_the_store(store: FlakyStore) -> None:
    waiting = asyncio.create_task(store.wait_draining())
    await settled()
    await store.close()
    with pytest.raises(StoreClosedError):
        await waiting
