"""A Redis that answers and takes no writes, for each reason there is: calls go on, it is said why, and it mends.

`docs/operations.md` has the table of all states, and where each is tested.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from callstate_client import SessionState, connect
from support.daemon import Daemon
from support.redis_contents import check_redis
from support.redis_server import RedisServer, binaries
from support.redis_states import OPTIONS, STATES, Loading, State

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_factories=["uvloop"])]


@pytest.fixture(params=binaries())
def redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(binaries()[request.param], *OPTIONS) as server:
        yield server


@pytest.fixture
async def daemon(redis: RedisServer) -> AsyncIterator[Daemon]:
    daemon = Daemon("--set", "store.timeout_s=1", store=redis.url)
    await daemon.in_thread("start")
    yield daemon
    await asyncio.to_thread(daemon.close, expect="the store")


async def until(question: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it is so: a figure of another process has no event."""
    async with asyncio.timeout(20):
        while not await question():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", STATES, ids=lambda kind: kind.__name__)
async def test_calls_go_on_while_it_takes_no_writes(kind: type[State], redis: RedisServer, daemon: Daemon) -> None:
    state = kind(redis)
    async with connect(daemon.socket) as store, store.events("store.down", "store.up") as events:
        for session_id in ("live", "over"):
            await store.save(SessionState(session_id, status="active"))
        assert (await store.flush(timeout_s=20.0)).unflushed == 0
        await state.begin()
        started = time.monotonic()
        await store.add_turn("live", "user", "meanwhile")
        await store.end("over")
        await store.save(SessionState("new", status="active"), if_version=0)
        assert time.monotonic() - started < 1.5, "at most one wait of store.timeout_s, for the new one"

        async def is_refusing() -> bool:
            return (await store.stats())["store"] == "refusing"

        await until(is_refusing)
        stats = await store.stats()
        assert any(word in stats["store_error"] for word in state.error.split("|")), stats["store_error"]
        assert stats["dirty"] == 3
        assert stats["quarantined"] == 0
        async with asyncio.timeout(20):
            event = await anext(aiter(events))
        assert event.type == "store.down"
        if kind is not Loading:  # which ends by itself
            assert "refusing" in {finding.kind for finding in (await store.check()).findings}
        await state.end()
        async with asyncio.timeout(20):
            assert (await anext(aiter(events))).type == "store.up"
        await check_redis(redis, store, ["live", "over", "new"])
        assert (await store.stats())["store"] == "up"
    assert "the store is refusing" in daemon.log()
