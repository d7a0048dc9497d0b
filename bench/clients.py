"""Two Python clients of Redis, reduced to the commands that the peers use."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final, Protocol

from redis.asyncio import Redis

TTL_S: Final = 86400


class Client(Protocol):
    """The commands that a peer needs. Methods return the client's own awaitable, to add nothing to its cost."""

    name: str

    def get(self, key: str) -> Awaitable[Any]:
        """The document under a key."""

    def put(self, key: str, document: bytes, members: str, member: str) -> Awaitable[Any]:
        """SET with a TTL, and SADD, in one round trip."""

    def heartbeat(self, key: str, member: str) -> Awaitable[Any]:
        """ZADD with the current time."""

    def push(self, key: str, value: bytes) -> Awaitable[Any]:
        """RPUSH."""

    def members(self, key: str) -> Awaitable[Any]:
        """SMEMBERS."""

    async def close(self) -> None:
        """Close the connections."""


REQUEST_TIMEOUT_MS: Final = 60_000
"""valkey-glide's default is 250 ms, and 256 tasks may wait longer for a long reply."""

MAX_CONNECTIONS: Final = 512
"""redis-py takes a connection for each command in flight, and its default limit is a hundred."""


class RedisPy:
    """redis-py, with its own connection pool."""

    name = "redis-py"

    def __init__(self, path: Path) -> None:
        self._redis: Any = Redis(unix_socket_path=str(path), max_connections=MAX_CONNECTIONS)
        self.get = self._redis.get
        self.push = self._redis.rpush
        self.members = self._redis.smembers

    async def put(self, key: str, document: bytes, members: str, member: str) -> None:
        """One pipeline."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.set(key, document, ex=TTL_S)
            pipe.sadd(members, member)
            await pipe.execute()

    def heartbeat(self, key: str, member: str) -> Awaitable[Any]:
        """One command."""
        return self._redis.zadd(key, {member: time.time()})  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Close the pool."""
        await self._redis.aclose()


class Glide:
    """valkey-glide: a core in Rust and one multiplexed connection."""

    name = "valkey-glide"

    def __init__(self, client: Any, expiry: Any, batch: Any) -> None:
        self._glide = client
        self._expiry = expiry
        self._batch = batch
        self.get = client.get
        self.members = client.smembers

    @classmethod
    async def connect(cls, path: Path) -> Glide:
        """Connect to this server."""
        import glide  # noqa: PLC0415 - in the `bench` extra; a quick run does not need it

        address = glide.NodeAddress(unix_socket_path=str(path))
        config = glide.GlideClientConfiguration([address], request_timeout=REQUEST_TIMEOUT_MS)
        client = await glide.GlideClient.create(config)
        return cls(client, glide.ExpirySet(glide.ExpiryType.SEC, TTL_S), glide.Batch)

    async def put(self, key: str, document: bytes, members: str, member: str) -> None:
        """One batch."""
        batch = self._batch(is_atomic=False)
        batch.set(key, document, expiry=self._expiry)
        batch.sadd(members, [member])
        await self._glide.exec(batch, raise_on_error=True)

    def heartbeat(self, key: str, member: str) -> Awaitable[Any]:
        """One command."""
        return self._glide.zadd(key, {member: time.time()})  # type: ignore[no-any-return]

    def push(self, key: str, value: bytes) -> Awaitable[Any]:
        """One command."""
        return self._glide.rpush(key, [value])  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Close the connection."""
        await self._glide.close()
