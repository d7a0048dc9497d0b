"""Stores in other processes, each a worker, as the test uses them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from msgspec import UNSET, Raw

from callstate_client import protocol
from callstate_client.api import CallStore
from callstate_client.errors import MethodNotFoundError, StoreClosedError
from callstate_client.protocol.events import Cursor
from callstate_client.requester import EventSource
from support.worker_forker import LINE_BYTES, READY, Done, Job, decode_done, encode

TESTS = Path(__file__).parents[1]


@contextlib.contextmanager
def forker(directory: Path) -> Iterator[Path]:
    """Start a process that forks workers, and yield the path of its socket.

    Args:
        directory: for the socket, with a short name.
    """
    path = directory / "forker"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CALLSTATE_")}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "support.worker_forker", str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])},
    )  # fmt: skip
    with process:  # closes its pipes, which ends it
        assert process.stdout is not None
        assert process.stdout.readline() == READY
        yield path


class Remote:
    """A process that can be killed, and the stores in it.

    Args:
        reader, writer: the connection to it.
        pid: its process id.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pid: int) -> None:
        self.pid = pid
        self._reader = reader
        self._writer = writer
        self._ids = count(1)
        self._waiting: dict[int, asyncio.Future[Done]] = {}
        self._reading = asyncio.create_task(self._read())

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return not self._reading.done()

    async def _read(self) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                while line := await self._reader.readline():
                    done = decode_done(line)
                    self._waiting.pop(done.id).set_result(done)
        finally:
            for waiting in self._waiting.values():
                waiting.set_exception(StoreClosedError("the worker's process has exited"))

    async def do(self, do: str, store: int, **more: Any) -> bytes:
        """Let one of its stores do a job, and return the daemon's reply.

        Raises:
            StoreClosedError: the process has exited.
        """
        if not self.alive:
            raise StoreClosedError("the worker's process has exited")
        job = Job(next(self._ids), do, store, **more)
        waiting = self._waiting[job.id] = asyncio.get_running_loop().create_future()
        self._writer.write(encode(job) + b"\n")
        done = await waiting
        assert isinstance(done.line, Raw), done.failure
        return bytes(done.line)

    async def open(self, socket: Path, worker_id: str | None) -> RemoteStore:
        """Open a store in it."""
        store = RemoteStore(self, next(self._ids), worker_id)
        protocol.decode_empty(await self.do("open", store.number, socket=str(socket), worker_id=worker_id))
        return store

    async def kill(self) -> None:
        """kill -9, and return when it has exited."""
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)  # the pid can't have been reused: we still read from it
        await self._reading
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


@contextlib.asynccontextmanager
async def remote(forker: Path, loop_name: str) -> AsyncIterator[Remote]:
    """A new process, made by the forker.

    Args:
        forker: the path of the forker's socket.
        loop_name: of the process's event loop.
    """
    reader, writer = await asyncio.open_unix_connection(str(forker), limit=LINE_BYTES)
    writer.write(loop_name.encode() + b"\n")
    process = Remote(reader, writer, decode_done(await reader.readline()).pid)
    try:
        yield process
    finally:
        await process.kill()


class RemoteStore(CallStore):
    """A store in another process, to which it forwards all requests.

    Args:
        process: the other process.
        number: of the store there.
        worker_id: of the store.
    """

    def __init__(self, process: Remote, number: int, worker_id: str | None) -> None:
        super().__init__()
        self.process = process
        self.number = number
        self._worker_id = worker_id
        self._closed = False

    @property
    def worker_id(self) -> str | None:
        """The worker id; None: unregistered."""
        return self._worker_id

    @property
    def name(self) -> str:
        """`remote`."""
        return "remote"

    @property
    def closed(self) -> bool:
        """Whether `close()` was called or the worker was killed."""
        return self._closed or not self.process.alive

    async def request(
        self,
        method: str,
        params: protocol.Params | None = None,
        *,
        op_of: str | None = None,
        timeout_s: float | None = None,
    ) -> bytes:
        """Send a request; see CallStore."""
        if self.closed:
            raise StoreClosedError
        raw = UNSET if params is None else Raw(_written(params))
        return await self.process.do("ask", self.number, method=method, params=raw, op_of=op_of)

    async def update_heartbeat(self, session_id: str, *, timeout_s: float | None = None) -> None:
        """Send a heartbeat; see CallStore."""
        if self.closed:
            raise StoreClosedError
        protocol.decode_empty(await self.process.do("beat", self.number, session_id=session_id))

    async def default_heartbeat_timeout_s(self) -> float:
        """The daemon's default."""
        return float((await self.info())["heartbeat_timeout_s"])

    def events(self, *types: str, since: Cursor | None = None, worker_id: str | None = None) -> EventSource:
        """Not supported: tests subscribe in their own process."""
        return self._no_events()

    def _no_events(self) -> NoReturn:
        raise MethodNotFoundError("subscribe to events in the test's own process")

    async def _close(self) -> None:
        if not self.closed:
            self._closed = True
            protocol.decode_empty(await self.process.do("close", self.number))


def _written(params: protocol.Params) -> bytes:
    return b"".join(params.pieces) if isinstance(params, protocol.Written) else protocol.encode_params(params)
