"""A redis-py client as we want it: no replays, a bound on every wait, and two kinds of error.

redis-py's defaults don't suit a store of live calls: its retries replay writes, a call against a stopped
server takes a minute, and RESP3 reuses dead idle connections.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import hiredis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from callstate_client.engine.sessions.stored import (
    StoreDownError,
    StoreRefusingError,
)
from callstate_sidecar.stores.redis.scripts import Script

_SCHEMES: Final = ("redis", "rediss", "unix")
_BARE: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[\w.-]+):\d{1,5}(?:/\d+)?")

_DETAIL_CHARS: Final = 200

BIG_BYTES: Final = 256 * 1024
"""Words of a command above this are not copied to be sent: hiredis takes a millisecond for each megabyte."""

# Redis before 7 says what went wrong inside a script in the middle of a sentence, after a dash.
_REFUSING: Final = re.compile(
    r"(?:^|-)(?:OOM|READONLY|LOADING|NOAUTH|WRONGPASS|NOPERM|MISCONF|NOREPLICAS|MASTERDOWN|BUSY|CLUSTERDOWN)\b"
    r"|unknown command"
)
# redis-py turns these codes into classes and cuts them off the text.
_REFUSING_CLASSES: Final = (
    AuthenticationError, AuthorizationError, BusyLoadingError, ClusterDownError, MasterDownError,
    NoPermissionError, OutOfMemoryError, ReadOnlyError,
)  # fmt: skip


def normal_url(url: str) -> str:
    """A URL redis-py takes; `host:port` becomes `redis://host:port`.

    Raises:
        ValueError: it is none of `redis:// rediss:// unix://` or `host:port`. Sentinel and cluster URLs are
            not served by this store. The text never quotes the URL, which may hold a password.
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
        url: as `normal_url` takes it; what its query says wins.
        connections: most connections at a time; who finds none free waits.
        timeout_s: longest wait for a connection, for connecting, and for each reply, seconds.
        password: where the URL has none.
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
    """Packs a pipeline in C. redis-py's asynchronous connections do it in Python, argument by argument, though
    hiredis is there: half of what short sessions cost the loop. Single commands are left to redis-py."""

    def pack_commands(self, commands: Iterable[Sequence[Any]]) -> list[bytes]:
        """Each command as it goes over the wire."""
        packed: list[bytes] = []
        for command in commands:
            if any(isinstance(word, bytes) and len(word) > BIG_BYTES for word in command):
                packed += _pack_uncopied(command)
            else:
                packed.append(hiredis.pack_command(tuple(command)))
        return packed


def _pack_uncopied(command: Sequence[Any]) -> Iterator[bytes]:
    """A command in pieces, by the Redis protocol (RESP) an array of bulk strings, its big words as they are."""
    yield b"*%d\r\n" % len(command)
    for word in command:
        data = word if isinstance(word, bytes) else str(word).encode()
        yield b"$%d\r\n" % len(data)
        yield data
        yield b"\r\n"


class ScriptClient:
    """Runs scripts through a client.

    Args:
        client: from `connect`, or the caller's own.
        owned: close the client with this object.
        limit_s: bound of a whole `run`, seconds; None leaves it to the client's own timeouts.
    """

    def __init__(self, client: Redis, *, owned: bool, limit_s: float | None = None) -> None:
        self._client = client
        self._owned = owned
        self._limit_s = limit_s
        self._closed = False

    async def run(self, script: Script, keys: Sequence[bytes], *args: Any) -> Any:
        """The script's reply.

        Raises:
            StoreDownError: no answer.
            StoreRefusingError: the answer is an error.
        """
        try:
            return await self.command("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:  # a server that was restarted or never seen; EVAL also keeps the script
            return await self.command("EVAL", script.text, len(keys), *keys, *args)

    async def command(self, *command: Any) -> Any:
        """One command's reply; raises as `run`, and NoScriptError."""
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

    async def run_each(
        self,
        script: Script,
        calls: Sequence[tuple[Sequence[bytes], Sequence[Any]]],
        behind: Sequence[tuple[Any, ...]] = (),
    ) -> list[Any]:
        """Each call's reply, or the ResponseError it met, in one round trip; then those of the commands behind.

        The wait for each reply is bounded, not that for all: a slow server may take its time over many.

        Raises:
            StoreDownError: the connection failed; some of the calls may have been done.
            StoreRefusingError: the connection was refused.
        """
        replies = await self._pipeline(script, calls, behind)
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            await self.command("SCRIPT LOAD", script.text)
            again = await self._pipeline(script, [calls[i] for i in unknown], behind)
            for i, reply in zip([*unknown, *range(len(calls), len(replies))], again, strict=True):
                replies[i] = reply
        return replies

    async def _pipeline(
        self,
        script: Script,
        calls: Sequence[tuple[Sequence[bytes], Sequence[Any]]],
        behind: Sequence[tuple[Any, ...]],
    ) -> list[Any]:
        self._check_open()
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for keys, args in calls:
                    pipe.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
                for command in behind:
                    pipe.execute_command(*command)
                return await pipe.execute(raise_on_error=False)
        except Exception as error:
            await self._drop_broken(error)
            raise translate(error) from error

    async def close(self) -> None:
        """Give up the connections; may be called twice."""
        self._closed = True
        if self._owned:
            await self._disconnect(in_use=True)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreDownError("the store is closed")

    async def _drop_broken(self, error: Exception) -> None:
        """Part with connections that failed in a way redis-py does not know, such as uvloop's RuntimeError of
        a closed transport: the pool would give them out again and again."""
        if self._owned and not isinstance(error, RedisError | OSError):
            await self._disconnect(in_use=False)

    async def _disconnect(self, *, in_use: bool) -> None:
        with suppress(Exception):  # the peer is gone; there is nobody to part with properly
            await self._client.connection_pool.disconnect(inuse_connections=in_use)


def is_refusal(error: Exception) -> bool:
    """Whether the server takes nothing from anybody now, rather than just this one."""
    return isinstance(error, _REFUSING_CLASSES) or (
        isinstance(error, ResponseError) and _REFUSING.search(str(error)) is not None
    )


def describe(error: Exception) -> str:
    """An error for logs: server errors name keys and commands, never documents."""
    return f"{type(error).__name__}: {str(error) or 'no answer'}"[:_DETAIL_CHARS]


def translate(error: Exception) -> StoreDownError | StoreRefusingError:
    """One of our two errors for any of redis-py's, and for what leaks through it from a reset peer."""
    if isinstance(error.__cause__, RedisError):  # over a Unix socket, a refused AUTH comes as ConnectionError
        return translate(error.__cause__)
    if isinstance(error, ResponseError) or is_refusal(error):
        return StoreRefusingError(describe(error))
    return StoreDownError(describe(error))
