"""Commands of one round trip are packed, and replies parsed, in slices; a connection that fails is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import ResponseError

from callstate_sidecar.slices import SLICE_S, Slices
from callstate_sidecar.stores.redis import servers
from callstate_sidecar.stores.redis.servers import pipeline

COMMANDS = [("ECHO", f"{number}") for number in range(20)]
A_SLICE = 4


class Server:
    """A redis-py client, its pool and its one connection; answers each command with its argument."""

    def __init__(self) -> None:
        self.connection_pool = self
        self.log: list[str] = []
        self.sent: list[bytes] = []
        self.replies: list[Any] = []
        self.failures: dict[str, Exception] = {}

    async def get_connection(self) -> Server:
        """The pool's."""
        self.log.append("taken")
        return self

    async def release(self, connection: Server) -> None:
        """The pool's."""
        assert connection is self
        self.log.append("released")

    def pack_commands(self, commands: Sequence[Sequence[str]]) -> list[bytes]:
        """The connection's."""
        self.log.append("packed")
        return [" ".join(words).encode() for words in commands]

    async def send_packed_command(self, packed: list[bytes]) -> None:
        """The connection's."""
        self.log.append("sent")
        self.sent += packed
        self.replies = [each.split()[1].decode() for each in packed]

    async def next_reply(self) -> Any:
        """The connection's."""
        self.log.append("parsed")
        reply = self.replies.pop(0)
        failure = self.failures.get(reply, reply)
        if isinstance(failure, LostError):
            raise failure
        return failure

    async def disconnect(self, *, nowait: bool) -> None:
        """The connection's."""
        assert nowait
        self.log.append("disconnected")


async def run(server: Any) -> list[Any]:
    return await pipeline(server, COMMANDS)


async def test_replies_are_in_order_and_errors_are_among_them() -> None:
    server, error = Server(), ResponseError("WRONGTYPE")
    server.failures["3"] = error
    assert await run(server) == ["0", "1", "2", error, *map(str, range(4, 20))]
    assert server.sent == [b"ECHO %d" % number for number in range(20)]
    assert (server.log[0], server.log[-1]) == ("taken", "released")
    assert "disconnected" not in server.log


async def test_a_connection_that_is_lost_is_dropped() -> None:
    server = Server()
    server.failures["3"] = LostError("gone")
    with pytest.raises(LostError):
        await run(server)
    assert server.log[-2:] == ["disconnected", "released"]


async def test_replies_that_nobody_waits_for_any_more_reach_no_later_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(servers, "Slices", lambda: Slices(0.0))
    server = Server()
    running = asyncio.ensure_future(run(server))
    while server.log.count("parsed") < 3:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert server.log[-2:] == ["disconnected", "released"]


async def test_packing_and_parsing_give_way_when_their_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = count()
    monkeypatch.setattr(servers, "Slices", lambda: Slices(clock=lambda: next(looks) * SLICE_S / A_SLICE))
    server, in_a_turn = Server(), list[int]()
    running = asyncio.ensure_future(run(server))
    while not running.done():
        before = len(server.log)
        await asyncio.sleep(0)
        in_a_turn.append(sum(word in ("packed", "parsed") for word in server.log[before:]))
    assert sum(in_a_turn) == 2 * len(COMMANDS)
    assert max(in_a_turn) <= 2 * A_SLICE - 1, "the last of one kind and the first of the other, with what is sent"
