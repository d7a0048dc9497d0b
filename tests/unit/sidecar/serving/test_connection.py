"""Bytes in, lines out to the server, replies back: over real sockets, in one process, on both loops."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from callstate_client.engine.user import NOBODY
from callstate_sidecar.config.schema import KIB, LimitsConfig
from callstate_sidecar.serving import connection
from callstate_sidecar.serving.connection import LINES_A_TURN, LOW_WATER_SHARE, MAX_WAITING
from callstate_sidecar.serving.fair_queue import SHARE_S
from callstate_sidecar.serving.rates import RequestRates
from support.core import Core, FakeClient

PING = b'{"jsonrpc":"2.0","id":%d,"method":"server.ping"}\n'


class Wired:
    """A core that serves a real Unix socket, and a client of plain streams."""

    def __init__(self, core: Core, path: Path) -> None:
        self.core = core
        self.path = path
        self.clients: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.listening = await loop.create_unix_server(self.core.connection, str(self.path))

    async def client(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(str(self.path), limit=1 << 24)
        self.clients.append(writer)
        return reader, writer

    async def close(self) -> None:
        for writer in self.clients:
            writer.close()
        self.listening.close()
        while self.core.server.connections:
            await asyncio.sleep(0)


@pytest.fixture
async def wired(short_dir: Path) -> AsyncIterator[Wired]:
    limits = LimitsConfig(line_bytes=4 * KIB, pending_reply_bytes=64 * KIB)
    wired = Wired(Core(limits=limits), short_dir / "s")
    await wired.start()
    yield wired
    await wired.close()


async def read(reader: asyncio.StreamReader) -> Any:
    return json.loads(await reader.readline())


# -- lines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
async def test_lines_come_in_pieces_of_any_size(wired: Wired, size: int) -> None:
    reader, writer = await wired.client()
    data = b"".join(PING % number for number in range(5)) + b"\n" + PING % 99
    for start in range(0, len(data), size):
        writer.write(data[start : start + size])
        await writer.drain()
    assert [(await read(reader))["id"] for _ in range(6)] == [0, 1, 2, 3, 4, 99]


async def test_lines_that_take_long_wait_for_the_next_turn_of_the_loop(
    wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight cheap requests are served in one turn, but only as many expensive ones as its share of time allows."""
    clock = itertools.count(step=SHARE_S * 0.6)
    monkeypatch.setattr("callstate_sidecar.serving.connection.monotonic", lambda: next(clock))
    await wired.client()
    while not wired.core.server.connections:
        await asyncio.sleep(0)
    [connection] = wired.core.server.connections
    served: list[bytes | None] = []
    monkeypatch.setattr(wired.core.server, "handle", lambda _, line: served.append(line))
    connection.data_received(b"1\n2\n3\n4\n5\n")
    assert served == [b"1", b"2"]
    while len(served) < 5:
        await asyncio.sleep(0)
    assert served == [b"1", b"2", b"3", b"4", b"5"]


async def test_a_line_too_long_is_dropped_up_to_its_end(wired: Wired) -> None:
    reader, writer = await wired.client()
    for _ in range(40):
        writer.write(b"x" * 1000)
        await writer.drain()
    while not wired.core.server.connections:
        await asyncio.sleep(0)
    [connection] = wired.core.server.connections
    while not connection._splitter._dropping:
        await asyncio.sleep(0)
    assert connection._splitter.pending < 4 * KIB, "in bounded memory"
    writer.write(b"y\n" + PING % 1)
    error = await read(reader)
    assert error["id"] is None
    assert error["error"]["data"]["kind"] == "too_large"
    assert (await read(reader))["id"] == 1


async def test_half_a_line_before_a_disconnect_does_no_harm(wired: Wired) -> None:
    _, writer = await wired.client()
    writer.write(PING[:20])
    await writer.drain()
    writer.close()
    reader, other = await wired.client()
    other.write(PING % 1)
    assert (await read(reader))["id"] == 1
    while len(wired.core.server.connections) > 1:
        await asyncio.sleep(0)


async def test_who_says_that_nothing_more_comes_still_gets_all_replies(wired: Wired) -> None:
    """`printf … | nc -U`: the end of the requests arrives with the last of them."""
    for _ in range(20):
        reader, writer = await wired.client()
        writer.write(b"".join(PING % number for number in range(300)))
        writer.write_eof()
        replies = [json.loads(line) for line in (await reader.read()).splitlines()]
        assert [reply["id"] for reply in replies] == list(range(300))


async def test_who_says_so_while_the_store_is_asked_still_gets_the_reply(wired: Wired) -> None:
    wired.core.memory.hold()
    reader, writer = await wired.client()
    writer.write(b'{"jsonrpc":"2.0","id":1,"method":"session.load","params":{"session_id":"a"}}\n')
    writer.write_eof()
    await wired.core.memory.called.wait()
    wired.core.memory.let_go()
    assert (await read(reader))["error"]["data"]["kind"] == "not_found"
    assert await reader.read() == b"", "then it is hung up"


# -- fairness ----------------------------------------------------------------------------------------------------


async def test_one_that_sends_much_leaves_the_others_their_turn() -> None:
    core = Core()
    greedy, modest = FakeClient(core), FakeClient(core)
    ids = greedy.send(*[("server.ping", {})] * (3 * LINES_A_TURN))
    assert not greedy.reading, "what is not served yet is not added to"
    [late] = modest.send(("server.ping", {}))
    while late not in modest.replies:
        await asyncio.sleep(0)
    assert len(greedy.replies) <= 2 * LINES_A_TURN
    while not greedy.answered(ids):
        await asyncio.sleep(0)
    assert greedy.reading
    assert [reply["id"] for reply in greedy.replies.values()] == ids


