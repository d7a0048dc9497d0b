"""Connections are taken without waiting while there are any, else in order, and never out of order themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from callstate_sidecar.stores.redis import pool as pool_module
from callstate_sidecar.stores.redis.pool import Pool
from support.scripted_redis import ScriptedRedis


class Server(ScriptedRedis):
    """Answers every command with OK, unless it is told not to."""

    mute = False

    def answer(self, command: list[bytes]) -> Iterable[bytes]:
        return () if self.mute else (b"+OK\r\n",)


@pytest.fixture
async def server(short_dir: Path) -> AsyncIterator[Server]:
    async with Server().listening(short_dir / "redis.sock") as server:
        yield server


def made(short_dir: Path, connections: int, timeout_s: float = 30.0) -> Pool:
    return Pool(UnixDomainSocketConnection, connections, timeout_s, path=str(short_dir / "redis.sock"), protocol=2)


@pytest.fixture
async def pool(server: Server, short_dir: Path) -> AsyncIterator[Pool]:
    pool = made(short_dir, 2)
    yield pool
    await pool.disconnect()


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def at_once(taking: Any) -> Any:
    """The result of a coroutine that waits for nothing."""
    with pytest.raises(StopIteration) as end:
        taking.send(None)
    return end.value.value


async def test_one_that_is_idle_is_taken_and_given_back_without_waiting(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await pool.get_connection()
    await pool.release(first)
    monkeypatch.setattr(pool_module, "asyncio", None)
    for _ in range(3):
        assert at_once(pool.get_connection()) is first
        assert at_once(pool.release(first)) is None
        assert pool.take() is first
        pool.give_back(first)


def arrived(connection: Any) -> None:
    connection._reader.feed_data(b"+OK\r\n")


def parsed_in_part(connection: Any) -> None:
    connection._parser._reader.feed(b"+OK")


def ended(connection: Any) -> None:
    connection._reader.feed_eof()


def failed(connection: Any) -> None:
    connection._reader.set_exception(ConnectionResetError())


def aborted(connection: Any) -> None:
    connection._writer.transport.abort()


@pytest.mark.parametrize("happened", [arrived, parsed_in_part, ended, failed, aborted])
async def test_one_that_is_not_in_order_is_connected_again(
    pool: Pool, server: Server, happened: Callable[[Any], None]
) -> None:
    connection: Any = await pool.get_connection()
    pool.give_back(connection)
    reader = connection._reader
    happened(connection)
    assert pool.take() is None
    assert await pool.get_connection() is connection
    assert connection._reader is not reader
    await connection.send_command("PING")
    assert await connection.read_response() == b"OK"
    pool.give_back(connection)
    assert len(server.writers) == 2


async def test_one_that_the_server_has_closed_is_connected_again(pool: Pool, server: Server) -> None:
    connection: Any = await pool.get_connection()
    pool.give_back(connection)
    server.writers[0].close()
    await server.closed.acquire()
    server.closed.release()
    while not connection._reader.at_eof():
        await asyncio.sleep(0)
    assert pool.take() is None
    assert await pool.get_connection() is connection
    pool.give_back(connection)


async def test_one_that_was_disconnected_while_in_use_is_connected_again(pool: Pool, server: Server) -> None:
    connection: Any = await pool.get_connection()
    await pool.disconnect(inuse_connections=True)
    pool.give_back(connection)
    assert await pool.get_connection() is connection
    assert connection.is_connected
    pool.give_back(connection)


async def test_who_finds_none_free_waits_in_order(pool: Pool) -> None:
    held = [await pool.get_connection(), await pool.get_connection()]
    served: list[int] = []

    async def use(number: int) -> None:
        connection = await pool.get_connection()
        served.append(number)
        await asyncio.sleep(0)
        pool.give_back(connection)

    using = [asyncio.ensure_future(use(number)) for number in range(5)]
    await turns(3)
    assert not served
    pool.give_back(held[0])
    assert pool.take() is None, "it is the first one's turn"
    using.append(asyncio.ensure_future(use(5)))
    await turns(1)
    pool.give_back(held[1])
    await asyncio.gather(*using)
    assert served == [0, 1, 2, 3, 4, 5]


async def test_nobody_overtakes_who_has_been_told_that_one_is_free(pool: Pool) -> None:
    held = [await pool.get_connection(), await pool.get_connection()]
    first = asyncio.ensure_future(pool.get_connection())
    await turns(1)
    second = asyncio.ensure_future(pool.get_connection())
    pool.give_back(held[0])
    await turns(2)
    assert first.done()
    assert not second.done()
    pool.give_back(held[1])
    for connection in await asyncio.gather(first, second):
        pool.give_back(connection)


async def test_two_given_back_in_one_turn_serve_two(pool: Pool) -> None:
    held = [await pool.get_connection(), await pool.get_connection()]
    waiting = [asyncio.ensure_future(pool.get_connection()) for _ in range(2)]
    await turns(1)
    for connection in held:
        pool.give_back(connection)
    taken = await asyncio.gather(*waiting)
    assert {*map(id, taken)} == {*map(id, held)}
    for connection in taken:
        pool.give_back(connection)


@pytest.mark.parametrize("granted", [False, True])
async def test_who_gives_up_waiting_leaves_the_connection_to_the_next(pool: Pool, granted: bool) -> None:
    held = [await pool.get_connection(), await pool.get_connection()]
    leaving, staying = (asyncio.ensure_future(pool.get_connection()) for _ in range(2))
    await turns(1)
    if granted:
        pool.give_back(held.pop())
    leaving.cancel()
    await turns(2)
    if not granted:
        pool.give_back(held.pop())
    connection = await staying
    assert leaving.cancelled()
    pool.give_back(connection)
    pool.give_back(held.pop())
    both = [pool.take(), pool.take()]
    assert all(both)
    for each in both:
        pool.give_back(each)


async def test_none_becomes_free_in_time(server: Server, short_dir: Path) -> None:
    pool = made(short_dir, 1, timeout_s=0.001)
    connection = await pool.get_connection()
    with pytest.raises(RedisConnectionError, match="No connection available"):
        await pool.get_connection()
    pool.give_back(connection)
    assert pool.take() is connection
    pool.give_back(connection)
    await pool.disconnect()


async def test_a_handshake_that_is_cut_short_leaves_no_reply_behind(server: Server, short_dir: Path) -> None:
    async def prepare(connection: Any) -> None:
        await connection.on_connect()
        await connection.send_command("CLIENT", "SETNAME", "x", check_health=False)
        await asyncio.Event().wait()

    pool = made(short_dir, 1)
    pool.connection_kwargs["redis_connect_func"] = prepare
    taking = asyncio.ensure_future(pool.get_connection())
    while not server.writers:
        await asyncio.sleep(0)
    await turns(20)
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    assert taking.cancelled()
    (connection,) = pool._available_connections
    assert not connection.is_connected
    connection.redis_connect_func = None
    assert await pool.get_connection() is connection
    await connection.send_command("PING")
    assert await connection.read_response() == b"OK"
    pool.give_back(connection)
    await pool.disconnect()


async def test_a_server_that_cannot_be_reached_takes_no_place(short_dir: Path) -> None:
    pool = made(short_dir, 1)
    for _ in range(3):
        with pytest.raises(RedisConnectionError):
            await pool.get_connection()
    assert pool.can_get_connection()
