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

LONG_TURNS: Final = 1000
"""From here on a few turns more don't matter."""


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


async def growth(
    server: Server, lengths: Sequence[int], *, rounds: int
) -> tuple[dict[int, Spread], dict[int, Spread]]:
    """What an add_turn costs at each history length, 32 tasks; the lengths in turn, round by round.

    The short ones are given their length again after each sample; the long ones may grow by a few percent.

    Returns:
        for each length, the cost over that at the first length, and the cost itself in seconds.
    """
    side = Sidecar(await connect(str(server.path)), server)
    ids = {turns: pool(turns, GROWTH_SESSIONS) for turns in lengths}
    costs: dict[int, list[float]] = {turns: [] for turns in ids}
    try:
        for turns, session_ids in ids.items():
            await side.keep(documents(session_ids, turns))
        for number in range(-1, rounds):
            for turns, session_ids in ids.items():
                sample = await take(
                    side, "add_turn", session_ids,
                    adds=GROWTH_ADDS, tasks=32, seconds=60.0, restored=turns < LONG_TURNS,
                )  # fmt: skip
                if number >= 0:
                    costs[turns].append(1 / sample.throughput)
    finally:
        await side.close()
    first = costs[lengths[0]]
    grown = {
        turns: Spread.of([cost / base for cost, base in zip(values, first, strict=True)])
        for turns, values in costs.items()
    }
    return grown, {turns: Spread.of(values) for turns, values in costs.items()}


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
    options = ("--set", "store.prefix=flushing:", "--set", "store.flush_interval_s=60")
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
