"""The bound on unread replies of all connections together."""

from __future__ import annotations

import asyncio

import pytest

from callstate_sidecar.serving.unread import LEAST_SHARE_BYTES, UnreadReplies
from support.core import Core, FakeClient

MIB = 1024 * 1024
TOTAL = 64 * MIB
EACH = 8 * MIB


class FakeConnection:
    """A connection whose client reads when the test says so."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self.bound_bytes = 0
        self.aborted = False

    def bound(self, pending_reply_bytes: int) -> None:
        self.bound_bytes = pending_reply_bytes

    def abort(self) -> None:
        self.aborted = True


class Connections:
    """Connections, and the object that watches them."""

    def __init__(self, count: int) -> None:
        self.all = [FakeConnection() for _ in range(count)]
        self.closed: list[int] = []
        self.unread = UnreadReplies(set(self.all), self.closed.append)
        self.unread.limit(EACH, TOTAL)

    def send(self, number: int, size: int) -> None:
        self.all[number].held_bytes += size
        self.unread.held_more(size)


def test_all_may_have_their_bound_while_there_is_room() -> None:
    connections = Connections(10)
    for number in range(4):
        connections.send(number, EACH - 1)
    assert {each.bound_bytes for each in connections.all} == {EACH}
    assert not connections.closed


def test_from_half_of_the_total_on_each_gets_a_share_until_much_is_read() -> None:
    connections = Connections(16)
    for number in range(16):
        connections.send(number, 3 * MIB)
    assert {each.bound_bytes for each in connections.all} == {TOTAL // 2 // 16}
    for each in connections.all[:8]:
        each.held_bytes = 0
    connections.send(0, TOTAL // 8)
    assert connections.all[0].bound_bytes == TOTAL // 2 // 16, "24 of 64 MiB are still unread"
    for each in connections.all:
        each.held_bytes = 0
    connections.send(0, TOTAL // 8)
    assert {each.bound_bytes for each in connections.all} == {EACH}
    assert not connections.closed


def test_a_share_is_never_less_than_a_page() -> None:
    connections = Connections(10_000)
    connections.send(0, 40 * MIB)
    assert connections.all[0].bound_bytes == LEAST_SHARE_BYTES


def test_beyond_the_total_those_with_most_unread_bytes_are_closed(caplog: pytest.LogCaptureFixture) -> None:
    connections = Connections(20)
    for number in range(20):
        connections.send(number, 2 * MIB + number)
    connections.send(7, 12 * MIB)
    connections.send(3, 16 * MIB)
    assert [number for number, each in enumerate(connections.all) if each.aborted] == [3]
    assert connections.closed == [1]
    assert "limits.reply_bytes_total is reached; 1 connections were closed" in caplog.text


def test_a_total_below_the_bound_of_one_connection_is_its_bound_too() -> None:
    connections = Connections(1)
    connections.unread.limit(EACH, MIB)
    assert connections.all[0].bound_bytes == MIB


async def test_lines_that_are_unfinished_or_wait_count() -> None:
    client = FakeClient(Core())
    connection = client.connection
    connection.data_received(b"x" * 1000)
    connection.data_received(b"x" * 500)
    assert connection.held_bytes == 1500
    connection.pause_writing()
    connection.data_received(b"\nxx\n")
    connection.data_received(b"\n" * 300)
    assert connection.held_bytes == 1804
    connection.resume_writing()
    while connection.unserved_bytes:
        await asyncio.sleep(0)
    connection.data_received(b"x" * 500)
    assert connection.unserved_bytes == 500
