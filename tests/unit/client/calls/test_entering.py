"""Entries into `hold` that are cancelled, time out, or are made again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from callstate_client import (
    CallStore,
    Clock,
    ConflictError,
    MemoryStore,
    RequestTimeoutError,
    SessionState,
    ShuttingDownError,
    StoreClosedError,
    UndeliveredError,
)
from callstate_client.calls.hold import Hold
from support.flaky import AWAY, FOR_EVER, FlakyStore

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class GatedStore(FlakyStore):
    """Whose replies wait, once they are held up."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gate = asyncio.Event()
        self.gate.set()
        self.done = asyncio.Event()

    async def request(self, method: str, params: Any = None, **options: Any) -> bytes:
        reply = await super().request(method, params, **options)
        if method in ("session.save", "session.claim", "session.claim_next"):
            self.done.set()
            await self.gate.wait()
        return reply


@pytest.fixture
async def store() -> AsyncIterator[GatedStore]:
    async with GatedStore(Clock(START), worker_id="w1") as store:
        yield store


@pytest.fixture
async def other(store: GatedStore) -> AsyncIterator[MemoryStore]:
    async with store.worker("w2") as other:
        yield other


def a_call(session_id: str = "c1") -> SessionState:
    return SessionState(session_id, status="active", created_at=START)


async def cancelled_entry(store: GatedStore, hold: Hold) -> None:
    """Cancelled when the store has done it and its reply is on the way."""
    store.gate.clear()
    store.done.clear()
    task = asyncio.create_task(hold.__aenter__())
    await store.done.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def released(events: Any) -> None:
    async with asyncio.timeout(10):
        assert (await anext(events)).type == "released"


@pytest.mark.parametrize("claimed", [False, True])
async def test_a_cancelled_entry_releases_its_call(store: GatedStore, other: MemoryStore, claimed: bool) -> None:
    if claimed:
        await other.save(a_call())
        await other.release("c1", 0)
    async with other.events("released") as events:
        await cancelled_entry(store, store.hold("c1" if claimed else a_call()))
        store.gate.set()
        await released(events)
    record = await other.claim_next()
    assert record is not None
    assert (record.state.id, record.owner, record.state.status) == ("c1", "w2", "active")


async def test_a_repeated_hold_joins_an_entry_in_progress(store: GatedStore, other: MemoryStore) -> None:
    hold = store.hold(a_call())
    await cancelled_entry(store, hold)
    store.gate.set()
    call = await hold.__aenter__()
    await call.add_turn("user", "hello")
    assert store.asked["session.save"] == 1
    assert (await other.get("c1")).owner == "w1"
    await hold.__aexit__(None, None, None)
    assert (await other.get("c1")).ended_reason == "completed"


async def test_the_same_hold_again_takes_back_what_was_released(store: GatedStore, other: MemoryStore) -> None:
    hold = store.hold(a_call())
    async with other.events("released") as events:
        await cancelled_entry(store, hold)
        store.gate.set()
        await released(events)
    async with hold as call:
        await call.add_turn("user", "hello")
        record = await other.get("c1")
        assert (record.owner, record.turn_count, record.epoch) == ("w1", 1, call.epoch)


async def test_the_same_hold_again_waits_for_a_release_that_is_still_on_its_way(
    store: GatedStore, other: MemoryStore
) -> None:
    """Sent after the new claim, it would release that one."""
    store.close_timeout_s = 0.01
    hold = store.hold(a_call())
    await cancelled_entry(store, hold)
    store.fail("session.release", AWAY, times=FOR_EVER)
    store.gate.set()
    await store.when_asked("session.release", 1)
    with pytest.raises(UndeliveredError):
        await hold.__aenter__()
    store.fail("session.release", AWAY, times=1)
    store.close_timeout_s = 10.0
    async with hold as call:
        await call.add_turn("user", "hello")
        record = await other.get("c1")
        assert (record.owner, record.epoch, call.epoch) == ("w1", 1, 1)


async def test_a_call_claimed_by_another_meanwhile_is_not_released(store: GatedStore, other: MemoryStore) -> None:
    hold = store.hold(a_call())
    async with other.events("released") as events:
        await cancelled_entry(store, hold)
        store.gate.set()
        await released(events)
    await other.claim("c1")
    with pytest.raises(ConflictError):
        await hold.__aenter__()
    assert (await other.get("c1")).owner == "w2"


async def test_an_entry_without_an_answer_releases_its_call(store: GatedStore, other: MemoryStore) -> None:
    store.fail("session.save", RequestTimeoutError("no answer"), times=1, applied=True)
    async with other.events("released") as events:
        with pytest.raises(RequestTimeoutError):
            await store.hold(a_call()).__aenter__()
        await released(events)


async def test_what_an_entry_without_an_answer_got_is_released_once_the_daemon_is_back(
    store: GatedStore, other: MemoryStore
) -> None:
    store.fail("session.save", RequestTimeoutError("no answer"), times=1, applied=True)
    store.fail("session.load", RequestTimeoutError("no answer"), times=1)
    store.fail("session.release", AWAY, times=1)
    async with other.events("released") as events:
        with pytest.raises(RequestTimeoutError):
            await store.hold(a_call()).__aenter__()
        await released(events)


