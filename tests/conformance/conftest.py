"""Which stores the conformance suite runs over. A new one needs an entry in `FACTORIES`, nothing else."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from redis.asyncio import Redis

from callstate_client.client import connect
from callstate_client.memory import MemoryStore
from callstate_client.store import SessionStore
from callstate_sidecar.stores.redis import RedisStore
from callstate_sidecar.stores.sqlite import SqliteStore
from support.daemon import Daemon
from support.redis_server import RedisServer, binaries


@dataclass
class Subject:
    """A store under test.

    Args:
        store: what is tested.
        expire: let a session's time run out, as if its ttl had passed; None where sessions have no ttl.
    """

    store: SessionStore
    expire: Callable[[str], Awaitable[None]] | None = None


@dataclass
class Surroundings:
    """What a factory may use: a directory of the test's own, and what was started for all of them."""

    directory: Path
    servers: dict[str, RedisServer]
    daemon: Daemon


Factory = Callable[[Surroundings], AbstractAsyncContextManager[Subject]]


@asynccontextmanager
async def memory(_: Surroundings) -> AsyncIterator[Subject]:
    store = MemoryStore()
    yield Subject(store)
    await store.close()


@asynccontextmanager
async def sqlite(around: Surroundings) -> AsyncIterator[Subject]:
    path = around.directory / "sessions.db"
    store = SqliteStore(path)

    def forget(session_id: str) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE session SET expires_ms = 1 WHERE id = ?", (session_id,))
        connection.close()

    yield Subject(store, partial(asyncio.to_thread, forget))
    await store.close()


@asynccontextmanager
async def sidecar(around: Surroundings) -> AsyncIterator[Subject]:
    async with connect(around.daemon.socket) as store:
        yield Subject(store)
    # One daemon serves all tests; each finds it empty. An operator may delete what another owns, a worker not.
    async with connect(around.daemon.socket, register=False) as again:
        for session_id in [record.state.id async for record in again.sessions()]:
            await again.delete(session_id)


def redis_with(binary: str) -> Factory:
    @asynccontextmanager
    async def redis(around: Surroundings) -> AsyncIterator[Subject]:
        server = around.servers[binary]
        prefix = f"{uuid.uuid4()}:"
        store = RedisStore.from_url(server.url, prefix=prefix)
        async with Redis.from_url(server.url, protocol=2) as raw:

            async def expire(session_id: str) -> None:
                await raw.pexpireat(prefix + session_id, 1)

            yield Subject(store, expire)
        await store.close()

    return redis


FACTORIES: dict[str, Factory] = {
    "memory": memory,
    "sidecar": sidecar,
    "sqlite": sqlite,
    **{binary: redis_with(binary) for binary in binaries()},
}
# Those that forget by themselves what nobody renews.
EXPIRING = ["sqlite", *binaries()]


@pytest.fixture(scope="session")
def redis_servers() -> Iterator[dict[str, RedisServer]]:
    servers = {name: RedisServer(binary) for name, binary in binaries().items()}
    try:
        for server in servers.values():
            server.start()
        yield servers
    finally:
        for server in servers.values():
            server.close()


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    with Daemon() as daemon:
        yield daemon


@pytest.fixture
def surroundings(tmp_path: Path, redis_servers: dict[str, RedisServer], daemon: Daemon) -> Surroundings:
    return Surroundings(tmp_path, redis_servers, daemon)


@pytest.fixture(params=FACTORIES)
async def store(request: pytest.FixtureRequest, surroundings: Surroundings) -> AsyncIterator[SessionStore]:
    async with FACTORIES[request.param](surroundings) as subject:
        yield subject.store


@pytest.fixture(params=EXPIRING)
async def expiring(request: pytest.FixtureRequest, surroundings: Surroundings) -> AsyncIterator[Subject]:
    async with FACTORIES[request.param](surroundings) as subject:
        yield subject


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The daemon's target has its clients in processes of their own, of both loops in each test: once is enough."""
    twice = [
        item
        for item in items
        if isinstance(item, pytest.Function)
        and hasattr(item, "callspec")
        and item.callspec.params.get("target") == "daemon"
        and "uvloop" in item.callspec.id.split("-")
    ]
    if twice:
        config.hook.pytest_deselected(items=twice)
        items[:] = [item for item in items if item not in twice]
