"""Heartbeats of one call, and the watchdog that its task reports to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from callstate_client import Clock, MemoryStore, SessionState
from callstate_client.calls.task import Watchdog

WITHIN_S = 10


class Heard:
    """What a watchdog has called."""

    def __init__(self) -> None:
        self.silent = asyncio.Event()
        self.back = asyncio.Event()

    def watchdog(self, timeout_s: float) -> Watchdog:
        return Watchdog(timeout_s, self.silent.set, self.back.set)


async def test_silence_is_noticed_and_so_is_its_end() -> None:
    heard = Heard()
    watchdog = heard.watchdog(0.01)
    for _ in range(2):
        async with asyncio.timeout(WITHIN_S):
            await heard.silent.wait()
        assert not heard.back.is_set()
        heard.silent.clear()
        watchdog.alive()
        assert heard.back.is_set()
        heard.back.clear()
    watchdog.stop()


@pytest.mark.parametrize(
    ("timeout_s", "prevent"), [(60, Watchdog.alive), (0.001, Watchdog.stop)], ids=["alive in time", "stopped"]
)
async def test_without_silence_nothing_is_called(timeout_s: float, prevent: Callable[[Watchdog], None]) -> None:
    heard, late = Heard(), Heard()
    watchdog = heard.watchdog(timeout_s)
    prevent(watchdog)
    other = late.watchdog(0.01)
    async with asyncio.timeout(WITHIN_S):
        await late.silent.wait()
    watchdog.alive()
    assert not heard.silent.is_set()
    assert not heard.back.is_set()
    watchdog.stop()
    other.stop()


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
async def test_some_time_it_needs(timeout_s: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Heard().watchdog(timeout_s)


# -- of a call ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore(Clock()) as store:
        yield store


async def test_a_call_whose_task_hangs_is_suspected_and_comes_back(store: MemoryStore) -> None:
    async with store.hold(SessionState("c1"), heartbeat_timeout_s=0.2, watchdog_s=0.02) as call:
        async with asyncio.timeout(WITHIN_S), store.events("suspect", "recovered") as events:
            assert (await anext(events)).type == "suspect"
            call.alive()
            assert (await anext(events)).type == "recovered"
        assert call.lost is None


async def test_another_timeout_begins_no_heartbeats_of_a_call_whose_task_hangs(store: MemoryStore) -> None:
    """A supervisor may change it."""
    async with store.hold(SessionState("c1"), heartbeat_timeout_s=60, watchdog_s=0.02) as call:
        heartbeats = call._heartbeats
        while not heartbeats._is_silent:
            await asyncio.sleep(0)
        await call.update(heartbeat_timeout_s=0.2)
        async with asyncio.timeout(WITHIN_S), store.events("suspect", "recovered") as events:
            assert (await anext(events)).type == "suspect"
            call.alive()
            assert (await anext(events)).type == "recovered"
        assert heartbeats._timeout_s == 0.2


async def test_a_call_whose_task_hangs_can_be_claimed(store: MemoryStore) -> None:
    async with store.worker("w2") as other:
        call = await store.open_call(SessionState("c1"), heartbeat_timeout_s=0.2, watchdog_s=0.02)
        async with asyncio.timeout(WITHIN_S), other.events("suspect") as events:
            await anext(events)
            assert await other.claim_next() is not None
            await call.wait_lost()
        call.alive()
        assert call.lost is not None


async def test_a_call_whose_task_reports_gets_heartbeats(store: MemoryStore) -> None:
    async with store.hold(SessionState("c1"), heartbeat_timeout_s=0.3, watchdog_s=0.2) as call:
        before = (await store.load("c1")).updated_at
        async with asyncio.timeout(WITHIN_S):
            while (await store.load("c1")).updated_at == before:
                call.alive()
                await asyncio.sleep(0.01)  # as its task would do


async def test_a_watchdog_has_nothing_to_do_with_manual_beats(store: MemoryStore) -> None:
    with pytest.raises(ValueError, match="manual"):
        store.hold(SessionState("c1"), beat="manual", watchdog_s=1)
    async with store.hold(SessionState("c1")) as call:
        call.alive()
