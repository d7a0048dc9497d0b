"""Connections to Redis that have ended while they were idle, which nobody has noticed yet: the server is up, and no
client is told otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from callstate_client.errors import SessionNotFoundError
from callstate_sidecar.stores.redis.backend import RedisBackend
from support.core import Core
from support.redis_server import RedisServer, binaries

READS = 8
"""More than there are connections for."""


@pytest.fixture(params=binaries(), scope="module")
def redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(binaries()[request.param], "appendonly yes") as server:
        yield server


def killed(redis: RedisServer) -> None:
    redis.command("CLIENT", "KILL", "TYPE", "normal")


def restarted(redis: RedisServer) -> None:
    redis.stop()
    redis.start()


@pytest.fixture(params=[killed, restarted])
def end(request: pytest.FixtureRequest, redis: RedisServer) -> Callable[[], None]:
    """Ends all connections, and gives the loop no turn to see that."""
    return lambda: request.param(redis)


@pytest.fixture
async def core(redis: RedisServer) -> AsyncIterator[Core]:
    """One that has used all its connections."""
    redis.command("FLUSHALL")
    core = Core(backend=RedisBackend(redis.url, ttl_s=3600, timeout_s=10, host_id="host-1"))
    await asyncio.gather(*(core.backend.read(f"absent-{number}") for number in range(READS)))
    await core.backend.ping()
    await core.save("live")
    await core.writer.write_round()
    yield core
    await core.backend.close()


async def load(core: Core) -> None:
    with pytest.raises(SessionNotFoundError):
        await core.call("session.load", session_id="absent")


async def loads(core: Core) -> None:
    await asyncio.gather(*(load(core) for _ in range(READS)))


async def create(core: Core) -> None:
    saved = await core.save("new", if_version=0)
    assert "unverified" not in saved


async def claim(core: Core) -> None:
    with pytest.raises(SessionNotFoundError):
        await core.call("session.claim", session_id="absent", worker_id="w1")


async def listing(core: Core) -> Any:
    assert (await core.call("session.list_active", scope="all"))["session_ids"] == ["live"]


async def write(core: Core) -> None:
    await core.turn("live")
    await core.writer.write_round()
    assert not core.table.dirty.sessions


async def ping(core: Core) -> None:
    core.clock.advance(60.0)
    await core.writer._watch.tick()


async def look_for_loss(core: Core) -> None:
    core.clock.advance(60.0)
    await core.writer.write_round()


async def sweep(core: Core) -> None:
    await core.writer._sweep.sweep()


@pytest.mark.parametrize("use", [load, loads, create, claim, listing, write, ping, look_for_loss, sweep])
async def test_the_store_is_up_for_everybody(
    core: Core, end: Callable[[], None], use: Callable[[Core], Awaitable[Any]]
) -> None:
    end()
    await use(core)
    assert core.writer.store.status == "up"
    assert not core.metrics.counters.get("store_failures")
    assert not core.table.quarantined
    await load(core)
