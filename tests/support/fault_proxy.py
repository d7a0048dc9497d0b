"""A proxy between a daemon and its Redis that fails as networks and servers do, at moments that a seed decides."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Self

CHUNK_BYTES = 1 << 20
DELAY_S = 0.05


class Fault(Enum):
    """What becomes of a request."""

    BEFORE = "before"
    """The connection is cut before the server has seen anything of it."""
    WITHIN = "within"
    """It is cut when the server has half of it: of a pipeline it runs some commands."""
    AFTER = "after"
    """It is cut when the server has run it, and the reply is lost."""
    REPLY = "reply"
    """It is cut when half of the reply has arrived."""
    DELAY = "delay"
    """It arrives DELAY_S later."""
    BLACK_HOLE = "black_hole"
    """It arrives nowhere, and the connection stays open."""


class FaultProxy:
    """Listens on a Unix socket, and forwards to another.

    Args:
        target: the server's socket.
        seed: decides which requests fail.
        only: requests with this in them; by default those that run scripts, not the handshake of a connection.

    Attributes:
        fault: what happens to requests; None: nothing.
        share: of the requests that fail, 0 to 1.
        struck: how many have failed.
    """

    def __init__(self, target: Path, seed: int, only: bytes = b"EVALSHA") -> None:
        self._target = target
        self._only = only
        self._random = random.Random(seed)
        self._dir = Path(tempfile.mkdtemp(prefix="cs-"))
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.AbstractServer | None = None
        self.socket = self._dir / "proxy.sock"
        self.url = f"unix://{self.socket}"
        self.fault: Fault | None = None
        self.share = 1.0
        self.struck = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._accept, self.socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shutil.rmtree(self._dir)

    def partition(self) -> None:
        """Cut all connections; further requests of any kind reach nobody until `fault` is set to None."""
        self.fault, self.share, self._only = Fault.BLACK_HOLE, 1.0, b""
        for task in self._tasks:
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with suppress(OSError, asyncio.CancelledError):
            await _Connection(self, reader, writer).run(self._target)
        writer.close()

    def strikes(self, request: bytes) -> Fault | None:
        """What becomes of this request."""
        if self.fault is None or self._only not in request or self._random.random() >= self.share:
            return None
        self.struck += 1
        return self.fault

    def point(self, size: int) -> int:
        """Where to cut so many bytes."""
        return self._random.randrange(size)


class _Connection:
    """One connection of a client, and the one to the server for it."""

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._fault: Fault | None = None
        """Of the requests that have no reply yet."""

    async def run(self, target: Path) -> None:
        """Forward until either side has hung up, or a fault ends it."""
        replies, requests = await asyncio.open_unix_connection(target)
        ways = [asyncio.ensure_future(self._up(requests)), asyncio.ensure_future(self._down(replies))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            requests.close()

    async def _up(self, server: asyncio.StreamWriter) -> None:
        while chunk := await self._reader.read(CHUNK_BYTES):
            fault = self._proxy.strikes(chunk)
            if fault is Fault.BEFORE:
                return
            if fault is Fault.BLACK_HOLE:
                continue
            if fault is Fault.WITHIN:
                server.write(chunk[: self._proxy.point(len(chunk))])
                await server.drain()
                return
            if fault is Fault.DELAY:
                await asyncio.sleep(DELAY_S)  # this is the fault, not a wait for something
            self._fault = fault or self._fault
            server.write(chunk)
            await server.drain()

    async def _down(self, server: asyncio.StreamReader) -> None:
        while chunk := await server.read(CHUNK_BYTES):
            if self._fault is Fault.AFTER:
                return
            if self._fault is Fault.REPLY:
                self._writer.write(chunk[: self._proxy.point(len(chunk))])
                await self._writer.drain()
                return
            self._writer.write(chunk)
            await self._writer.drain()
