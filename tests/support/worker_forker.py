"""Forks a process for each worker of a test, from one that has imported the client already.

Run as a program with the path of its socket. Each connection to it is one worker's process, as long as it is open.
Each line is a job: to open or close a store in that process, or to send a request through one.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import sys
from collections.abc import Callable

import msgspec
import uvloop
from msgspec import UNSET, Raw, Struct, UnsetType

from callstate_client import SidecarStore, connect
from callstate_client.errors import CallstateError, WireError
from callstate_client.protocol.params import Written

LINE_BYTES = 16 * 1024 * 1024
"""Longest line either way: more than any test needs."""

READY = b"ready\n"

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


class Job(Struct, omit_defaults=True):
    """A job for a worker.

    Args:
        id: repeated in the result.
        do: `open` a store, send a request (`ask`) or a heartbeat (`beat`), `close` the store.
        store: its number.
        socket, worker_id: for `open`; no worker_id: unregistered.
        method, params, op_of: for `ask`.
        session_id: for `beat`.
    """

    id: int
    do: str
    store: int
    socket: str = ""
    worker_id: str | None = None
    method: str = ""
    params: Raw | UnsetType = UNSET
    op_of: str | None = None
    session_id: str = ""


class Done(Struct, omit_defaults=True):
    """The result of a job: the daemon's reply, or what the client raised when there was none.

    The first one belongs to no job, and has the pid of the process.
    """

    id: int
    line: Raw | UnsetType = UNSET
    failure: str = ""
    pid: int = 0


decode_job = msgspec.json.Decoder(Job).decode
decode_done = msgspec.json.Decoder(Done).decode
encode = msgspec.json.encode

NOTHING = Raw(b'{"jsonrpc":"2.0","id":0,"result":{}}')


class Worker:
    """The stores of one process.

    Args:
        writer: the connection to the test.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._stores: dict[int, SidecarStore] = {}

    def say(self, done: Done) -> None:
        """Send a result."""
        self._writer.write(encode(done) + b"\n")

    async def do(self, job: Job) -> None:
        """Do a job, and send its result."""
        try:
            line = await getattr(self, f"_{job.do}")(job)
        except WireError as error:
            self.say(Done(job.id, Raw(encode({"jsonrpc": "2.0", "id": 0, "error": error.to_wire()}))))
        except CallstateError as error:
            self.say(Done(job.id, failure=f"{type(error).__name__}: {error}"))
        else:
            self.say(Done(job.id, Raw(bytes(line).rstrip(b"\n"))))

    async def _open(self, job: Job) -> bytes | Raw:
        self._stores[job.store] = await connect(
            job.socket, job.worker_id, wait_s=0, register=job.worker_id is not None
        )
        return NOTHING

    async def _ask(self, job: Job) -> bytes | Raw:
        params = Written((bytes(job.params),)) if isinstance(job.params, Raw) else None
        return await self._stores[job.store].request(job.method, params, op_of=job.op_of)

    async def _beat(self, job: Job) -> bytes | Raw:
        await self._stores[job.store].update_heartbeat(job.session_id)
        return NOTHING

    async def _close(self, job: Job) -> bytes | Raw:
        await self._stores[job.store].close()
        return NOTHING


async def work(sock: socket.socket) -> None:
    """Do jobs until the connection is closed."""
    reader, writer = await asyncio.open_unix_connection(sock=sock, limit=LINE_BYTES)
    worker = Worker(writer)
    worker.say(Done(0, pid=os.getpid()))
    async with asyncio.TaskGroup() as tasks:
        while line := await reader.readline():
            tasks.create_task(worker.do(decode_job(line)))


def child(sock: socket.socket) -> None:
    """Run a worker's process until it exits. The first line names its event loop."""
    status = 1
    try:
        name = b""
        while not name.endswith(b"\n"):
            name += sock.recv(1)  # one byte at a time, to leave the jobs in the socket
        with asyncio.Runner(loop_factory=LOOPS[name.decode().strip()]) as runner:
            runner.run(work(sock))
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)  # without the parent's cleanup


def main(path: str) -> None:
    """Fork a worker for each connection, until standard input is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        sys.stdout.buffer.write(READY)
        sys.stdout.flush()
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            sock, _ = listener.accept()
            if not os.fork():
                listener.close()
                child(sock)
            sock.close()


if __name__ == "__main__":
    main(sys.argv[1])
