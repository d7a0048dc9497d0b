"""The cost of an operation by the length of a session's history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from bench.compare import pool
from bench.documents import documents
from bench.processes import Server
from bench.sampling import Spread, take
from bench.subjects import Sidecar, connected

GROWTH_SESSIONS: Final = 32
LEAST_ADDS: Final = 10
LONGER: Final = 0.1
"""In a stretch each session may get LEAST_ADDS turns, or this fraction of its length if that is more."""

GROWTH_S: Final = 0.1
"""Duration of a sample."""

Costs = dict[int, list[float]]
"""By history length in turns: seconds per request, one value per round."""


def relative(costs: Costs) -> dict[int, Spread]:
    """Each cost as a multiple of the first length's, round by round."""
    first = next(iter(costs.values()))
    return {
        number: Spread.of([cost / base for cost, base in zip(values, first, strict=True)])
        for number, values in costs.items()
    }


async def by_length(
    server: Server, lengths: Sequence[int], operations: Sequence[str], *, rounds: int
) -> dict[str, Costs]:
    """Measure each operation at each history length with 32 tasks; a round goes through all lengths."""
    subject = Sidecar(await connected(server.path), server)
    ids = {turns: pool(turns, GROWTH_SESSIONS) for turns in lengths}
    costs: dict[str, Costs] = {operation: {turns: [] for turns in ids} for operation in operations}
    try:
        for turns, session_ids in ids.items():
            await subject.keep(documents(session_ids, turns))
        for number in range(-1, rounds):
            for operation in operations:
                for turns, session_ids in ids.items():
                    adds = max(LEAST_ADDS, round(LONGER * turns))
                    sample = await take(subject, operation, session_ids, adds=adds, tasks=32, seconds=GROWTH_S)
                    if number >= 0:
                        costs[operation][turns].append(1 / sample.throughput)
    finally:
        await subject.close()
    return costs


def curve_json(costs: Mapping[str, Costs]) -> dict[str, dict[int, dict[str, list[float]]]]:
    """By operation and length: the cost in microseconds, and as a multiple of that at the first length."""
    return {
        operation: {
            number: {"us": Spread.of([value * 1e6 for value in cost[number]]).to_json(), "ratio": ratio.to_json()}
            for number, ratio in relative(cost).items()
        }
        for operation, cost in costs.items()
    }
