"""A server that speaks the protocol of Redis and answers as the test says, also what no real one would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self

import hiredis


class ScriptedRedis:
    """Takes every command, and answers OK, or PONG to a PING, unless a subclass says otherwise."""

    def __init__(self) -> None:
        self.commands: list[list[bytes]] = []
        self.writers: list[asyncio.StreamWriter] = []
        """Of each connection, the newest last."""
        self.bytes_read = 0
        self.closed = asyncio.Semaphore(0)
        """Released for each connection that its client has closed."""

    def answer(self, command: list[bytes]) -> Iterable[bytes]:
        """The reply to a command, in the pieces that it is sent in."""
        return (b"+PONG\r\n" if command == [b"PING"] else b"+OK\r\n",)

    def arrived(self, data: bytes) -> None:
        """Something has come, perhaps not a whole command."""
        self.bytes_read += len(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        parser = hiredis.Reader()
        with suppress(OSError):
            while data := await reader.read(1 << 20):
                self.arrived(data)
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    self.commands.append(command)
                    for piece in self.answer(command):
                        writer.write(piece)
                        await asyncio.sleep(0)
        writer.close()
        self.closed.release()

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[Self]:
        """Listen on a socket meanwhile, and wait until all clients have closed their connections."""
        server = await asyncio.start_unix_server(self._serve, path)
        yield self
        for _ in self.writers:
            await self.closed.acquire()
        server.close()
