"""A proxy between a daemon and Redis that fails as networks do."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import suppress
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Self

CHUNK_BYTES = 1 << 16


class Fault(Enum):
    """What happens to the next bytes of a request, and to their connection."""

    CUT_BEFORE = "cut before"
    """The connection is cut, and nothing of the request arrives."""
    CUT_MIDDLE = "cut in the middle"
    """Half of it arrives, then the connection is cut."""
    CUT_AFTER = "cut after applying"
    """All of it arrives and is carried out; the connection is cut before the reply."""


class FaultProxy:
    """Listens on a Unix socket and passes everything on to another one.

    Args:
        upstream: the server's socket.

    Attributes:
        delay_s: how long each piece of a request is held back, seconds.
        black_hole: nothing is passed on in either direction, and connections stay open.
    """

    def __init__(self, upstream: Path) -> None:
        self._upstream = upstream
        self._dir = Path(tempfile.mkdtemp(prefix="cs-"))
        self.url = f"unix://{self._dir / 'proxy.sock'}"
        self.delay_s = 0.0
        self.black_hole = False
        self._faults: list[Fault] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    def next(self, *faults: Fault) -> None:
        """The next requests of any connection meet these faults, one each."""
        self._faults += faults

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._dir / "proxy.sock")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.to_thread(shutil.rmtree, self._dir, ignore_errors=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        server: asyncio.StreamWriter | None = None
        try:
            with suppress(OSError, asyncio.CancelledError):
                replies, server = await asyncio.open_unix_connection(self._upstream)
                back = asyncio.ensure_future(self._pass_back(replies, writer))
                try:
                    await self._pass_on(reader, server, replies, back)
                finally:
                    back.cancel()
                    await asyncio.wait([back])
        finally:
            for each in (writer, server):
                if each is not None:
                    each.close()
            self._tasks.discard(task)

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        replies: asyncio.StreamReader,
        back: asyncio.Future[None],
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await asyncio.sleep(self.delay_s)
            if self.black_hole:
                await asyncio.Event().wait()
            fault = self._faults.pop() if self._faults else None
            if fault is Fault.CUT_BEFORE:
                return
            if fault is Fault.CUT_AFTER:
                back.cancel()
                await asyncio.wait([back])
            server.write(data[: len(data) // 2] if fault is Fault.CUT_MIDDLE else data)
            await server.drain()
            if fault is Fault.CUT_AFTER:
                await replies.read(1)
            if fault is not None:
                return

    async def _pass_back(self, replies: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await replies.read(CHUNK_BYTES):
            if self.black_hole:
                await asyncio.Event().wait()
            writer.write(data)
            await writer.drain()
        writer.close()
