"""The connections of one client to one server, of which each serves one task at a time.

A connection that is idle and in order is taken and given back without waiting for anything. redis-py's
BlockingConnectionPool enters a lock, a timeout and an asynchronous look at the connection for each command, and
tells listeners and counters of it, which is more work than the command. What it does besides is for protocol 3 and
for credentials that change, and we have neither.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from redis.asyncio import ConnectionPool
from redis.exceptions import ConnectionError  # noqa: A004


class Pool(ConnectionPool):
    """So many connections; who finds none free waits for one, in order.

    Args:
        timeout_s: how long to wait for a free one, seconds.
        settings: those of redis-py's connections.
    """

    def __init__(self, connection_class: type[Any], connections: int, timeout_s: float, **settings: Any) -> None:
        super().__init__(connection_class, connections, **settings)
        self._timeout_s = timeout_s
        self._waiting: deque[asyncio.Future[None]] = deque()
        """Those that wait; the first one's future is done once there is a connection for it."""

    def take(self) -> Any | None:
        """A connection that can be used at once; None: one has to be waited for, or to be connected."""
        idle = self._available_connections
        if self._waiting or not idle or not _is_in_order(idle[-1]):
            return None
        connection = idle.pop()
        self._in_use_connections.add(connection)
        return connection

    async def get_connection(self, *_: Any, **__: Any) -> Any:
        """A connection, which is to be given back.

        Raises:
            ConnectionError: none becomes free in time, or the server can't be reached.
        """
        connection = self.take()
        if connection is not None:
            return connection
        if self._waiting or not self.can_get_connection():
            connection = await self._next_free()
        else:
            connection = self._free()
        try:
            if not _is_in_order(connection):
                await connection.disconnect(nowait=True)  # redis-py takes some for connected that are not
                await self.ensure_connection(connection)
        except BaseException:  # perhaps in the middle of the handshake
            await connection.disconnect(nowait=True)
            self.give_back(connection)
            raise
        return connection

    def _free(self) -> Any:
        take: Any = self.get_available_connection  # untyped in some versions of redis-py
        return take()

    async def _next_free(self) -> Any:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._timeout_s):
                await turn
            return self._free()
        except TimeoutError as error:
            raise ConnectionError("No connection available.") from error
        finally:  # it may be its turn, and it does not take it
            self._waiting.remove(turn)
            self._wake_next()

    def give_back(self, connection: Any) -> None:
        """The connection is free, whatever state it is in: the next to take it looks."""
        self._in_use_connections.remove(connection)
        self._available_connections.append(connection)
        self._wake_next()

    def _wake_next(self) -> None:
        if self._waiting and not self._waiting[0].done() and self.can_get_connection():
            self._waiting[0].set_result(None)

    async def release(self, connection: Any) -> None:
        """As `give_back`, for redis-py."""
        self.give_back(connection)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """As redis-py's, which gives way to the loop before it closes any: who takes an idle one meanwhile would
        lose it with a command under way. So idle ones alone are closed at once."""
        if inuse_connections:
            await super().disconnect()
            return
        for connection in self._available_connections:
            await connection.disconnect(nowait=True)


def _is_in_order(connection: Any) -> bool:
    """Whether an idle connection is open, and nothing has arrived that nobody has asked for, nor an end or an
    error."""
    reader, writer = connection._reader, connection._writer
    return not (
        reader is None
        or writer.is_closing()
        or reader._buffer
        or reader.at_eof()
        or reader.exception()
        or connection._parser._reader.has_data()
    )