async def test_what_another_entry_is_about_to_hold_is_not_released(store: GatedStore, other: MemoryStore) -> None:
    """An entry by another Hold gets the session in the same epoch."""
    store.fail("session.save", RequestTimeoutError("no answer"), times=1, applied=True)
    with pytest.raises(RequestTimeoutError):
        await store.hold(a_call()).__aenter__()
    store.gate.clear()
    entering = asyncio.create_task(store.hold("c1").__aenter__())
    await store.when_asked("session.load", 1)  # the session is this worker's, and is about to be released
    await store.done.wait()
    for _ in range(20):  # what would release it has read it by then
        await asyncio.sleep(0)
    store.gate.set()
    call = await entering
    await store._held.background.settle()
    assert (call.lost, (await other.get("c1")).owner) == (None, "w1")
    await call.release()


async def test_an_entry_without_an_answer_can_be_made_again(store: GatedStore, other: MemoryStore) -> None:
    store.fail("session.save", RequestTimeoutError("no answer"), times=1, applied=True)
    hold = store.hold(a_call())
    with pytest.raises(RequestTimeoutError):
        await hold.__aenter__()
    async with hold as call:
        await call.add_turn("user", "hello")
    record = await other.get("c1")
    assert (record.ended_reason, record.turn_count) == ("completed", 1)


async def test_a_held_call_is_not_released_by_the_entry_of_another_hold(store: GatedStore) -> None:
    async with store.hold(a_call()) as call:
        with pytest.raises(ConflictError, match="already held by this process"):
            await store.hold("c1").__aenter__()
        await store._held.background.settle()
        await call.add_turn("user", "hello")
        assert (await store.get("c1")).owner == "w1"


async def test_closing_the_store_ends_what_goes_on_in_the_background(
    store: GatedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callstate_client.calls.background.SETTLE_S", 0)
    await cancelled_entry(store, store.hold(a_call()))
    await store.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("callstate-")]
    with pytest.raises(StoreClosedError):
        await store.hold(a_call()).__aenter__()


async def test_a_store_that_is_being_closed_takes_no_call(store: GatedStore, other: MemoryStore) -> None:
    """Nothing would release it: the others have been released by then."""
    first = await store.open_call(a_call())
    store.fail("session.release", AWAY, times=1)
    closing = asyncio.create_task(store.close())
    await store.when_asked("session.release", 1)
    with pytest.raises(StoreClosedError):
        await store.hold(a_call("c2")).__aenter__()
    assert [call async for call in store.recover()] == []
    await closing
    assert isinstance(first.lost, StoreClosedError)
    assert await other.list_active() == ["c1"]
    assert (await other.get("c1")).owner is None


@pytest.mark.parametrize("enters", [True, False])
async def test_what_is_taken_while_the_worker_leaves_is_released(
    store: GatedStore, other: MemoryStore, enters: bool
) -> None:
    await other.save(a_call())
    await other.release("c1", 0)
    store.gate.clear()
    taking = asyncio.create_task(store.hold("c1").__aenter__() if enters else anext(store.recover(), None))
    await store.done.wait()
    assert await store.leave(0) == (0, 0)
    assert (await other.get("c1")).owner == "w1"
    store.gate.set()
    if enters:
        with pytest.raises(ShuttingDownError):
            await taking
    else:
        assert await taking is None
    assert (await other.get("c1")).owner is None


@pytest.mark.parametrize("enters", [True, False])
async def test_a_task_that_takes_a_call_is_told_that_the_store_is_closed(
    store: GatedStore, other: MemoryStore, monkeypatch: pytest.MonkeyPatch, enters: bool
) -> None:
    """And not cancelled, as the task is that does it in the background."""
    monkeypatch.setattr("callstate_client.calls.background.SETTLE_S", 0)
    await other.save(a_call("free"))
    method = "session.save" if enters else "session.claim_next"
    store.never_answers(method)
    taking = asyncio.create_task(store.hold(a_call()).__aenter__() if enters else anext(store.recover()))
    await store.when_asked(method, 1)
    await store.close()
    with pytest.raises(StoreClosedError):
        await taking


async def test_a_hold_is_one_block_at_a_time(store: CallStore) -> None:
    hold = store.hold(a_call())
    async with hold:
        with pytest.raises(RuntimeError, match="already held by this block"):
            await hold.__aenter__()


async def test_the_error_for_a_taken_id_says_what_is_there(store: GatedStore, other: MemoryStore) -> None:
    await other.save(a_call())
    with pytest.raises(
        ConflictError, match=r"c1 already exists: active, held by worker w2; hold\('c1'\)"
    ) as caught:
        await store.hold(a_call()).__aenter__()
    assert caught.value.version
    await other.end("c1", "transferred")
    with pytest.raises(ConflictError, match=r"c1 already exists and has ended at \S+ \(transferred\)"):
        await store.hold(a_call()).__aenter__()


# -- without a block ----------------------------------------------------------------------------------------------


class Hangup(Exception):  # noqa: N818 - a worker's own
    pass


@pytest.mark.parametrize(
    ("error", "reason"), [(None, "completed"), (Hangup(), "hangup"), (ExceptionGroup("", [Hangup()]), "hangup")]
)
async def test_a_call_without_a_block(store: GatedStore, error: BaseException | None, reason: str) -> None:
    call = await store.open_call(a_call(), labels={"app": "sales"}, end_on=Hangup)
    call.add_turn("user", "hello")
    await call.close(error)
    await call.close(error)
    record = await store.get("c1")
    assert (record.ended_reason, record.turn_count, record.labels) == (reason, 1, {"app": "sales"})


async def test_a_call_without_a_block_that_fails_is_released(store: GatedStore) -> None:
    call = await store.open_call(a_call())
    await call.close(OSError())
    record = await store.get("c1")
    assert (record.state.status, record.owner) == ("active", None)
