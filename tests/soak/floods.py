"""Clients of a soak that mean harm, or don't know better: each goes on for some time, and then hangs up."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

JUNK = "junk-"
"""The beginning of the ids of sessions that nobody misses."""

Send = Callable[[bytes], Awaitable[None]]


def request(method: str, **params: Any) -> bytes:
    """A request line."""
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n"


@asynccontextmanager
async def connections(socket: Path, count: int) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """So many connections, or as many as there can be; none of them is read unless somebody does it."""
    writers: list[asyncio.StreamWriter] = []
    try:
        for _ in range(count):
            with suppress(OSError):
                reader, writer = await asyncio.open_unix_connection(socket, limit=4096)
                reader._transport.pause_reading()  # type: ignore[attr-defined]  # deaf to the kernel's last byte
                writers.append(writer)
        yield writers
    finally:
        for writer in writers:
            writer.transport.abort()


async def _flood(socket: Path, count: int, line: Callable[[], bytes], seconds: float) -> None:
    """Write lines to connections that are not read, as fast as they are taken."""

    async def write(writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, RuntimeError):  # uvloop raises the latter for a transport that is closed
            while True:
                writer.write(line())
                await writer.drain()
                await asyncio.sleep(0)

    async with connections(socket, count) as writers:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(write(writer) for writer in writers))


async def _answered(socket: Path, line: Callable[[], bytes], seconds: float) -> None:
    """Send lines one at a time, and read whatever comes back."""
    with suppress(OSError, RuntimeError, TimeoutError, ValueError):
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_unix_connection(socket, limit=1 << 26)
            try:
                while True:
                    writer.write(line())
                    await writer.drain()
                    await reader.readline()
            finally:
                writer.transport.abort()


async def deaf_readers(socket: Path, seconds: float, _: random.Random) -> None:
    """Subscribers and askers for long lists that read nothing."""
    lines = request("events.subscribe", types=["turn"]) + request("session.list", limit=10_000)
    lines += request("session.list_active", limit=10_000) * 20
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_flood(socket, 8, lambda: lines, seconds))


async def junk_lines(socket: Path, seconds: float, dice: random.Random) -> None:
    """Bytes that are no requests."""
    await _answered(socket, lambda: dice.randbytes(dice.randrange(1, 5000)).replace(b"\n", b" ") + b"\n", seconds)


async def many_ids(socket: Path, seconds: float, dice: random.Random) -> None:
    """Heartbeats for thousands of sessions that there are not."""

    def line() -> bytes:
        return request("session.heartbeat", session_ids=[f"{JUNK}{dice.random()}" for _ in range(3000)])

    await _answered(socket, line, seconds)


async def junk_sessions(socket: Path, seconds: float, dice: random.Random) -> None:
    """Sessions that are left to the reaper."""

    def line() -> bytes:
        session = {"id": f"{JUNK}{dice.random()}", "status": "active", "recovery_data": {"pad": "x" * 2000}}
        return request("session.save", session=session, heartbeat_timeout_s=0.5)

    await _answered(socket, line, seconds)


async def idle_connections(socket: Path, seconds: float, dice: random.Random) -> None:
    """Connections that send nothing, or a request now and then."""
    async with connections(socket, dice.randrange(50, 300)) as writers:
        for writer in writers[::7]:
            writer.write(request("server.ping"))
        await asyncio.sleep(seconds)


async def unfinished_lines(socket: Path, seconds: float, dice: random.Random) -> None:
    """Lines that never end, in small pieces."""
    await _flood(socket, 6, lambda: b"x" * dice.randrange(1, 200), seconds)


FLOODS = {flood.__name__: flood for flood in (
    deaf_readers, junk_lines, many_ids, junk_sessions, idle_connections, unfinished_lines,
)}  # fmt: skip
