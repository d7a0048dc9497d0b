"""States in which a Redis answers and takes no writes, or none of some kind: how each begins, and how it ends."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from support.redis_contents import PREFIX
from support.redis_server import RedisServer

OPTIONS = ("rdbcompression no", "loading-process-events-interval-bytes 1024", "busy-reply-threshold 50")
"""Configuration that the states need: small steps, so that a server that is loading answers that it is."""

LOADED = 400
"""Sessions in a server that takes a few seconds to load them."""


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
        """Let it load the rest, however much that is, without delay; and what it loads later on as well."""
        self._redis.configure("key-load-delay 0")
        await self._command("CONFIG", "SET", "key-load-delay", "0")
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
