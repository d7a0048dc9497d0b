"""What is repeatable is sent again, once, when its connection turns out to have ended; the rest is not."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, Final

import pytest

from callstate_client.engine.sessions.stored import (
    StoreBrokenError,
    StoreDownError,
    StoreRefusingError,
    StoreTimeoutError,
)
from callstate_sidecar.stores.redis.client import ScriptCall, ScriptClient, connect
from callstate_sidecar.stores.redis.scripts import Script
from support.scripted_redis import ScriptedRedis

REPEATABLE: Final = Script("return 1", repeatable=True)
ONCE: Final = Script("return 2")
KEY: Final = b"key"


class Server(ScriptedRedis):
    """Breaks the connection, instead of answering, at as many of the commands that are counted as it is told.

    Attributes:
        breaks: at so many more of them.
        reply: to those that it answers.
        at_long_read: called when much has come at a time.
    """

    LONG_BYTES: Final = 50_000

    COUNTED: Final = (b"EVALSHA", b"TYPE", b"PING", b"SCAN", b"SSCAN", b"TIME", b"SCRIPT")

    def __init__(self) -> None:
        super().__init__()
        self.breaks = 0
        self.reply = b"+fine\r\n"
        self.at_long_read: Callable[[], None] = lambda: None

    def arrived(self, data: bytes) -> None:
        super().arrived(data)
        if len(data) >= self.LONG_BYTES:
            self.at_long_read()

    @property
    def counted(self) -> int:
        return sum(command[0] in self.COUNTED for command in self.commands)

    def answer(self, command: list[bytes]) -> Iterable[bytes]:
        if command[0] not in self.COUNTED:
            return super().answer(command)
        if self.breaks:
            self.breaks -= 1
            self.writers[-1].transport.abort()
            return ()
        return (self.reply,)


@pytest.fixture
async def server(short_dir: Path) -> AsyncIterator[Server]:
    async with Server().listening(short_dir / "redis.sock") as server:
        yield server


def made(short_dir: Path, *, connections: int = 1, timeout_s: float = 30.0) -> ScriptClient:
    servers = connect(f"unix://{short_dir}/redis.sock", connections=connections, timeout_s=timeout_s)
    return ScriptClient(servers, owned=True, limit_s=timeout_s)


@pytest.fixture
async def client(server: Server, short_dir: Path) -> AsyncIterator[ScriptClient]:
    client = made(short_dir)
    yield client
    await client.close()


async def attempted(client: ScriptClient, what: str) -> Any:
    match what:
        case "script":
            return await client.run(REPEATABLE, [KEY])
        case "scripts":
            return await client.run_each([ScriptCall(REPEATABLE, [KEY], ())])
        case "command":
            return await client.command("TYPE", KEY)
        case "commands":
            return await client.commands(("TYPE", KEY))
        case "ping":
            return await client.ping()
        case "scan":
            return await client.scan("", "COUNT", 1)
        case "members":
            return await client.members(KEY, "", 1)
        case "each":
            return await client.each_primary("TIME")
        case "once":
            return await client.run(ONCE, [KEY])
        case _:
            return await client.run_each([ScriptCall(REPEATABLE, [KEY], ()), ScriptCall(ONCE, [KEY], ())])


@pytest.mark.parametrize("what", ["script", "scripts", "command", "commands", "ping", "scan", "members", "each"])
async def test_what_is_repeatable_is_sent_again_when_its_connection_breaks(
    client: ScriptClient, server: Server, what: str
) -> None:
    if what in ("scan", "members"):
        server.reply = b"*2\r\n$1\r\n0\r\n*0\r\n"
    expected = await attempted(client, what)
    server.commands.clear()
    server.breaks = 1
    assert await attempted(client, what) == expected
    assert server.counted == 2


@pytest.mark.parametrize("what", ["script", "commands", "ping"])
async def test_one_that_breaks_twice_is_given_up(client: ScriptClient, server: Server, what: str) -> None:
    server.breaks = 5
    with pytest.raises(StoreBrokenError):
        await attempted(client, what)
    assert server.counted == 2


@pytest.mark.parametrize(("what", "sent"), [("once", 1), ("mixed", 2)])
async def test_what_is_not_repeatable_is_sent_once(
    client: ScriptClient, server: Server, what: str, sent: int
) -> None:
    server.breaks = 5
    with pytest.raises(StoreBrokenError):
        await attempted(client, what)
    assert server.counted <= sent


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"-LOADING it\r\n", StoreRefusingError),
        (b"-NOAUTH Authentication required.\r\n", StoreRefusingError),
        (b"-ERR max number of clients reached\r\n", StoreDownError),
        (b"", StoreTimeoutError),
    ],
)
async def test_an_answer_or_none_in_time_is_no_broken_connection(
    server: Server, short_dir: Path, reply: bytes, error: type[Exception]
) -> None:
    server.reply = reply
    client = made(short_dir, timeout_s=30.0 if reply else 0.05)
    with pytest.raises(error) as raised:
        await client.run(REPEATABLE, [KEY])
    assert not isinstance(raised.value, StoreBrokenError)
    assert server.counted == 1
    await client.close()


async def test_one_that_breaks_while_it_is_sent_is_sent_again_and_keeps_nothing_alive(
    client: ScriptClient, server: Server
) -> None:
    """Errors with the frames that they have passed would be a cycle with a future of the stream, which complains if
    it is collected before the stream."""
    await client.run(REPEATABLE, [KEY])
    pool: Any = client._servers._client.connection_pool  # type: ignore[attr-defined]
    streams: list[weakref.ref[Any]] = []

    def cut() -> None:
        (connection,) = pool._in_use_connections
        streams.append(weakref.ref(connection._writer._protocol))
        server.writers[-1].transport.abort()

    server.at_long_read = cut
    gc.disable()
    try:
        with pytest.raises(StoreBrokenError) as raised:
            await client.run(REPEATABLE, [KEY], b"x" * (8 << 20))
        del raised
        for _ in range(3):
            await asyncio.sleep(0)
        assert [stream() for stream in streams] == [None, None]
    finally:
        gc.enable()


async def test_others_that_were_idle_are_not_tried(server: Server, short_dir: Path) -> None:
    """They have ended as well, most likely, and a command is sent again only once."""
    client = made(short_dir, connections=4)
    await asyncio.gather(*(client.run(REPEATABLE, [KEY]) for _ in range(4)))
    idle = [*server.writers]
    server.breaks = 1
    await client.run(REPEATABLE, [KEY])
    for _ in idle:
        await server.closed.acquire()
    for _ in idle:
        server.closed.release()
    assert all(writer.is_closing() for writer in idle)
    await client.close()


async def test_a_client_that_is_closed_sends_nothing_again(client: ScriptClient, server: Server) -> None:
    server.reply = b""
    running = asyncio.ensure_future(client.run(REPEATABLE, [KEY]))
    while not server.counted:
        await asyncio.sleep(0)
    await client.close()
    with pytest.raises(StoreBrokenError):
        await running
    assert server.counted == 1
