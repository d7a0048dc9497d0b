"""When the requests of a store are written: together, or at once while one is under way at a time."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from callstate_client.errors import ConnectionLostError, RequestTimeoutError
from callstate_client.transport.connection import Connection
from callstate_client.transport.discovery import Candidate
from callstate_client.transport.nonblocking import LineProtocol


class Link:
    """The protocol and the transport of a connection, and what was written to it."""

    def __init__(self) -> None:
        self.transport = self
        self.may_write = True
        self.closing = False
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def writelines(self, lines: list[bytes]) -> None:
        self.writes.append(b"".join(lines))

    def is_closing(self) -> bool:
        return self.closing


class Linked:
    """A connection that has had a reply to its only request."""

    def __init__(self) -> None:
        self.link = Link()
        self.connection = Connection([Candidate("/nonexistent/s", "a test")], 60.0, lambda: None)
        self.connection._protocol = cast(LineProtocol, self.link)
        self.connection.generation = 1
        self.asked = 0

    def send(self, timeout_s: float | None = None, **options: Any) -> asyncio.Future[bytes]:
        waiter: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.asked += 1
        self.connection.send("server.ping", None, waiter, timeout_s=timeout_s, **options)
        return waiter

    def answer(self, *request_ids: int) -> None:
        lines: list[bytes | None] = [b'{"jsonrpc":"2.0","id":%d,"result":{}}' % number for number in request_ids]
        self.connection.received(cast(LineProtocol, self.link), lines)

    async def flushed(self) -> None:
        """One iteration of the loop, in which what is unsent is written."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    @property
    def ids(self) -> list[list[int]]:
        """The ids of the requests in each write."""
        return [
            [int(line.split(b'"id":')[1].split(b",")[0]) for line in data.splitlines()] for data in self.link.writes
        ]


@pytest.fixture
async def linked() -> Linked:
    linked = Linked()
    first = linked.send()
    await linked.flushed()
    linked.answer(1)
    await first
    linked.link.writes.clear()
    return linked


async def test_one_after_the_other_each_leaves_at_once(linked: Linked) -> None:
    for number in (2, 3, 4):
        reply = linked.send()
        assert linked.ids[-1] == [number], "without an iteration of the loop"
        linked.answer(number)
        assert reply.done()
    await linked.flushed()
    assert linked.ids == [[2], [3], [4]], "nothing is written twice"


async def test_what_follows_in_the_same_iteration_leaves_together_and_in_order(linked: Linked) -> None:
    for _ in range(4):
        linked.send()
    await linked.flushed()
    assert linked.ids == [[2], [3, 4, 5]]
    linked.answer(2, 3, 4, 5)
    linked.send()
    assert len(linked.ids) == 2, "the others' next requests are expected, too"
    linked.send()
    await linked.flushed()
    assert linked.ids[2:] == [[6, 7]]


async def test_it_waits_behind_what_is_gathered(linked: Linked) -> None:
    linked.connection.writable()  # as by a heartbeat that leaves with the others of this iteration
    linked.send()
    assert not linked.link.writes
    await linked.flushed()
    assert linked.ids == [[2]]


async def test_it_waits_while_the_daemon_does_not_read(linked: Linked) -> None:
    linked.link.may_write = False
    linked.send()
    await linked.flushed()
    assert not linked.link.writes
    linked.link.may_write = True
    linked.connection.writable()
    await linked.flushed()
    assert linked.ids == [[2]]


async def test_it_is_not_written_to_a_connection_that_closes(linked: Linked) -> None:
    linked.link.closing = True
    linked.send()
    assert not linked.link.writes


async def test_a_lone_request_that_is_cancelled_leaves_its_reply_unread(linked: Linked) -> None:
    reply = linked.send()
    reply.cancel()
    linked.answer(2)
    later = linked.send()
    linked.answer(3)
    assert later.done()


async def test_a_lone_request_times_out(linked: Linked) -> None:
    with pytest.raises(RequestTimeoutError, match="outcome unknown"):
        await linked.send(timeout_s=0.001)


async def test_a_lone_request_is_known_to_be_sent_when_the_connection_is_lost(linked: Linked) -> None:
    waiter: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    linked.connection.send("session.end", None, waiter)
    assert linked.connection.was_sent(waiter)
    linked.connection.lost(cast(LineProtocol, linked.link), None)
    with pytest.raises(ConnectionLostError, match="outcome unknown"):
        await waiter
    await linked.connection.close()
