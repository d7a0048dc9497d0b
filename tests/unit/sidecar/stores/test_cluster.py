"""Commands on a cluster: one by itself is no task of its own, and nodes that disagree are given time to agree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import hiredis
import pytest

from callstate_sidecar.config.redis_url import parse_redis_url
from callstate_sidecar.stores.redis import cluster as cluster_module
from callstate_sidecar.stores.redis.cluster import HOPS, TRY_AGAIN_S, Cluster
from callstate_sidecar.stores.redis.connections import Connector
from callstate_sidecar.stores.redis.node_watch import NodeWatch
from callstate_sidecar.stores.redis.servers import Command

COMMAND = Command(b"key", ("ECHO", "there"))
TIMEOUT_S = 30.0


class Nodes:
    """What the two primaries agree about.

    Attributes:
        agree: else each says of everything that the other has it.
        commands: how many they were sent.
    """

    def __init__(self) -> None:
        self.agree = True
        self.commands = 0

    def answer(self, command: list[bytes], port: int) -> bytes:
        self.commands += 1
        if self.agree:
            return b"+%b\r\n" % command[-1]
        return b"-MOVED 1 %b:%d\r\n" % ((b"localhost", b"127.0.0.1")[self.commands % 2], port)


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


@pytest.fixture
async def cluster(nodes: Nodes) -> AsyncIterator[Cluster]:
    """Two primaries, which are the same server under two names."""
    closed = asyncio.Semaphore(0)
    connected = 0
    port = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        connected += 1
        parser = hiredis.Reader()
        while data := await reader.read(1 << 16):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                slots = (
                    b"*2\r\n*3\r\n:0\r\n:8191\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n"
                    b"*3\r\n:8192\r\n:16383\r\n*2\r\n$9\r\nlocalhost\r\n:%d\r\n" % (port, port)
                )
                writer.write(slots if command[0] == b"CLUSTER" else nodes.answer(command, port))
        writer.close()
        closed.release()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    connector = Connector(
        parse_redis_url(f"redis+cluster://127.0.0.1:{port}"), None, connections=1, timeout_s=TIMEOUT_S
    )
    cluster = Cluster(connector, NodeWatch(connector))
    yield cluster
    await cluster.disconnect(in_use=True)
    for _ in range(connected):
        await closed.acquire()
    listening.close()


async def tasks_of(work: Any) -> tuple[Any, int]:
    """What it returns, and how many tasks it starts."""
    loop = asyncio.get_running_loop()
    started = 0

    def start(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        nonlocal started
        started += 1
        return asyncio.Task(work, loop=loop, **options)

    loop.set_task_factory(start)
    try:
        return await work, started
    finally:
        loop.set_task_factory(None)


async def test_a_command_by_itself_is_no_task(cluster: Cluster) -> None:
    assert await cluster.execute(COMMAND, TIMEOUT_S) == b"there"
    assert await tasks_of(cluster.execute(COMMAND, TIMEOUT_S)) == (b"there", 0)
    assert await tasks_of(cluster.pipeline([COMMAND, COMMAND])) == ([b"there", b"there"], 0)


async def test_commands_for_two_primaries_are_sent_at_a_time(cluster: Cluster) -> None:
    other = Command(b"b", ("ECHO", "elsewhere"))
    both = [b"there", b"elsewhere"]
    assert await cluster.pipeline([COMMAND, other]) == both
    assert await tasks_of(cluster.pipeline([COMMAND, other])) == (both, 2)
    assert await tasks_of(cluster.pipeline([])) == ([], 0)


async def test_nodes_that_point_at_each_other_are_given_time(
    cluster: Cluster, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they do for a moment when a slot has moved, until all have heard of it."""
    assert await cluster.execute(COMMAND, TIMEOUT_S) == b"there"
    waits: list[float] = []

    sleep = asyncio.sleep

    async def passing(delay_s: float) -> None:
        await sleep(0)
        if delay_s:  # else a slice gives way
            waits.append(delay_s)
            nodes.agree = len(waits) == 3

    monkeypatch.setattr(asyncio, "sleep", passing)
    nodes.agree, nodes.commands = False, 0
    assert await cluster.execute(COMMAND, TIMEOUT_S) == b"there"
    assert waits == [TRY_AGAIN_S] * 3
    assert nodes.commands == HOPS + 4


async def test_a_slot_that_has_moved_is_followed_without_waiting(
    cluster: Cluster, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "TRY_AGAIN_S", None)
    answer = nodes.answer

    def moved_once(command: list[bytes], port: int) -> bytes:
        reply = answer(command, port)
        nodes.agree = True
        return reply

    monkeypatch.setattr(nodes, "answer", moved_once)
    nodes.agree = False
    assert await cluster.execute(COMMAND, TIMEOUT_S) == b"there"