async def test_a_turn_serves_so_many_lines_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "monotonic", float)  # no time passes
    core = Core()
    peer = FakeClient(core)
    peer.send(*[("server.ping", {})] * (2 * LINES_A_TURN + 1))
    assert len(peer.connection.out) == LINES_A_TURN


async def test_what_arrives_without_time_left_is_split_and_served_in_a_later_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core = Core()
    peer = FakeClient(core)
    monkeypatch.setattr(core.server.queue, "has_time", lambda: False)
    data = PING % 1 + PING % 2 + (PING % 3)[:20]
    peer.connection.data_received(data)
    assert not peer.reading
    assert peer.connection.unserved_bytes == len(data)
    assert peer.connection.in_use
    while len(peer.replies) < 2:
        await asyncio.sleep(0)
    assert peer.reading
    peer.connection.data_received((PING % 3)[20:])
    while len(peer.replies) < 3:
        await asyncio.sleep(0)
    assert peer.reading
    assert not peer.connection.unserved_bytes


async def test_those_beyond_their_users_rate_are_served_in_the_time_that_a_turn_allows() -> None:
    core, now_s = Core(), 0.0
    rates = core.server.rates = RequestRates(100, lambda: now_s)
    peers = [FakeClient(core) for _ in range(20)]
    ids = [peer.send(*[("server.ping", {})] * 6) for peer in peers]
    queued = core.server.queue._waiting
    assert not queued, "they wait for tokens, not for turns"
    assert rates._waiting[NOBODY.uid] == 4
    now_s = 1.0
    while not all(map(FakeClient.answered, peers, ids)):
        await asyncio.sleep(0.001)
    assert not rates._waiting


# -- backpressure ------------------------------------------------------------------------------------------------


async def test_who_does_not_read_is_not_read_from_until_it_reads(wired: Wired) -> None:
    core = wired.core
    await core.save("a", session={"x": "y" * 20_000})
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, str(wired.path))
    count = 500
    load = b'{"jsonrpc":"2.0","id":%d,"method":"session.load","params":{"session_id":"a"}}\n'
    await loop.sock_sendall(client, b"".join(load % number for number in range(count)))
    while not core.server.connections:
        await asyncio.sleep(0)
    [connection] = core.server.connections
    while not connection._blocked:
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert connection._backlog, "lines wait here"
    assert connection._paused_reading
    assert connection.unsent_bytes < 64 * KIB + 21_000 * (64 * KIB // 20_000 + 2), "and replies do not pile up"
    pieces: list[bytes] = []
    lines = 0
    while lines < count:
        pieces.append(await loop.sock_recv(client, 1 << 20))
        lines += pieces[-1].count(b"\n")
    assert [json.loads(line)["id"] for line in b"".join(pieces).splitlines()] == list(range(count))
    assert not connection._paused_reading
    client.close()


async def test_replies_of_one_turn_are_bounded_too() -> None:
    core = Core(limits=LimitsConfig(pending_reply_bytes=64 * KIB))
    await core.save("a", session={"x": "y" * 20_000})
    peer = FakeClient(core)
    ids = peer.send(*[("session.load", {"session_id": "a"})] * 50)
    assert peer.connection.out_bytes <= 64 * KIB + 21_000
    while not peer.answered(ids):
        await asyncio.sleep(0)
    assert max(map(len, peer.writes)) <= 64 * KIB + 21_000


async def test_so_many_may_wait_for_the_store_and_no_more() -> None:
    core = Core()
    core.memory.hold()
    peer = FakeClient(core)
    ids = peer.send(*[("session.load", {"session_id": f"s{number}"}) for number in range(MAX_WAITING + 50)])
    while core.server.waiting < MAX_WAITING:
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert peer.connection.waiting == MAX_WAITING
    assert not peer.reading
    core.memory.let_go()
    while not peer.answered(ids):
        await asyncio.sleep(0)
    assert peer.connection.waiting == 0
    assert peer.reading


async def test_the_water_marks_are_set(wired: Wired) -> None:
    """uvloop's own low mark is 16 bytes: a client that reads slowly would be resumed and blocked all the time."""
    _, writer = await wired.client()
    writer.write(PING % 1)
    while not wired.core.server.connections:
        await asyncio.sleep(0)
    [connection] = wired.core.server.connections
    assert connection.transport is not None
    low, high = connection.transport.get_write_buffer_limits()
    assert (low, high) == (64 * KIB // LOW_WATER_SHARE, 64 * KIB)


async def test_data_queued_for_a_closed_connection_is_dropped() -> None:
    core = Core()
    peer = FakeClient(core)
    peer.send(("server.ping", {}))
    peer.connection.connection_lost(None)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not peer.writes
    peer.connection.flush()
    peer.connection.close()
    assert not core.server.connections


async def test_closing_sends_what_is_queued_first(wired: Wired) -> None:
    reader, writer = await wired.client()
    writer.write(PING % 1)
    await read(reader)
    [connection] = wired.core.server.connections
    connection.send(b"last words\n")
    connection.close()
    assert await reader.read() == b"last words\n"
    connection.data_received(PING % 2)
    assert not connection.out, "and takes no more"
