"""A redis-py client without automatic retries, with a bound on every wait, and with two kinds of error.

redis-py's defaults don't suit a store of live calls: retries replay writes, a call to a stopped server takes a
minute, and RESP3 reuses dead idle connections. Any failure, including exceptions that leak through redis-py,
becomes StoreDownError (no answer) or StoreRefusingError (the answer is an error that concerns the whole server).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import hiredis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from callstate_client.engine.sessions.stored import StoreDownError
from callstate_sidecar.stores.redis.errors import translate
from callstate_sidecar.stores.redis.scripts import Script

_SCHEMES: Final = ("redis", "rediss", "unix")
_BARE: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[\w.-]+):\d{1,5}(?:/\d+)?")

BIG_BYTES: Final = 256 * 1024
"""Arguments above this size are sent without being copied: hiredis takes a millisecond for each megabyte."""


def normal_url(url: str) -> str:
    """The URL in the form redis-py takes; `host:port` becomes `redis://host:port`.

    Raises:
        ValueError: it is none of `redis:// rediss:// unix://` or `host:port`. Sentinel and cluster
            URLs are not supported. The message never quotes the URL, which may contain a password.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        if _BARE.fullmatch(url) is None:
            raise ValueError("a Redis address is redis://, rediss://, unix:///path or host:port")
        return f"redis://{url}"
    if scheme in ("redis+sentinel", "redis+cluster"):
        raise ValueError(f"{scheme}:// is not supported; name one server by redis://, rediss:// or unix://")
    if scheme not in _SCHEMES:
        raise ValueError(f"{scheme}:// is no Redis URL; use redis://, rediss:// or unix://")
    return url


def connect(url: str, *, connections: int, timeout_s: float, password: str | None = None) -> Redis:
    """A client that connects at its first command.

    Args:
        url: as for `normal_url`; parameters in its query take precedence.
        connections: at most so many at a time; further commands wait for a free one.
        timeout_s: longest wait for a connection, for connecting, and for each reply, seconds.
        password: used if the URL has none.
    """
    pool = BlockingConnectionPool.from_url(
        normal_url(url),
        max_connections=connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        password=password,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
    )
    pool.connection_class = type("PackingConnection", (_Packing, pool.connection_class), {})
    return Redis(connection_pool=pool)


class _Packing:
    """A connection mixin that packs pipelines in C. redis-py's asynchronous connections pack in Python, argument by
    argument, even with hiredis installed, which is half the cost of short sessions. Single commands are left to
    it."""

    def pack_commands(self, commands: Iterable[Sequence[Any]]) -> list[bytes]:
        """The commands encoded for the wire."""
        packed: list[bytes] = []
        for command in commands:
            if any(isinstance(word, bytes) and len(word) > BIG_BYTES for word in command):
                packed += _pack_uncopied(command)
            else:
                packed.append(hiredis.pack_command(tuple(command)))
        return packed


def _pack_uncopied(command: Sequence[Any]) -> Iterator[bytes]:
    """Encode a command in pieces, as a RESP array of bulk strings, without copying its arguments."""
    yield b"*%d\r\n" % len(command)
    for word in command:
        data = word if isinstance(word, bytes) else str(word).encode()
        yield b"$%d\r\n" % len(data)
        yield data
        yield b"\r\n"


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
