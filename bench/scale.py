"""What more turns of a session cost; see scaling.py for sessions and connections, stress.py for flushes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bench.compare import pool
from bench.documents import documents
from bench.processes import Server
from bench.sampling import Spread, take
from bench.sides import Sidecar, connected

GROWTH_SESSIONS: Final = 32
LEAST_ADDS: Final = 10
LONGER: Final = 0.1
"""Each of so many sessions may get so many turns in a stretch, or this part of what it has where that is more."""

GROWTH_S: Final = 0.1
"""How long a sample lasts."""

Costs = dict[int, list[float]]
"""How many (turns, sessions, connections …) to seconds a request, round by round."""


def relative(costs: Costs) -> dict[int, Spread]:
    """Each cost over that of the first, round by round."""
    first = next(iter(costs.values()))
    return {
        number: Spread.of([cost / base for cost, base in zip(values, first, strict=True)])
        for number, values in costs.items()
    }


async def by_length(
    server: Server, lengths: Sequence[int], operations: Sequence[str], *, rounds: int
) -> dict[str, Costs]:
    """What each operation costs at each history length, 32 tasks; the lengths in turn, round by round."""
    side = Sidecar(await connected(server.path), server)
    ids = {turns: pool(turns, GROWTH_SESSIONS) for turns in lengths}
    costs: dict[str, Costs] = {operation: {turns: [] for turns in ids} for operation in operations}
    try:
        for turns, session_ids in ids.items():
            await side.keep(documents(session_ids, turns))
        for number in range(-1, rounds):
            for operation in operations:
                for turns, session_ids in ids.items():
                    adds = max(LEAST_ADDS, round(LONGER * turns))
                    sample = await take(side, operation, session_ids, adds=adds, tasks=32, seconds=GROWTH_S)
                    if number >= 0:
                        costs[operation][turns].append(1 / sample.throughput)
    finally:
        await side.close()
    return costs
