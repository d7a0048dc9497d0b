"""A Redis that answers and takes no writes, for each reason there is: calls go on, it is said why, and it mends.

`docs/operations.md` has the table of all states, and where each is tested.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from redis.asyncio import Redis

from callstate_client import SessionState, connect
from support.daemon import Daemon
from support.redis_contents import PREFIX, check_redis
from support.redis_server import RedisServer, binaries

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_factories=["uvloop"])]

LOADED = 400
"""Sessions in a server that takes a few seconds to load them."""


@pytest.fixture(params=binaries())
def redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    # small steps, so that a server that is loading answers that it is
    options = ("rdbcompression no", "loading-process-events-interval-bytes 1024", "busy-reply-threshold 50")
    with RedisServer(binaries()[request.param], *options) as server:
        yield server


@pytest.fixture
async def daemon(redis: RedisServer) -> AsyncIterator[Daemon]:
    daemon = Daemon("--set", "store.timeout_s=1", store=redis.url)
    await daemon.in_thread("start")
    yield daemon
    await asyncio.to_thread(daemon.close, expect="the store")


class State:
    """A state of the server: how to bring it about, what `store_error` says, and how to end it."""

    error = ""

    def __init__(self, redis: RedisServer) -> None:
        self._redis = redis
        self._tasks: list[asyncio.Future[object]] = []

    async def begin(self) -> None:
        """Bring it about."""

    async def end(self) -> None:
        """Mend it."""

    async def _command(self, *words: str) -> None:
        reply = await asyncio.to_thread(self._redis.command, *words)
        assert not reply.startswith(b"-"), reply


class ReadOnly(State):
    error = "read only replica"

    async def begin(self) -> None:
        await self._command("REPLICAOF", "127.0.0.1", "1")

    async def end(self) -> None:
        await self._command("REPLICAOF", "NO", "ONE")


class OutOfMemory(State):
    error = "maxmemory"

    async def begin(self) -> None:
        await self._command("CONFIG", "SET", "maxmemory", "1")

    async def end(self) -> None:
        await self._command("CONFIG", "SET", "maxmemory", "0")


class NoReplicas(State):
    error = "NOREPLICAS"

    async def begin(self) -> None:
        await self._command("CONFIG", "SET", "min-replicas-to-write", "1")

    async def end(self) -> None:
        await self._command("CONFIG", "SET", "min-replicas-to-write", "0")


class NoAuth(State):
    error = "NOAUTH"

    async def begin(self) -> None:
        async with Redis.from_url(self._redis.url, protocol=2) as raw:
            await raw.config_set("requirepass", "secret")
            await raw.client_kill_filter(_type="normal", skipme=True)

    async def end(self) -> None:
        async with Redis.from_url(self._redis.url, password="secret", protocol=2) as raw:  # noqa: S106
            await raw.config_set("requirepass", "")


class NoPermission(State):
    error = "permission|can't run"

    async def begin(self) -> None:
        await self._command("ACL", "SETUSER", "default", "-set", "-setrange")

    async def end(self) -> None:
        await self._command("ACL", "SETUSER", "default", "+set", "+setrange")


class Busy(State):
    error = "BUSY"

    async def begin(self) -> None:
        async def run() -> None:
            async with Redis.from_url(self._redis.url, protocol=2, socket_timeout=60) as raw:
                await raw.eval("while true do end", 0)

        self._tasks.append(asyncio.ensure_future(run()))
        async with asyncio.timeout(20), Redis.from_url(self._redis.url, protocol=2) as raw:
            while True:
                try:
                    await raw.ping()
                except Exception as error:  # noqa: BLE001 - whatever redis-py makes of it
                    if "BUSY" in str(error):
                        return
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        await self._command("SCRIPT", "KILL")
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Loading(State):
    error = "BusyLoading|loading|LOADING"

    async def begin(self) -> None:
        async with Redis.from_url(self._redis.url, protocol=2) as raw:
            await raw.mset({f"filler-{number}": "x" * 2000 for number in range(LOADED)})
            await raw.save()
        await asyncio.to_thread(self._redis.kill)
        self._redis.configure("key-load-delay 10000")  # microseconds a key
        await asyncio.to_thread(self._redis.start, until="Server initialized")

    async def end(self) -> None:
        await asyncio.to_thread(self._redis.wait_log)


class SavingFails(State):
    """The server can't write its snapshot: with `stop-writes-on-bgsave-error`, the default, it takes no writes."""

    error = "MISCONF"

    async def begin(self) -> None:
        async with Redis.from_url(self._redis.url, protocol=2) as raw:
            await raw.config_set("save", "3600 1000000")
            self._redis.socket.parent.joinpath("dump.rdb").mkdir()
            await raw.bgsave()
            async with asyncio.timeout(20):
                while (await raw.info("persistence"))["rdb_last_bgsave_status"] != "err":
                    await asyncio.sleep(0.01)

    async def end(self) -> None:
        self._redis.socket.parent.joinpath("dump.rdb").rmdir()
        async with Redis.from_url(self._redis.url, protocol=2) as raw:
            await raw.save()


class WrongType(State):
    error = "is a string, not a set"

    async def begin(self) -> None:
        await self._command("RENAME", PREFIX + "active", "kept")
        await self._command("SET", PREFIX + "active", "x")

    async def end(self) -> None:
        await self._command("RENAME", "kept", PREFIX + "active")


STATES = (ReadOnly, OutOfMemory, NoReplicas, NoAuth, NoPermission, Busy, Loading, SavingFails, WrongType)


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
