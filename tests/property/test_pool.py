"""Whatever tasks do with a pool, each connection has one user, and nobody waits while a connection is free."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from callstate_sidecar.stores.redis.pool import Pool
from support.budget import examples

CONNECTIONS = 3


class Wire:
    """What a connection has of asyncio and hiredis: open, with nothing unread."""

    _buffer = b""

    def __init__(self) -> None:
        self._reader = self

    def at_eof(self) -> bool:
        """Of the stream that is read."""
        return False

    def exception(self) -> None:
        """Of the stream that is read."""

    def is_closing(self) -> bool:
        """Of the stream that is written."""
        return False

    def has_data(self) -> bool:
        """Of the parser's reader."""
        return False


class Connection:
    """Connects in a turn of the loop."""

    def __init__(self, **_: Any) -> None:
        self._reader: Wire | None = None
        self._writer = self._parser = Wire()

    async def connect(self) -> None:
        """As redis-py's."""
        if self._reader is None:
            await asyncio.sleep(0)
            self._reader = Wire()

    async def can_read(self) -> bool:
        """As redis-py's."""
        return False

    can_read_destructive = can_read

    async def disconnect(self, nowait: bool = False) -> None:
        """As redis-py's."""
        self._reader = None


class Tasks:
    """Tasks that take a connection each, and hold it until they are told to give it back."""

    def __init__(self) -> None:
        self.pool = Pool(Connection, CONNECTIONS, 30.0, protocol=2)
        self.waiting: list[asyncio.Task[Any]] = []
        self.holding: list[Any] = []
        self.served: list[int] = []
        self.left: set[int] = set()
        self.started = 0

    async def _take(self, number: int) -> None:
        connection = await self.pool.get_connection()
        assert connection not in self.holding, "somebody else has it"
        self.served.append(number)
        self.holding.append(connection)

    def begin(self) -> None:
        self.waiting.append(asyncio.create_task(self._take(self.started), name=f"{self.started}"))
        self.started += 1

    def give_back(self, which: int) -> None:
        if self.holding:
            self.pool.give_back(self.holding.pop(which % len(self.holding)))

    def take_at_once(self) -> None:
        connection = self.pool.take()
        if connection is not None:
            assert connection not in self.holding
            self.holding.append(connection)

    def cancel(self, which: int) -> None:
        waiting = [task for task in self.waiting if not task.done()]
        if waiting:
            task = waiting[which % len(waiting)]
            task.cancel()
            self.left.add(int(task.get_name()))

    def break_one(self, which: int) -> None:
        idle: list[Any] = self.pool._available_connections
        if idle:
            idle[which % len(idle)]._reader = None

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(self.holding) <= CONNECTIONS
        idle = len(self.pool._available_connections)
        assert len(self.pool._in_use_connections) + idle <= CONNECTIONS
        waiting = [task for task in self.waiting if not task.done()]
        assert not waiting or len(self.holding) == CONNECTIONS, "nobody waits while one is free"


STEPS = st.tuples(
    st.sampled_from(["begin", "begin", "give", "take", "cancel", "break", "turn", "settle"]), st.integers(0, 9)
)


async def run(steps: list[tuple[str, int]]) -> None:
    tasks = Tasks()
    for step, which in steps:
        match step:
            case "begin":
                tasks.begin()
            case "give":
                tasks.give_back(which)
            case "take":
                tasks.take_at_once()
            case "cancel":
                tasks.cancel(which)
            case "break":
                tasks.break_one(which)
            case "turn":
                await asyncio.sleep(0)
            case _:
                await tasks.settle()
    while tasks.holding or any(not task.done() for task in tasks.waiting):
        await tasks.settle()
        tasks.give_back(0)
    for result in await asyncio.gather(*tasks.waiting, return_exceptions=True):
        assert result is None or isinstance(result, asyncio.CancelledError)
    assert {*tasks.served} | tasks.left == {*range(tasks.started)}


@settings(max_examples=examples(200))
@given(st.lists(STEPS, max_size=60))
def test_each_connection_has_one_user_and_nobody_waits_for_a_free_one(steps: list[tuple[str, int]]) -> None:
    asyncio.run(run(steps))
