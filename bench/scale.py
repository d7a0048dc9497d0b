"""What more turns, more sessions and more unwritten ones cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from bench.compare import pool
from bench.documents import CONTENT, DURATION_MS, ROLE, documents
from bench.processes import Rig, Server
from bench.sampling import Spread, take
from bench.sides import SAVERS, Sidecar
from callstate_client import SessionState, connect
from callstate_client.client import SidecarStore

GROWTH_SESSIONS: Final = 32
GROWTH_ADDS: Final = 10
"""Each of so many sessions gets so many turns a sample, whatever its length: the same work for the store behind."""

GROWTH_S: Final = 0.1
"""How long a sample of the other operations lasts, and one of add_turn at most."""

LONG_TURNS: Final = 1000
"""From here on a few turns more don't matter."""


Costs = dict[int, list[float]]
"""How many (turns, sessions, connections …) to seconds a request, round by round."""


def relative(costs: Costs) -> dict[int, Spread]:
    """Each cost over that of the first, round by round."""
    first = next(iter(costs.values()))
    return {
        number: Spread.of([cost / base for cost, base in zip(values, first, strict=True)])
        for number, values in costs.items()
    }


async def fill(server: Server, sessions: Mapping[str, bytes]) -> None:
    """Give a daemon these sessions, and its store too."""
    async with connect(str(server.path)) as store:
        waiting = iter(sessions.values())

        async def save() -> None:
            for document in waiting:
                await store.save(SessionState.from_json(document))

        await asyncio.gather(*(save() for _ in range(SAVERS)))
        await store.flush(timeout_s=120.0)


async def fill_pool(server: Server, turns: int, sessions: int) -> None:
    """Give a daemon the sessions that `pool` names."""
    await fill(server, documents(pool(turns, sessions), turns))


async def by_length(
    server: Server, lengths: Sequence[int], operations: Sequence[str], *, rounds: int
) -> dict[str, Costs]:
    """What each operation costs at each history length, 32 tasks; the lengths in turn, round by round.

    The short ones are given their length again after each sample; the long ones may grow by a few percent, unless
    they are saved too: what is saved shall equal what is kept.
    """
    side = Sidecar(await connect(str(server.path)), server)
    ids = {turns: pool(turns, GROWTH_SESSIONS) for turns in lengths}
    costs: dict[str, Costs] = {operation: {turns: [] for turns in ids} for operation in operations}
    try:
        for turns, session_ids in ids.items():
            await side.keep(documents(session_ids, turns))
        for number in range(-1, rounds):
            for operation in operations:
                for turns, session_ids in ids.items():
                    sample = await take(
                        side, operation, session_ids, adds=GROWTH_ADDS, tasks=32,
                        seconds=GROWTH_S, restored=turns < LONG_TURNS or "save" in operations,
                    )  # fmt: skip
                    if number >= 0:
                        costs[operation][turns].append(1 / sample.throughput)
    finally:
        await side.close()
    return costs


async def memory(rig: Rig, redis: Server, sessions: int, turns: int) -> float:
    """A daemon's memory for so many sessions, as a multiple of their JSON."""
    server = rig.daemon(f"memory-{sessions}", redis, "--set", "store.prefix=memory:")
    empty = server.rss_bytes()
    kept = documents(pool(turns, sessions), turns)
    await fill(server, kept)
    used = server.rss_bytes() - empty
    rig.end(server)
    return used / sum(map(len, kept.values()))


@dataclass(frozen=True)
class Flushing:
    """A flush: how long it took, and how long each heartbeat that was sent meanwhile; seconds."""

    elapsed_s: float
    latencies_s: list[float]


async def beats_while_flushing(rig: Rig, redis: Server, *, dirty: int, turns: int, rounds: int) -> list[Flushing]:
    """How long heartbeats take while so many changed sessions are written to the store.

    The daemon is told to flush only when asked, so that all of them go at once.
    """
    options = ("--set", f"store.prefix=flushing-{dirty}:", "--set", "store.flush_interval_s=60")
    server = rig.daemon(f"flushing-{dirty}", redis, *options)
    ids = pool(turns, dirty)
    await fill(server, documents(ids, turns))
    flushes: list[Flushing] = []
    async with connect(str(server.path)) as worker, connect(str(server.path)) as other:
        for _ in range(rounds):
            await asyncio.gather(*(worker.add_turn(one, ROLE, CONTENT, DURATION_MS) for one in ids))
            latencies: list[float] = []
            beats = asyncio.create_task(_beat(other, ids[0], latencies))
            began = time.perf_counter()
            await worker.flush(timeout_s=60.0)
            flushes.append(Flushing(time.perf_counter() - began, latencies))
            beats.cancel()
            with suppress(asyncio.CancelledError):
                await beats
    rig.end(server)
    return flushes


async def _beat(store: SidecarStore, session_id: str, latencies: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await store.update_heartbeat(session_id)
        latencies.append(time.perf_counter() - began)
