"""Scripts and commands over redis-py, with two kinds of error.

Any failure, including exceptions that leak through redis-py, becomes StoreDownError (no answer) or
StoreRefusingError (the answer is an error that concerns the whole server).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from callstate_client.engine.sessions.stored import StoreDownError
from callstate_sidecar.config.redis_url import parse_redis_url
from callstate_sidecar.stores.redis.connections import Connector
from callstate_sidecar.stores.redis.errors import translate
from callstate_sidecar.stores.redis.scripts import Script


def connect(url: str, *, connections: int, timeout_s: float, password: str | None = None, name: str = "") -> Redis:
    """A client that connects at its first command.

    Args:
        url: see config/redis_url.py; options in its query take precedence.
        connections: at most so many at a time; further commands wait for a free one.
        timeout_s: longest wait for a connection, for connecting, and for each reply, seconds.
        password: used if the URL has none.
        name: CLIENT SETNAME of the connections; empty for none.

    Raises:
        ValueError: the URL is not as described. The message contains no password.
    """
    parsed = parse_redis_url(url)
    if parsed.topology != "standalone":
        raise ValueError(f"redis+{parsed.topology}:// is not supported yet")
    return Connector(parsed, connections=connections, timeout_s=timeout_s, password=password, name=name).server()


class ScriptCall(NamedTuple):
    """One run of a script."""

    script: Script
    keys: Sequence[bytes]
    args: Sequence[Any]


class ScriptClient:
    """Runs scripts and commands, and translates errors.

    Args:
        client: from `connect`, or the caller's own.
        owned: close the client with this object.
        limit_s: timeout of a whole `run`, seconds; None leaves it to the client's own timeouts.
    """

    def __init__(self, client: Redis, *, owned: bool, limit_s: float | None = None) -> None:
        self._client = client
        self._owned = owned
        self._limit_s = limit_s
        self._closed = False

    async def run(self, script: Script, keys: Sequence[bytes], *args: Any) -> Any:
        """Run a script; returns its reply.

        Raises:
            StoreDownError: no answer.
            StoreRefusingError: the answer is an error.
        """
        try:
            return await self.command("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:  # restarted, or a new server; EVAL also caches the script
            return await self.command("EVAL", script.text, len(keys), *keys, *args)

    async def command(self, *command: Any) -> Any:
        """Run one command; returns its reply. Raises as `run`, and NoScriptError."""
        self._check_open()
        try:
            async with asyncio.timeout(self._limit_s):
                execute: Any = self._client.execute_command  # untyped in some versions of redis-py
                return await execute(*command)
        except NoScriptError:
            raise
        except Exception as error:
            await self._drop_broken(error)
            raise translate(error) from error

    async def run_each(self, calls: Sequence[ScriptCall], behind: Sequence[tuple[Any, ...]] = ()) -> list[Any]:
        """Run scripts, then the commands `behind`, in one round trip.

        The timeout applies to each reply rather than to all of them, so a slow server may work through a large
        batch.

        Returns:
            one reply each, or the ResponseError that it failed with.

        Raises:
            StoreDownError: the connection failed; some of the calls may have been executed.
            StoreRefusingError: the server refused the connection.
        """
        replies = await self._pipeline(calls, behind)
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            for text in {calls[i].script.text for i in unknown}:
                await self.command("SCRIPT LOAD", text)
            again = await self._pipeline([calls[i] for i in unknown], behind)
            for i, reply in zip([*unknown, *range(len(calls), len(replies))], again, strict=True):
                replies[i] = reply
        return replies

    async def _pipeline(self, calls: Sequence[ScriptCall], behind: Sequence[tuple[Any, ...]]) -> list[Any]:
        self._check_open()
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for script, keys, args in calls:
                    pipe.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
                for command in behind:
                    pipe.execute_command(*command)
                return await pipe.execute(raise_on_error=False)
        except Exception as error:
            await self._drop_broken(error)
            raise translate(error) from error

    async def close(self) -> None:
        """Close the connections; may be called twice."""
        self._closed = True
        if self._owned:
            await self._disconnect(in_use=True)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreDownError("the store is closed")

    async def _drop_broken(self, error: Exception) -> None:
        """Drop connections that failed with an error unknown to redis-py, such as uvloop's RuntimeError for a
        closed transport: the pool would hand them out again and again."""
        if self._owned and not isinstance(error, RedisError | OSError):
            await self._disconnect(in_use=False)

    async def _disconnect(self, *, in_use: bool) -> None:
        with suppress(Exception):  # the peer is gone; there is nobody to say goodbye to
            await self._client.connection_pool.disconnect(inuse_connections=in_use)
