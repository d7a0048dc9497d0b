"""What holds a call: its epoch, what becomes of it when it is lost, and who beats for it then."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from callstate_client import (
    CallHandle,
    Clock,
    ConflictError,
    FencedError,
    MemoryStore,
    MethodNotFoundError,
    OverloadedError,
    SessionEndedError,
    SessionState,
)
from support.flaky import FlakyStore

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
async def store() -> AsyncIterator[FlakyStore]:
    async with FlakyStore(Clock(START), worker_id="w1") as store:
        yield store


@pytest.fixture
def other(store: FlakyStore) -> MemoryStore:
    """Another worker."""
    return store.worker("w2")


def a_call(session_id: str = "c1") -> SessionState:
    return SessionState(session_id, status="active", created_at=START)


# -- the epoch of a call that was created ---------------------------------------------------------------------


async def test_a_created_call_has_its_sessions_epoch(store: FlakyStore) -> None:
    async with store.hold(a_call()) as call:
        assert call.epoch == 0
        version = call.version
        await call.add_turn("user", "hello")
        assert (await store.get("c1")).epoch == 0
        assert call.version > version > 0


async def test_an_id_that_was_used_before_goes_on_from_its_epoch(store: FlakyStore, other: MemoryStore) -> None:
    await store.save(a_call())
    await other.claim("c1", steal=True)
    await other.delete("c1")
    async with store.hold(a_call()) as call:
        assert call.epoch == 1
        await call.add_turn("user", "hello")
    assert (await store.get("c1")).ended_reason == "completed"


MUTATIONS: dict[str, Callable[[CallHandle], Any]] = {
    "add_turn": lambda call: call.add_turn("user", "late"),
    "amend_last_turn": lambda call: call.amend_last_turn(content="late"),
    "record_interruption": lambda call: call.record_interruption(),
    "update": lambda call: call.update(status="on_hold"),
    "end": lambda call: call.end("late"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_a_claimed_call_accepts_nothing_from_a_store_without_a_worker_id(
    store: FlakyStore, other: MemoryStore, mutation: str
) -> None:
    """Who is not registered is an operator to the store: nothing but its epoch tells that its time is over."""
    operator = store.worker(None)
    with pytest.raises(FencedError):
        async with operator.hold(a_call(), beat="manual") as call:
            await call.add_turn("user", "hello")
            await other.claim("c1")
            with pytest.raises(FencedError) as caught:
                await MUTATIONS[mutation](call)
            assert (caught.value.epoch, caught.value.owner) == (1, "w2")
            if mutation != "end":
                assert isinstance(call.lost, FencedError)
            raise caught.value
    record = await other.get("c1")
    assert (record.state.status, record.state.history[-1].content, record.owner) == ("active", "hello", "w2")
    assert record.state.metrics.interruption_count == 0


async def test_a_stolen_and_released_call_accepts_nothing_from_its_first_owner(
    store: FlakyStore, other: MemoryStore
) -> None:
    with pytest.raises(FencedError):
        async with store.hold(a_call(), beat="manual"):
            await other.claim("c1", steal=True)
            await other.release("c1", 1)
    record = await other.get("c1")
    assert (record.state.status, record.owner) == ("active", None), "it is to be recovered, not ended"


async def test_what_the_reply_to_the_creation_says_is_not_asked_for(store: FlakyStore) -> None:
    _first = await store.hold(a_call("first")).open()  # referenced: one that is not is released
    await store.when_asked("session.load", 1)  # by what watches for losses, which begins with the first call
    store.asked.clear()
    call = await store.hold(a_call(), labels={"app": "sales"}).open()
    assert (call.epoch, call.labels) == (0, {"app": "sales"})
    assert store.asked == {"session.save": 1}


class OlderDaemon(FlakyStore):
    """Its reply to a save has no epoch."""

    async def request(self, method: str, params: Any = None, **options: Any) -> bytes:
        reply = await super().request(method, params, **options)
        return reply.replace(b'"epoch":0', b'"of_old":0') if method == "session.save" else reply


@pytest.fixture
async def older() -> AsyncIterator[OlderDaemon]:
    async with OlderDaemon(Clock(START), worker_id="w1") as store:
        yield store


async def test_the_epoch_of_a_call_created_by_an_older_daemon_is_read(older: OlderDaemon) -> None:
    _first = await older.hold(a_call("first")).open()
    await older.when_asked("session.load", 2)
    older.asked.clear()
    call = await older.hold(a_call()).open()
    assert call.epoch == 0
    assert older.asked == {"session.save": 1, "session.load": 1}


async def test_a_call_whose_epoch_can_not_be_read_is_held_nevertheless(older: OlderDaemon) -> None:
    older.fail("session.load", OverloadedError("not now"), times=1)
    async with older.hold(a_call()) as call:
        assert call.epoch is None
        await call.add_turn("user", "hello")
    assert (await older.get("c1")).ended_reason == "completed"
    older.fail("session.load", OverloadedError("not now"), times=1)
    async with older.hold(a_call("c2")) as call:
        await call.release()
    record = await older.get("c2")
    assert (record.owner, record.state.status) == (None, "active")


class Snatched(FlakyStore):
    """Somebody is very quick."""

    async def request(self, method: str, params: Any = None, **options: Any) -> bytes:
        reply = await super().request(method, params, **options)
        if method == "session.save":
            await self.worker("quick").claim("c1", steal=True)
        return reply


class SnatchedFromOlderDaemon(Snatched, OlderDaemon):
    """The same, and only a load tells."""


@pytest.mark.parametrize("worker_id", ["w1", None])
async def test_a_call_claimed_as_it_was_created_is_lost(worker_id: str | None) -> None:
    async with Snatched(Clock(START), worker_id=worker_id) as store:
        call = await store.hold(a_call()).open()
        assert call.epoch == 0
        with pytest.raises(FencedError) as caught:
            await call.add_turn("user", "hello")
        assert (caught.value.epoch, caught.value.owner) == (1, "quick")
        assert isinstance(call.lost, FencedError)


@pytest.mark.parametrize("worker_id", ["w1", None])
async def test_a_call_claimed_as_an_older_daemon_created_it_is_not_held(worker_id: str | None) -> None:
    async with SnatchedFromOlderDaemon(Clock(START), worker_id=worker_id) as store:
        with pytest.raises(FencedError, match="claimed by quick") as caught:
            await store.hold(a_call()).__aenter__()
        assert (caught.value.epoch, caught.value.owner) == (1, "quick")


async def test_a_session_that_is_there_is_not_looked_at_as_ours(store: FlakyStore, other: MemoryStore) -> None:
    await other.save(a_call())
    with pytest.raises(ConflictError):
        await store.hold(a_call()).__aenter__()


# -- leaving ------------------------------------------------------------------------------------------------------


async def test_leaving_a_call_that_is_anothers_says_so_and_changes_nothing(
    store: FlakyStore, other: MemoryStore
) -> None:
    with pytest.raises(FencedError):
        async with store.hold(a_call(), beat="manual") as call:
            await other.claim("c1", steal=True)
            with pytest.raises(FencedError):
                await call.beat()
            assert isinstance(call.lost, FencedError)
    record = await other.get("c1")
    assert (record.owner, record.state.status, record.epoch) == ("w2", "active", 1)


@pytest.mark.parametrize("end_on", [(), (ZeroDivisionError,)])
async def test_an_exception_goes_before_the_loss_of_the_call(
    store: FlakyStore, other: MemoryStore, end_on: tuple[type[BaseException], ...]
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with store.hold(a_call(), beat="manual", end_on=end_on):
            await other.claim("c1", steal=True)
            raise ZeroDivisionError
    record = await other.get("c1")
    assert (record.owner, record.state.status) == ("w2", "active")


async def test_leaving_a_reaped_call_does_not_change_it(store: FlakyStore) -> None:
    """An end repeated is no error, whoever ended it; what was lost before says so."""
    async with store.hold(a_call(), beat="manual") as call:
        store.clock.advance(100)
        with pytest.raises(SessionEndedError):
            await call.beat()
        assert isinstance(call.lost, SessionEndedError)
    assert (await store.get("c1")).ended_reason == "heartbeat_timeout"


@pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError(), KeyboardInterrupt()])
async def test_an_exit_that_does_not_end_the_call_leaves_it_to_the_next_worker(
    store: FlakyStore, other: MemoryStore, error: BaseException
) -> None:
    hold = store.hold(a_call())
    call = await hold.__aenter__()
    call.add_turn("user", "wait")
    await hold.__aexit__(type(error), error, None)
    record = await other.claim_next()
    assert record is not None
    assert (record.epoch, record.state.status, record.turn_count) == (1, "active", 1)


async def test_a_released_call_gets_heartbeats_from_its_new_holder(store: FlakyStore, other: MemoryStore) -> None:
    """A call lost and won back is held twice for a while; leaving the first must not silence the second."""
    outer = store.hold(a_call(), heartbeat_timeout_s=0.03)
    lost = await outer.__aenter__()
    await other.claim("c1", steal=True)
    async with store.hold("c1", steal=True, heartbeat_timeout_s=0.03) as call:
        with pytest.raises(FencedError):
            await lost.add_turn("user", "late")
        error = ValueError()
        await outer.__aexit__(ValueError, error, None)
        beats = store.asked["session.heartbeat"]
        await store.when_asked("session.heartbeat", beats + 3)
        assert (call.lost, call.epoch) == (None, 2)
    assert (await store.get("c1")).ended_reason == "completed"


# -- held twice ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steal", [False, True])
async def test_a_call_that_is_held_is_not_held_twice(store: FlakyStore, steal: bool) -> None:
    async with store.hold(a_call()) as call:
        with pytest.raises(ConflictError, match="already held by this process"):
            await store.hold("c1", steal=steal).__aenter__()
        await call.add_turn("user", "hello")
        assert (call.lost, call.epoch, (await store.get("c1")).owner) == (None, 0, "w1")


async def test_of_two_entries_at_once_one_holds(store: FlakyStore, other: MemoryStore) -> None:
    await other.save(a_call())
    await other.release("c1", 0)
    holds = store.hold("c1"), store.hold("c1")
    found = await asyncio.gather(*(hold.__aenter__() for hold in holds), return_exceptions=True)
    assert sorted(type(each).__name__ for each in found) == ["CallHandle", "ConflictError"]


async def test_another_store_of_the_same_worker_takes_it_only_by_stealing(store: FlakyStore) -> None:
    second = store.worker("w1")
    with pytest.raises(FencedError):  # the block's end is told that, too
        async with store.hold(a_call(), beat="manual") as call:
            with pytest.raises(ConflictError, match="already held by this process"):
                await second.hold("c1").__aenter__()
            async with second.hold("c1", steal=True) as taken:
                assert taken.epoch == 1
                with pytest.raises(FencedError):
                    await call.beat()
            assert isinstance(call.lost, FencedError)


async def test_a_released_call_can_be_held_again(store: FlakyStore) -> None:
    async with store.hold(a_call()) as call:
        await call.release()
        async with store.hold("c1") as again:
            assert again.epoch == 1


# -- by which timeout heartbeats are sent --------------------------------------------------------------------------


async def test_a_claim_gives_the_call_its_timeouts(store: FlakyStore, other: MemoryStore) -> None:
    await other.save(a_call(), heartbeat_timeout_s=6)
    await other.release("c1", 0)
    async with store.hold("c1", heartbeat_timeout_s=60, max_duration_s=600):
        (record,) = [record async for record in store.sessions()]
        assert (record.heartbeat_timeout_s, record.max_duration_s) == (60, 600)


async def test_heartbeats_follow_the_timeout_in_force(store: FlakyStore, other: MemoryStore) -> None:
    await other.save(a_call(), heartbeat_timeout_s=0.03)
    await other.release("c1", 0)
    async with store.hold("c1"):
        await store.when_asked("session.heartbeat", 3)


async def test_anothers_change_of_the_timeout_is_learned_with_the_next_beat(store: FlakyStore) -> None:
    async with store.hold(a_call(), heartbeat_timeout_s=0.3):
        await store.save(a_call(), heartbeat_timeout_s=0.03)
        await store.when_asked("session.heartbeat", 4)
        assert store._held.heartbeats._schedule._calls["c1"].interval_s == pytest.approx(0.01)  # type: ignore[attr-defined]


class Older(FlakyStore):
    """Whose daemon takes no timeouts with a claim."""

    async def features(self) -> frozenset[str]:
        return frozenset({"ownership"})

    async def request(self, method: str, params: Any = None, **options: Any) -> bytes:
        if method == "session.claim":
            assert (params.heartbeat_timeout_s, params.max_duration_s) == (None, None)
        return await super().request(method, params, **options)


async def test_heartbeats_to_an_older_daemon_follow_its_default_timeout() -> None:
    async with Older(Clock(START), worker_id="w1") as store:
        await store.save(a_call(), heartbeat_timeout_s=0.03)
        await store.release("c1", 0)
        async with store.hold("c1", heartbeat_timeout_s=60):
            await store.when_asked("session.heartbeat", 3)
        with pytest.raises(MethodNotFoundError, match="max_duration_s"):
            await store.hold("c2", max_duration_s=60).__aenter__()


# -- forgotten ----------------------------------------------------------------------------------------------------


async def test_a_call_whose_handle_is_dropped_is_released(
    store: FlakyStore, caplog: pytest.LogCaptureFixture
) -> None:
    call = await store.open_call(a_call(), heartbeat_timeout_s=0.03)
    call.add_turn("user", "hello")
    await store.when_asked("session.heartbeat", 1)
    async with store.events("released") as events:
        del call
        released = asyncio.ensure_future(anext(events))
        while not released.done():
            gc.collect()  # again: a heartbeat that is under way keeps it until then
            await asyncio.sleep(0)
        assert (await released).session_id == "c1"
    record = await store.get("c1")
    assert (record.owner, record.turn_count, record.state.status) == (None, 1, "active")
    assert "without being left or closed" in caplog.text
    assert len(store._held.heartbeats._schedule) == 0  # type: ignore[attr-defined]


async def test_dropping_a_handle_that_was_left_logs_nothing(
    store: FlakyStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with store.hold(a_call()):
        pass
    call = await store.open_call(a_call("c2"))
    await call.end()
    del call
    gc.collect()
    for _ in range(3):
        await asyncio.sleep(0)
    assert "without being left" not in caplog.text
    assert store.asked["session.release"] == 0
