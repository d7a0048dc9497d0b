"""Connections to Redis: how commands are sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from callstate_sidecar.config.redis_url import parse_redis_url
from callstate_sidecar.stores.redis.connections import BUFFERED_BYTES, Connector, _Sending
from callstate_sidecar.stores.redis.servers import Command, OneServer, disconnect, pipeline
from support.scripted_redis import ScriptedRedis

MEGABYTE = b"x" * (1 << 20)


@pytest.fixture
async def server(short_dir: Path) -> AsyncIterator[ScriptedRedis]:
    async with ScriptedRedis().listening(short_dir / "redis.sock") as server:
        yield server


@pytest.fixture
async def client(server: ScriptedRedis, short_dir: Path) -> AsyncIterator[Redis]:
    url = parse_redis_url(f"unix://{short_dir}/redis.sock")
    client = Connector(url, None, connections=1, timeout_s=0.2).server()
    yield client
    await disconnect(client, in_use=True)


async def test_neither_a_command_nor_a_pipeline_is_a_task_of_its_own(client: Redis) -> None:
    assert await client.ping()
    loop = asyncio.get_running_loop()
    started: list[Any] = []

    def start(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        started.append(work)
        return asyncio.Task(work, loop=loop, **options)

    loop.set_task_factory(start)
    try:
        assert await client.ping()
        assert await pipeline(client, [("PING",)] * 3) == [b"PONG"] * 3
    finally:
        loop.set_task_factory(None)
    assert not started


async def test_commands_that_have_to_be_buffered_arrive_whole(client: Redis, server: ScriptedRedis) -> None:
    assert await pipeline(client, [("SET", "key", MEGABYTE), ("PING",)]) == [b"OK", b"PONG"]
    assert server.commands[-2:] == [[b"SET", b"key", MEGABYTE], [b"PING"]]


async def test_a_transport_that_is_closed_is_an_error(client: Redis) -> None:
    assert await client.ping()
    pool: Any = client.connection_pool
    connection = await pool.get_connection()
    connection._writer.transport.abort()
    with pytest.raises((RedisConnectionError, RuntimeError)):
        await connection.send_packed_command([b"*1\r\n$4\r\nPING\r\n"])
        await connection.read_response()
    await pool.release(connection)
    assert await client.ping(), "the next one has a connection of its own"


async def test_who_takes_an_idle_connection_while_those_are_closed_keeps_it(client: Redis) -> None:
    assert await client.ping()
    server = OneServer(client)
    _, reply = await asyncio.gather(server.disconnect(in_use=False), server.execute(Command(b"", ("PING",))))
    assert reply == b"PONG"


@asynccontextmanager
async def hung(client: Redis, server: ScriptedRedis) -> AsyncIterator[None]:
    """The server does not read meanwhile, and an idle connection has bytes that are not sent."""
    assert await client.ping()
    transport: Any = server.writers[-1].transport
    transport.pause_reading()
    pool: Any = client.connection_pool
    connection = await pool.get_connection()
    connection._writer.write(b"*2\r\n$4\r\nECHO\r\n$%d\r\n" % (100 * len(MEGABYTE)))
    while not connection._writer.transport.get_write_buffer_size():
        connection._writer.write(b"x" * 1000)
    pool.give_back(connection)
    yield
    transport.resume_reading()


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.mark.parametrize("cut_short", [False, True])
async def test_who_waits_for_a_reply_learns_that_others_have_given_the_connection_up(
    client: Redis, server: ScriptedRedis, cut_short: bool
) -> None:
    """Such as a ping that has noticed a failover, also if that comes upon its own limit meanwhile."""
    async with hung(client, server):
        waiting = asyncio.ensure_future(OneServer(client).execute(Command(b"key", ("ECHO", "a"))))
        await turns(1)
        leaving = asyncio.ensure_future(disconnect(client, in_use=True))
        await turns(2)
        if cut_short:
            leaving.cancel()
        await turns(5)
        has_learned = waiting.done()  # else never, as a timer has no effect on a connection that is gone
    waiting.cancel()
    await asyncio.gather(waiting, leaving, return_exceptions=True)
    assert has_learned


async def test_what_was_not_sent_of_a_command_that_failed_is_not_sent_any_more(
    client: Redis, server: ScriptedRedis
) -> None:
    async with hung(client, server):
        running = asyncio.ensure_future(pipeline(client, [("SET", "key", MEGABYTE)]))
        await turns(5)
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    await server.closed.acquire()
    server.closed.release()
    assert server.bytes_read < len(MEGABYTE)


class Waiting:
    """What redis-py's connection does, as far as it is used here."""

    health_check_interval = 0.0

    def __init__(self, buffered: int) -> None:
        self.written: list[bytes] = []
        self.waited_with: list[Any] = []
        self._buffered = buffered
        self._writer: Any = self
        self.transport = self

    def writelines(self, pieces: list[bytes]) -> None:
        self.written += pieces

    def get_write_buffer_size(self) -> int:
        return self._buffered

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        self.waited_with.append(command)


class Sending(_Sending, Waiting):
    """One that sends at once."""


@pytest.mark.parametrize(("buffered", "waits"), [(0, []), (BUFFERED_BYTES, []), (BUFFERED_BYTES + 1, [[]])])
async def test_only_what_the_transport_has_to_buffer_is_waited_for(buffered: int, waits: list[Any]) -> None:
    connection = Sending(buffered)
    await connection.send_packed_command([b"a", b"b"])
    assert (connection.written, connection.waited_with) == ([b"a", b"b"], waits)
