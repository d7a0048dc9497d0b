from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from callstate_client import CallHandle, Clock, MemoryStore, SessionState, ShuttingDownError

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WITHIN_S = 10


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore(Clock(START), worker_id="w1") as store:
        yield store


class Talk:
    """A call in a task of its own, which ends when it is told to."""

    def __init__(self, store: MemoryStore, session_id: str, *, cancel_on_lost: bool = False) -> None:
        self.over = asyncio.Event()
        self.began = asyncio.Event()
        self.call: CallHandle | None = None
        self._hold = store.hold(SessionState(session_id, created_at=START), cancel_on_lost=cancel_on_lost)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self._hold as self.call:
            self.began.set()
            await self.over.wait()
            self.call.add_turn("agent", "goodbye")


async def talk(store: MemoryStore, session_id: str, *, cancel_on_lost: bool = False) -> Talk:
    talking = Talk(store, session_id, cancel_on_lost=cancel_on_lost)
    await talking.began.wait()
    return talking


async def test_calls_that_end_in_time_end(store: MemoryStore) -> None:
    one, two = await talk(store, "c1"), await talk(store, "c2")
    leaving = asyncio.create_task(store.leave(3600))
    await asyncio.sleep(0)
    for talking in (one, two):
        talking.over.set()
    async with asyncio.timeout(WITHIN_S):
        assert await leaving == (2, 0)
    await asyncio.gather(one.task, two.task)
    for session_id in ("c1", "c2"):
        record = await store.get(session_id)
        assert (record.ended_reason, record.turn_count) == ("completed", 1)


async def test_the_rest_is_released_with_what_it_has_queued(store: MemoryStore) -> None:
    talking = await talk(store, "c1", cancel_on_lost=True)
    call = await store.open_call(SessionState("c2", created_at=START))
    call.add_turn("user", "hello")
    assert await store.leave(0) == (0, 2)
    with pytest.raises(ShuttingDownError, match="c1 was released"):
        await talking.task
    assert isinstance(call.lost, ShuttingDownError)
    await call.close()
    async with store.worker("w2") as other:
        found = {record.state.id: record async for record in other.sessions()}
        assert {i: (r.owner, r.state.status, r.turn_count) for i, r in found.items()} == {
            "c1": (None, "active", 0),
            "c2": (None, "active", 1),
        }
        assert await other.claim_next() is not None


async def test_no_more_calls_are_taken(store: MemoryStore) -> None:
    async def recover() -> list[str]:
        return [call.id async for call in store.recover(watch=True)]

    recovering = asyncio.create_task(recover())
    for _ in range(5):
        await asyncio.sleep(0)
    await store.save(SessionState("c0", created_at=START))
    assert await store.leave() == (0, 0)
    async with asyncio.timeout(WITHIN_S):
        assert await recovering == []
    for hold in (store.hold(SessionState("c1")), store.hold("c0")):
        with pytest.raises(ShuttingDownError, match="this worker is shutting down"):
            await hold.__aenter__()
    with pytest.raises(ShuttingDownError):
        await store.open_call(SessionState("c1"))
    assert await recover() == []
    assert await store.list_active() == ["c0"], "the store is open"


async def test_a_block_of_ones_own_release_is_not_cancelled(store: MemoryStore) -> None:
    async with store.hold(SessionState("c1"), cancel_on_lost=True) as call:
        await call.release()
        await asyncio.sleep(0)


async def test_a_signal_requests_the_shutdown(store: MemoryStore) -> None:
    async with asyncio.timeout(WITHIN_S), store.graceful(3600) as leaving:
        talking = await talk(store, "c1")
        assert not leaving.began
        os.kill(os.getpid(), signal.SIGTERM)
        await leaving.wait()
        talking.over.set()
    assert leaving.result == (1, 0)
    await talking.task
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_a_second_signal_does_not_wait(store: MemoryStore) -> None:
    async with asyncio.timeout(WITHIN_S), store.graceful(3600, [signal.SIGTERM]) as leaving:
        talking = await talk(store, "c1", cancel_on_lost=True)
        for _ in range(2):
            leaving.begin()
    assert leaving.result == (0, 1)
    with pytest.raises(ShuttingDownError):
        await talking.task


async def test_leaving_the_block_is_asking_too(store: MemoryStore) -> None:
    async with store.graceful(0) as leaving:
        pass
    assert leaving.began
    assert leaving.result == (0, 0)
