"""A store that is away, behind a real daemon: nobody waits for it, and what is said of it is never old."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from callstate_client import SessionState, SidecarStore, StoreUnavailableError, connect
from support.daemon import Daemon
from support.redis_server import RedisServer, binaries

pytestmark = pytest.mark.system
on_uvloop = pytest.mark.asyncio(loop_factories=["uvloop"])

STORE_AWAY = r"the store is"


@pytest.fixture(params=binaries())
def redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(binaries()[request.param]) as server:
        yield server


@asynccontextmanager
async def daemon_behind(redis: RedisServer, *args: str) -> AsyncIterator[tuple[Daemon, SidecarStore]]:
    daemon = Daemon(*args, store=redis.url)
    try:
        await daemon.in_thread("start")
        async with connect(daemon.socket) as store:
            yield daemon, store
    finally:
        daemon.close(expect=STORE_AWAY)


async def event(store: SidecarStore, type_: str, *, when: object = None) -> dict[str, object]:
    """The next event of a type."""
    async for each in store.events(type_):
        return {"type": each.type, "error": each.error}
    raise AssertionError("the events ended")


@on_uvloop
async def test_an_idle_daemon_notices_that_redis_hangs_and_nobody_waits_for_it(redis: RedisServer) -> None:
    async with daemon_behind(redis) as (_, store):
        await store.save(SessionState("hot"))
        await store.flush()
        told = asyncio.ensure_future(event(store, "store.down"))
        await asyncio.sleep(0)
        redis.pause()
        async with asyncio.timeout(10):
            await told
        assert (await store.stats())["store"] == "down"
        started = time.monotonic()
        for number in range(20):
            with pytest.raises(StoreUnavailableError):
                await store.load(f"unknown-{number}")
            await store.save(SessionState(f"new-{number}"), if_version=0)
        assert time.monotonic() - started < 1.0, "40 misses, and store.timeout_s is 2"
        redis.resume()
        assert (await store.flush(timeout_s=20)).unflushed == 0
        assert (await store.stats())["store"] == "up"
        assert b"new-19" in redis.command("SMEMBERS", "voicesession:active")


@on_uvloop
async def test_a_daemon_whose_redis_hangs_stops_without_waiting_for_it(redis: RedisServer) -> None:
    async with daemon_behind(redis, "--set", "server.shutdown_flush_s=15") as (daemon, store):
        redis.pause()
        await store.save(SessionState("c1"), if_version=0)
        async with asyncio.timeout(10):
            await event(store, "store.down")
        started = time.monotonic()
        await daemon.in_thread("terminate")
        assert time.monotonic() - started < 8.0
        assert "1 sessions not yet in the store; the journal has them" in daemon.log()
        redis.resume()
        await daemon.in_thread("start")
        assert (await store.flush(timeout_s=20)).unflushed == 0
        assert b'"c1"' in redis.command("GET", "voicesession:c1")
