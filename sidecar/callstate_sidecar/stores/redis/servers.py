"""The servers behind one URL, in the form that ScriptClient uses them: one of them, or a cluster.

Errors are redis-py's own here; `ScriptClient` translates them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from callstate_sidecar.slices import Slices
from callstate_sidecar.stores.redis.connections import Connector
from callstate_sidecar.stores.redis.pool import Pool
from callstate_sidecar.stores.redis.suitability import verify_standalone

Words = tuple[Any, ...]
"""A command and its arguments."""


class Command(NamedTuple):
    """A command, and one of its keys, which tells the server it goes to."""

    key: bytes
    words: Words


class Servers(Protocol):
    """What a URL names."""

    @property
    def clustered(self) -> bool:
        """Whether the keys of one script have to be in one hash slot."""
        ...

    @property
    def away(self) -> str:
        """Which of the servers do not answer while others do, in words; empty for none."""
        ...

    async def verify(self) -> None:
        """See that the servers are what the URL says.

        Raises:
            UnsuitableServerError: they are something else; says which URL to use.
        """
        ...

    async def execute(self, command: Command, limit_s: float | None = None) -> Any:
        """Run one command within so many seconds; returns its reply, as Redis sends it."""
        ...

    async def pipeline(self, commands: Sequence[Command], behind: Sequence[Words] = ()) -> list[Any]:
        """Run commands in one round trip to each server concerned, and after them the commands `behind` on each.

        Returns:
            one reply each, or the ResponseError that it failed with, or NodeAwayError; then those of `behind`,
            server by server that is not away.
        """
        ...

    async def each_primary(self, *words: Any) -> list[Any]:
        """Run a command without keys on every primary that is not away; returns the replies as Redis sends them."""
        ...

    async def slot_tags(self) -> list[bytes]:
        """For each primary a text that, in braces, puts a key into one of its slots; a single empty one if there
        are no slots."""
        ...

    async def scan(self, cursor: str, *args: Any) -> tuple[list[Any], str]:
        """One SCAN step over the keys of all primaries: keys, and the next cursor, empty after the last."""
        ...

    async def ping(self) -> None:
        """Return once all primaries have answered, and are still the primaries."""
        ...

    async def disconnect(self, *, in_use: bool) -> None:
        """Close the connections: all of them, or those that nobody uses now."""
        ...


class OneServer:
    """One server.

    Args:
        client: of redis-py; this object does not close it, only its connections.
        connector: of the URL that the client was made from; None if it is the caller's.
    """

    clustered = False
    away = ""

    def __init__(self, client: Redis, connector: Connector | None = None) -> None:
        self._client = client
        self._connector = connector

    async def verify(self) -> None:
        """See that it is neither a sentinel nor a node of a cluster."""
        if self._connector is not None:
            await verify_standalone(self._connector)

    async def execute(self, command: Command, limit_s: float | None = None) -> Any:
        """Run one command."""
        pool: Any = self._client.connection_pool
        if not isinstance(pool, Pool):  # the caller's client, whose settings for retries count
            async with asyncio.timeout(limit_s):
                execute: Any = self._client.execute_command  # untyped in some versions of redis-py
                return await execute(*command.words)
        connection = pool.take()
        if connection is not None:
            reply = await _ask(pool, connection, command.words, limit_s)
        else:
            async with asyncio.timeout(limit_s):
                reply = await _ask(pool, await pool.get_connection(), command.words)
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    async def pipeline(self, commands: Sequence[Command], behind: Sequence[Words] = ()) -> list[Any]:
        """Run commands in one round trip."""
        return await pipeline(self._client, [*(command.words for command in commands), *behind])

    async def each_primary(self, *words: Any) -> list[Any]:
        """Run a command."""
        return [await self.execute(Command(b"", words))]

    async def slot_tags(self) -> list[bytes]:
        """None is needed."""
        return [b""]

    async def scan(self, cursor: str, *args: Any) -> tuple[list[Any], str]:
        """One SCAN step."""
        after, keys = await self.execute(Command(b"", ("SCAN", cursor or 0, *args)))
        return keys, next_cursor(after)

    async def ping(self) -> None:
        """Return once it has answered."""
        await self.execute(Command(b"", ("PING",)))

    async def disconnect(self, *, in_use: bool) -> None:
        """Close its connections."""
        await disconnect(self._client, in_use=in_use)


async def _ask(pool: Pool, connection: Any, words: Words, limit_s: float | None = None) -> Any:
    """Run one command on a connection, and give that back."""
    try:
        return await connection.ask(words, limit_s)
    except BaseException:  # what else arrives on it would be taken for the reply to the next command
        await connection.disconnect(nowait=True)
        raise
    finally:
        pool.give_back(connection)


async def pipeline(client: Redis, commands: Sequence[Words]) -> list[Any]:
    """Run commands in one round trip, packed and answered in slices. The client is of a `Connector`.

    Returns:
        the replies as Redis sends them, or the ResponseErrors.
    """
    pool: Any = client.connection_pool  # untyped in some versions of redis-py
    connection = await pool.get_connection()
    slices = Slices()
    packed: list[bytes] = []
    replies: list[Any] = []
    try:
        for words in commands:
            packed += connection.pack_commands((words,))
            await slices.give_way()
        await connection.send_packed_command(packed)
        slices.begin()
        for _ in commands:
            replies.append(await connection.next_reply())
            await slices.give_way()
    except BaseException:  # as above
        await connection.disconnect(nowait=True)
        raise
    finally:
        await pool.release(connection)
    return replies


async def disconnect(client: Redis, *, in_use: bool) -> None:
    """Close a client's connections: all of them, or those that nobody uses now."""
    with suppress(Exception):  # the peer is gone; there is nobody to say goodbye to
        await client.connection_pool.disconnect(inuse_connections=in_use)


def next_cursor(after: Any) -> str:
    """The cursor of SCAN's and SSCAN's reply as a text, empty at the end."""
    return "" if int(after) == 0 else str(int(after))
