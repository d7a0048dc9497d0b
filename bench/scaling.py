"""How costs grow with sessions and connections; see scale.py for turns."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from bench.compare import pool
from bench.documents import documents
from bench.processes import Rig, Server
from bench.raw import fill
from bench.sampling import take
from bench.scale import Costs
from bench.sides import Operation, Sidecar, connected

ASKED: Final = 1000
"""So many sessions, spread over all there are, are asked for."""

SESSION_TURNS: Final = 20
SAMPLE_S: Final = 0.2


@dataclass(frozen=True)
class Sizes:
    """What was measured over daemons of many sizes."""

    costs: dict[str, Costs]
    memory: dict[int, float]
    """Sessions to resident memory as a multiple of their JSON."""


async def by_sessions(
    rig: Rig, redis: Server, counts: Sequence[int], operations: Sequence[str], *, rounds: int
) -> Sizes:
    """Daemons of each size beside each other, asked in turn, 32 tasks; the same number of sessions of each."""
    costs: dict[str, Costs] = {operation: {count: [] for count in counts} for operation in operations}
    memory: dict[int, float] = {}
    sides: dict[int, Sidecar] = {}
    asked: dict[int, list[str]] = {}
    try:
        for count in counts:
            server = rig.daemon(f"sessions-{count}", redis, "--set", f"store.prefix=sessions-{count}:")
            empty, ids = server.rss_bytes(), pool(SESSION_TURNS, count)
            kept = documents(ids, SESSION_TURNS)
            fill(server, kept)
            memory[count] = (server.rss_bytes() - empty) / sum(map(len, kept.values()))
            asked[count] = ids[:: max(1, count // ASKED)]
            sides[count] = Sidecar(await connected(server.path), server)
            await sides[count].keep({one: kept[one] for one in asked[count]})
        for _ in range(rounds):
            for operation in operations:
                for count, side in sides.items():
                    sample = await take(side, operation, asked[count], adds=4, tasks=32, seconds=SAMPLE_S)
                    costs[operation][count].append(1 / sample.throughput)
    finally:
        for side in sides.values():
            await side.close()
            rig.end(side.server)
    return Sizes(costs, memory)


class ManyConnections:
    """callstate through many connections, each session always through the same one.

    Args:
        sides: one a connection.
        session_ids: all sessions, dealt out in turn.
    """

    name = "callstate"

    def __init__(self, sides: Sequence[Sidecar], session_ids: Sequence[str]) -> None:
        self.server = sides[0].server
        self._sides = sides
        self._of = {session_id: number % len(sides) for number, session_id in enumerate(session_ids)}

    def operations(self) -> Mapping[str, Operation]:
        """Those of the connections."""
        names = self._sides[0].operations()
        return {name: self._dealt(name) for name in names}

    def _dealt(self, name: str) -> Operation:
        each = [side.operations()[name] for side in self._sides]
        by_session = {session_id: each[number] for session_id, number in self._of.items()}

        def operation(session_id: str) -> Awaitable[object]:
            return by_session[session_id](session_id)

        return operation

    async def keep(self, documents: Mapping[str, bytes]) -> None:
        """Through the first."""
        await self._sides[0].keep(documents)

    async def restore(self, session_ids: Iterable[str]) -> None:
        """Through the first."""
        await self._sides[0].restore(session_ids)

    async def turns(self, session_id: str) -> int | None:
        """Through the first."""
        return await self._sides[0].turns(session_id)

    async def settle(self) -> float:
        """Through the first."""
        return await self._sides[0].settle()

    async def close(self) -> None:
        """All of them."""
        for side in self._sides:
            await side.close()


async def by_connections(
    server: Server, counts: Sequence[int], operations: Sequence[str], *, rounds: int
) -> dict[str, Costs]:
    """The same number of tasks, the most of `counts`, through so many connections in turn."""
    tasks = max(counts)
    ids = pool(SESSION_TURNS, 2 * tasks)
    costs: dict[str, Costs] = {operation: {count: [] for count in counts} for operation in operations}
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(await connected(server.path)) for _ in range(tasks)]
        sides = [Sidecar(store, server) for store in stores]
        await sides[0].keep(documents(ids, SESSION_TURNS))
        for _ in range(rounds):
            for operation in operations:
                for count in counts:
                    side = ManyConnections(sides[:count], ids)
                    sample = await take(side, operation, ids, adds=4, tasks=tasks, seconds=SAMPLE_S)
                    costs[operation][count].append(1 / sample.throughput)
    return costs
