"""redis-py clients that suit a store of live calls: no retries, RESP2, a bound on every wait.

redis-py's defaults replay writes, wait a minute for a stopped server, and reuse dead idle connections with RESP3.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from sys import getsizeof
from typing import Any, Final

import hiredis
from redis.asyncio import Connection, Redis, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, ResponseError  # noqa: A004

from callstate_sidecar.config.redis_url import RedisUrl
from callstate_sidecar.stores.redis.pool import Pool
from callstate_sidecar.stores.redis.replies import Answering, BrokenError

BIG_BYTES: Final = 256 * 1024
"""Arguments above this size are sent without being copied: hiredis takes a millisecond for each megabyte."""

BUFFERED_BYTES: Final = 64 * 1024
"""More than this is not left to the transport's buffer without waiting: asyncio's high-water mark."""

Node = tuple[str, int]
"""Host and port of a server."""


class Connector:
    """Makes clients for the servers of one URL; they connect at their first command.

    Args:
        url: its options take precedence.
        tls: its context (`tls_context`).
        connections: per server, at most so many at a time; further commands wait for a free one.
        timeout_s: longest wait for a connection, for connecting, and for each reply, seconds.
        password: used if the URL has none.
        name: CLIENT SETNAME of the connections; empty for none.
    """

    def __init__(
        self,
        url: RedisUrl,
        tls: ssl.SSLContext | None,
        *,
        connections: int,
        timeout_s: float,
        password: str | None = None,
        name: str = "",
    ) -> None:
        self.url = url
        self.timeout_s = timeout_s
        self._connections = connections
        self._name = name
        self._tls = tls
        self._credentials: dict[str, Any] = {"username": url.username or None, "password": url.password or password}

    def server(self, db: int | None = None) -> Redis:
        """The one server of a standalone URL.

        Args:
            db: in place of the URL's.
        """
        db = self.url.db if db is None else db
        if self.url.path:
            return self._client(UnixDomainSocketConnection, path=self.url.path, db=db)
        host, port = self.url.nodes[0]
        return self._client(self._transport(self.url.tls), host=host, port=port, db=db)

    def node(self, host: str, port: int) -> Redis:
        """A node of a cluster."""
        return self._client(self._transport(self.url.tls), host=host, port=port)

    def primary(self, find: Callable[[], Awaitable[Node]]) -> Redis:
        """A server that each new connection looks up by `find`."""
        transport = self._transport(self.url.tls)
        following: Any = type("FollowingConnection", (_Following, transport), {"find": staticmethod(find)})
        return self._client(following, db=self.url.db)

    def sentinels(self) -> list[Redis]:
        """The sentinels of the URL.

        Their timeouts are a share of the timeout: a lookup may have to ask all of them, one after the other.
        """
        sentinel = self.url.sentinel
        transport, share_s = self._transport(sentinel["ssl"]), self.timeout_s / (len(self.url.nodes) + 1)
        credentials = {"username": sentinel["username"] or None, "password": sentinel["password"] or None}
        return [
            self._client(transport, host=host, port=port, timeout_s=share_s, **credentials)
            for host, port in self.url.nodes
        ]

    def _transport(self, tls: bool) -> type[Connection]:
        return type("TlsConnection", (_OverTls, Connection), {"context": self._tls}) if tls else Connection

    def _client(self, transport: type[Any], timeout_s: float | None = None, **settings: Any) -> Redis:
        timeout_s = timeout_s or self.timeout_s
        timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        packing: Any = type("PackingConnection", (Answering, _Sending, _Dropping, _Packing, transport), {})
        pool = Pool(
            packing,
            self._connections,
            timeout_s,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            redis_connect_func=_named(self._name) if self._name else None,
            **{**self._credentials, **timeouts, **self._socket_options(), **settings},
        )
        return Redis(connection_pool=pool)

    def _socket_options(self) -> dict[str, Any]:
        return {name: value for name, value in self.url.options.items() if name.startswith("socket_")}


def _named(name: str) -> Callable[[Any], Awaitable[None]]:
    """What prepares a connection and gives it a name, where the server's ACL lets us."""

    async def prepare(connection: Any) -> None:
        await connection.on_connect()
        await connection.send_command("CLIENT", "SETNAME", name, check_health=False)
        with suppress(ResponseError):
            await connection.read_response()

    return prepare


class _OverTls:
    """A connection mixin for TLS by a context of ours."""

    context: ssl.SSLContext

    def _connection_arguments(self) -> dict[str, Any]:
        return {**super()._connection_arguments(), "ssl": self.context}  # type: ignore[misc]


class _Following:
    """A connection mixin that looks up where to connect each time."""

    find: Callable[[], Awaitable[Node]]
    host: str
    port: int

    async def _connect(self) -> None:
        self.host, self.port = await self.find()
        await super()._connect()  # type: ignore[misc]


class _Sending:
    """A connection mixin that sends what the transport takes at once. redis-py starts a task with a timeout for
    each command or pipeline: two turns of the loop more, before it waits for the reply."""

    _writer: asyncio.StreamWriter | None
    health_check_interval: float

    async def send_packed_command(self, command: bytes | str | list[bytes], check_health: bool = True) -> None:
        """Send; if the transport has to buffer much of it, wait for the server, as redis-py does."""
        writer = self._writer
        send: Callable[..., Awaitable[None]] = super().send_packed_command  # type: ignore[misc]
        if writer is None or not isinstance(command, list) or self.health_check_interval:
            await send(command, check_health)
            return
        try:
            writer.writelines(command)
            if writer.transport.get_write_buffer_size() > BUFFERED_BYTES:
                await send([], check_health=False)
        except (ConnectionError, OSError, RuntimeError) as error:  # uvloop's, if it is closed already
            raise BrokenError(str(error) or type(error).__name__) from error


class _Dropping:
    """A connection mixin that closes at once. A transport that is closed sends first what it has buffered, which
    takes as long as a server hangs: who waits for a reply learns nothing of the end meanwhile, and what was given
    up goes over a slow line all the same, beside the next attempt."""

    _writer: asyncio.StreamWriter | None

    async def disconnect(self, nowait: bool = False, **reason: Any) -> None:
        """As redis-py's; what has not been sent is not sent any more."""
        if self._writer is not None:
            self._writer.transport.abort()
        await super().disconnect(nowait, **reason)  # type: ignore[misc]


class _Packing:
    """A connection mixin that packs pipelines in C. redis-py's asynchronous connections pack in Python, argument by
    argument, even with hiredis installed, which is half the cost of short sessions. Single commands are left to
    it."""

    def pack_commands(self, commands: Iterable[Sequence[Any]]) -> list[bytes]:
        """The commands encoded for the wire."""
        packed: list[bytes] = []
        for command in commands:
            if max(map(getsizeof, command)) > BIG_BYTES:  # no loop in Python: a batch has thousands of words
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
