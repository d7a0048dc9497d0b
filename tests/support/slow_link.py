"""A link to a server that takes its time with large requests: a proxy between two Unix sockets."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

CHUNK_BYTES: Final = 65536


class SlowLink:
    """Forwards what clients send at a limited rate, and the replies at once.

    Args:
        target: the server's socket.
        bytes_per_s: the rate; None: unlimited. May be changed at any time.

    Attributes:
        socket: where clients connect.
    """

    def __init__(self, target: Path, bytes_per_s: float | None) -> None:
        self.bytes_per_s = bytes_per_s
        self._target = target
        self._directory = tempfile.TemporaryDirectory(prefix="cs-")
        self.socket = Path(self._directory.name) / "link.sock"
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self.socket, limit=CHUNK_BYTES)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for end in self._ends:
            end.transport.abort()
        await asyncio.gather(*self._tasks)
        self._directory.cleanup()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        there, back = await asyncio.open_unix_connection(self._target)
        ends = {writer, back}
        self._ends |= ends
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._forward(reader, back, slowly=True))
                both.create_task(self._forward(there, writer, slowly=False))
        except* OSError:
            pass  # one of them has hung up
        finally:
            self._ends -= ends
            for end in ends:
                end.transport.abort()

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, slowly: bool) -> None:
        while data := await source.read(CHUNK_BYTES):
            if slowly and self.bytes_per_s is not None:
                await asyncio.sleep(len(data) / self.bytes_per_s)
            sink.write(data)
            await sink.drain()
        raise ConnectionResetError
