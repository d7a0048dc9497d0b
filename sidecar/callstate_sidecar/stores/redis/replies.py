"""Replies of Redis, read with one timer for each wait.

redis-py enters a timeout for each reply, also for one that has arrived together with others, and passes it through
five coroutines. Here a reply that is there is taken at once. A wait that takes too long ends by an error in the
stream that is read: no task is cancelled for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.exceptions import ConnectionError, TimeoutError  # noqa: A004


class BrokenError(ConnectionError):
    """The connection has ended while a command was under way, which may have been executed or not."""


class Answering:
    """A connection mixin. Errors are redis-py's; after one that is raised the connection has to be dropped."""

    socket_timeout: float
    pack_commands: Callable[[Sequence[Sequence[Any]]], list[bytes]]
    send_packed_command: Callable[[list[bytes]], Awaitable[None]]
    _reader: asyncio.StreamReader | None
    _parser: Any
    _host_error: Callable[[], str]

    async def ask(self, words: Sequence[Any], limit_s: float | None = None) -> Any:
        """Run a command; returns its reply, or the ResponseError that it failed with.

        Args:
            limit_s: how long sending and the reply may take, seconds, if less than `socket_timeout`.
        """
        timer = self._limit(limit_s)
        try:
            await self.send_packed_command(self.pack_commands((words,)))
            return await self._read()
        finally:
            timer.cancel()

    async def next_reply(self) -> Any:
        """The reply to the first command that has none yet, or the ResponseError that it failed with."""
        reply = self._parser._reader.gets()
        if reply is not NOT_ENOUGH_DATA:
            return _checked(reply)
        timer = self._limit(None)
        try:
            return await self._read()
        finally:
            timer.cancel()

    def _limit(self, limit_s: float | None) -> asyncio.TimerHandle:
        wait_s = self.socket_timeout if limit_s is None else min(limit_s, self.socket_timeout)
        return asyncio.get_running_loop().call_later(wait_s, self._give_up)

    def _give_up(self) -> None:
        if self._reader is not None:
            self._reader.set_exception(TimeoutError(f"Timeout reading from {self._host_error()}"))

    async def _read(self) -> Any:
        stream, parser = self._reader, self._parser
        replies = parser._reader
        if stream is None:
            raise BrokenError("Connection closed by us.")
        reply = NOT_ENOUGH_DATA
        while reply is NOT_ENOUGH_DATA:
            try:
                data = await stream.read(parser._read_size)
            except OSError as error:
                raise BrokenError(f"Error while reading from {self._host_error()} : {error.args}") from error
            if not data:
                raise BrokenError("Connection closed by server.")
            replies.feed(data)
            reply = replies.gets()
        return _checked(reply)


def _checked(reply: Any) -> Any:
    """A reply; raised if it concerns the connection or the whole server, such as LOADING or NOAUTH."""
    if isinstance(reply, ConnectionError):
        raise reply
    return reply
