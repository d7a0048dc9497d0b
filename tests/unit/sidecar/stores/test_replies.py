"""Replies of Redis are read at once if they are there, else with one timer, and never by the wrong command."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError, InvalidResponse, NoScriptError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from callstate_sidecar.config.redis_url import parse_redis_url
from callstate_sidecar.slices import Slices
from callstate_sidecar.stores.redis import replies as replies_module
from callstate_sidecar.stores.redis import servers as servers_module
from callstate_sidecar.stores.redis.connections import Connector
from callstate_sidecar.stores.redis.replies import Answering
from callstate_sidecar.stores.redis.servers import Command, OneServer, disconnect, pipeline
from support.scripted_redis import ScriptedRedis

TIMEOUT_S = 30.0

MOST_CALLS = 20
"""For one command, of the daemon's and redis-py's functions: a few more than it takes. redis-py makes 118."""


class Server(ScriptedRedis):
    """Answers each command with what `replies` has for it, in the pieces given, else with its last argument."""

    def __init__(self) -> None:
        super().__init__()
        self.replies: dict[bytes, list[bytes]] = {}
        self.asked: asyncio.Queue[bytes] = asyncio.Queue()

    def answer(self, command: list[bytes]) -> Iterable[bytes]:
        name = command[-1]
        self.asked.put_nowait(name)
        return self.replies.get(name, [b"$%d\r\n%b\r\n" % (len(name), name)])

    async def until_asked(self, name: bytes) -> None:
        while await self.asked.get() != name:
            pass


@pytest.fixture
async def server(short_dir: Path) -> AsyncIterator[Server]:
    async with Server().listening(short_dir / "redis.sock") as server:
        yield server


@pytest.fixture
async def client(server: Server, short_dir: Path) -> AsyncIterator[Redis]:
    url = parse_redis_url(f"unix://{short_dir}/redis.sock")
    client = Connector(url, None, connections=1, timeout_s=TIMEOUT_S).server()
    yield client
    await disconnect(client, in_use=True)


class Timers:
    """The timers that were started for waits, with their limits."""

    def __init__(self) -> None:
        self.started: list[tuple[float | None, asyncio.TimerHandle]] = []

    @property
    def limits(self) -> list[float | None]:
        assert all(handle.cancelled() for _, handle in self.started)
        return [limit_s for limit_s, _ in self.started]


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    timers = Timers()
    start = Answering._limit

    def counted(connection: Answering, limit_s: float | None) -> asyncio.TimerHandle:
        handle = start(connection, limit_s)
        timers.started.append((limit_s, handle))
        return handle

    monkeypatch.setattr(Answering, "_limit", counted)
    return timers


def echo(text: str) -> Command:
    return Command(b"key", ("ECHO", text))


async def test_a_command_on_an_idle_connection_waits_once(
    client: Redis, server: Server, timers: Timers, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = OneServer(client)
    assert await one.execute(echo("a"), 2.0) == b"a"
    timers.started.clear()
    monkeypatch.setattr(servers_module, "asyncio", None)
    running = one.execute(echo("b"), 2.0)
    waiting: Any = running.send(None)  # type: ignore[attr-defined]
    while not waiting.done():
        await asyncio.sleep(0)
    with pytest.raises(StopIteration) as end:
        running.send(None)  # type: ignore[attr-defined]
    assert end.value.value == b"b"
    assert timers.limits == [2.0]


async def test_a_command_on_an_idle_connection_takes_few_calls(client: Redis, server: Server) -> None:
    one = OneServer(client)
    await one.execute(echo("a"), 2.0)
    calls: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        module = frame.f_globals["__name__"]
        if event == "call" and module.startswith(
            ("callstate_sidecar.", "redis.", "asyncio.timeouts", "asyncio.locks")
        ):
            calls.append(f"{module}:{frame.f_code.co_qualname}")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        assert await one.execute(echo("b"), 2.0) == b"b"
    finally:
        sys.setprofile(before)
    assert len(calls) <= MOST_CALLS, calls


async def test_replies_that_came_with_others_are_not_waited_for(
    client: Redis, server: Server, timers: Timers, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool: Any = client.connection_pool
    connection = await pool.get_connection()
    server.replies[b"all"] = [b"+a\r\n:2\r\n*1\r\n$1\r\nc\r\n+rest\r"]
    await connection.send_packed_command(connection.pack_commands([("ECHO", "all")]))
    assert await connection.next_reply() == b"a"
    assert timers.limits == [None]
    monkeypatch.setattr(replies_module, "asyncio", None)
    for expected in (2, [b"c"]):
        with pytest.raises(StopIteration) as end:
            connection.next_reply().send(None)
        assert end.value.value == expected
    monkeypatch.undo()
    server.writers[-1].write(b"\n")
    assert await connection.next_reply() == b"rest"
    pool.give_back(connection)


async def test_a_reply_that_comes_byte_by_byte_is_whole_and_has_one_timer(
    client: Redis, server: Server, timers: Timers
) -> None:
    reply = b"*3\r\n$4\r\n\r\n\r\n\r\n:-1\r\n$-1\r\n"
    server.replies[b"a"] = [reply[i : i + 1] for i in range(len(reply))]
    assert await pipeline(client, [("ECHO", "a"), ("ECHO", "b")]) == [[b"\r\n\r\n", -1, None], b"b"]
    assert len(timers.limits) in (1, 2)


async def test_errors_of_a_command_are_replies_and_those_of_the_server_are_raised(
    client: Redis, server: Server
) -> None:
    server.replies = {
        b"wrong": [b"-WRONGTYPE of key\r\n"], b"unknown": [b"-NOSCRIPT none\r\n"],
        b"loading": [b"-LOADING it\r\n"], b"junk": [b"?\r\n"],
    }  # fmt: skip
    wrong, unknown, fine = await pipeline(client, [("ECHO", "wrong"), ("ECHO", "unknown"), ("ECHO", "fine")])
    assert (type(wrong), type(unknown), fine) == (ResponseError, NoScriptError, b"fine")
    one = OneServer(client)
    for text, error in (
        ("wrong", ResponseError), ("unknown", NoScriptError), ("loading", BusyLoadingError),
        ("junk", InvalidResponse),
    ):  # fmt: skip
        with pytest.raises(error):
            await one.execute(echo(text))
    with pytest.raises(BusyLoadingError):
        await pipeline(client, [("ECHO", "loading"), ("ECHO", "never read")])
    assert await one.execute(echo("fine")) == b"fine"


async def begun(client: Redis, server: Server, command: str) -> tuple[asyncio.Task[Any], Any]:
    """A command whose reply does not come, and its connection."""
    server.replies[command.encode()] = []
    running = asyncio.ensure_future(OneServer(client).execute(echo(command)))
    await server.until_asked(command.encode())
    pool: Any = client.connection_pool
    (connection,) = pool._in_use_connections
    return running, connection


async def test_a_wait_that_is_too_long_ends_and_its_late_reply_reaches_nobody(
    client: Redis, server: Server
) -> None:
    running, connection = await begun(client, server, "slow")
    connection._give_up()
    with pytest.raises(RedisTimeoutError, match="Timeout reading from"):
        await running
    server.writers[-1].write(b"+late\r\n")
    assert await OneServer(client).execute(echo("next")) == b"next"


async def test_a_stopped_server_is_noticed(server: Server, short_dir: Path) -> None:
    server.replies[b"never"] = []
    url = parse_redis_url(f"unix://{short_dir}/redis.sock")
    for timeout_s, limit_s in ((0.01, None), (0.01, TIMEOUT_S), (TIMEOUT_S, 0.01)):
        client = Connector(url, None, connections=1, timeout_s=timeout_s).server()
        one = OneServer(client)
        for _ in range(2):  # a new connection, and another
            with pytest.raises((RedisTimeoutError, TimeoutError)):
                await one.execute(echo("never"), limit_s)
        await disconnect(client, in_use=True)
    client = Connector(url, None, connections=1, timeout_s=TIMEOUT_S).server()
    assert await OneServer(client).execute(echo("there"), 5.0) == b"there"
    with pytest.raises(RedisTimeoutError):  # on a connection that is idle
        await OneServer(client).execute(echo("never"), 0.01)
    await disconnect(client, in_use=True)


async def test_a_reply_in_the_turn_in_which_its_time_is_up_leaves_nothing_behind(
    client: Redis, server: Server
) -> None:
    running, connection = await begun(client, server, "just")
    connection._reader.feed_data(b"+in time\r\n")
    connection._give_up()
    assert await running == b"in time"
    for _ in range(2):
        assert await OneServer(client).execute(echo("next")) == b"next"


async def test_a_command_that_is_cancelled_leaves_its_reply_to_nobody(client: Redis, server: Server) -> None:
    running, _ = await begun(client, server, "cancelled")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    server.writers[-1].write(b"+late\r\n")
    assert await OneServer(client).execute(echo("next")) == b"next"


async def cancelled_at(step: int, work: Coroutine[Any, Any, Any]) -> bool:
    """Run a task that is cancelled when it waits for that many times; returns whether it has waited so often."""
    waits = 0

    class Waiting:
        def __await__(self) -> Generator[Any, Any, Any]:
            nonlocal waits
            inner, error = work.__await__(), None
            while True:
                try:
                    future = inner.send(None) if error is None else inner.throw(error)
                except StopIteration as end:
                    return end.value
                error, waits = None, waits + 1
                if waits == step:
                    task.cancel()
                try:
                    yield future
                except BaseException as raised:  # noqa: BLE001 - it goes on to the coroutine
                    error = raised

    async def run() -> Any:
        return await Waiting()

    task = asyncio.ensure_future(run())
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled() == (waits >= step)
    return waits >= step


@pytest.mark.parametrize("warm", [False, True], ids=["connects", "connected"])
@pytest.mark.parametrize("sends", ["command", "pipeline"])
async def test_a_task_cancelled_at_any_of_its_waits_leaves_its_replies_to_nobody(
    server: Server, short_dir: Path, sends: str, warm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers_module, "Slices", lambda: Slices(0.0))
    url, big, step = parse_redis_url(f"unix://{short_dir}/redis.sock"), "x" * 300_000, 0
    cancelled = True
    while cancelled:
        step += 1
        client = Connector(url, None, connections=1, timeout_s=TIMEOUT_S, name="me").server()
        one, pool = OneServer(client), client.connection_pool
        if warm:
            assert await one.execute(echo("warm")) == b"warm"
        work = (
            one.execute(echo(big), TIMEOUT_S) if sends == "command"
            else pipeline(client, [("ECHO", big), ("ECHO", "b"), ("ECHO", "c")])
        )  # fmt: skip
        others = [asyncio.ensure_future(one.execute(echo(f"{number}"))) for number in range(2)]
        cancelled = await cancelled_at(step, work)
        assert await asyncio.gather(*others) == [b"0", b"1"]
        assert await pipeline(client, [("ECHO", "d"), ("ECHO", "e")]) == [b"d", b"e"]
        assert not pool._in_use_connections  # type: ignore[attr-defined]
        await disconnect(client, in_use=True)
    assert step > 2


def cut(server: Server, client: Redis) -> None:
    server.writers[-1].write(b"$10\r\nhalf")
    server.writers[-1].close()


def reset(server: Server, client: Redis) -> None:
    pool: Any = client.connection_pool
    (connection,) = pool._in_use_connections
    connection._reader.set_exception(ConnectionResetError(104, "reset"))


def closed(server: Server, client: Redis) -> None:
    pool: Any = client.connection_pool
    (connection,) = pool._in_use_connections
    connection._writer.close()


@pytest.mark.parametrize("happens", [cut, reset, closed])
async def test_a_connection_that_breaks_in_the_middle_is_an_error_and_is_replaced(
    client: Redis, server: Server, happens: Callable[[Server, Redis], None]
) -> None:
    running, _ = await begun(client, server, "broken")
    happens(server, client)
    with pytest.raises(RedisConnectionError):
        await running
    assert await OneServer(client).execute(echo("next")) == b"next"


async def test_connections_given_up_by_others_fail_those_that_use_them(client: Redis, server: Server) -> None:
    running, connection = await begun(client, server, "left")
    await disconnect(client, in_use=True)
    with pytest.raises(RedisConnectionError):
        await running
    with pytest.raises(RedisConnectionError):
        await connection._read()
    assert await OneServer(client).execute(echo("next")) == b"next"
