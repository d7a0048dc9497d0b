"""What can be said of every target within a minute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import uvloop

from bench.compare import POOLS, Cell, compare, keep_pools
from bench.drivers import RedisPy
from bench.limits import blocking_beat, pipelined_cpu
from bench.processes import Rig, Server
from bench.reaping import ticks
from bench.sampling import Spread, percentile
from bench.scale import beats_while_flushing, growth, memory
from bench.sides import ByHand, RedisStore, Sidecar
from bench.targets import Verdict, judge
from callstate_client import connect

MATRIX: Final = tuple(
    (operation, turns, tasks)
    for operation, both in (("heartbeat", False), ("add_turn", False), ("load", True), ("save", False))
    for tasks in (32, 1)
    for turns in (20, 200)
    if tasks == 32 or turns == 20 or both
)
"""Operation, turns and tasks of each comparison that a target is about."""

FLAT_TURNS: Final = (20, 2000)


@dataclass(frozen=True)
class Effort:
    """How much is done. Seconds a sample, and how many of what; small numbers say little, but soon."""

    rounds: int = 5
    seconds: float = 0.2
    beats: int = 2000
    batches: int = 50
    memory_sessions: int = 20_000
    dirty_sessions: int = 1000
    live_sessions: int = 100_000
    due_sessions: int = 10_000
    pools: dict[int, int] | None = None


async def comparisons(redis: Server, daemon: Server, effort: Effort, say: Callable[[Cell], None]) -> list[Cell]:
    """callstate, RedisStore and Redis by hand, in turn."""
    ours = Sidecar(await connect(str(daemon.path)), daemon)
    theirs = RedisStore(RedisPy(redis.path), redis)
    by_hand = ByHand(RedisPy(redis.path), redis)
    pools = effort.pools or POOLS
    cells: list[Cell] = []
    try:
        await keep_pools([ours, theirs], pools)
        for operation, turns, tasks in MATRIX:
            sides = [ours, theirs, by_hand] if operation == "add_turn" and tasks > 1 else [ours, theirs]
            cell = await compare(
                sides, operation, turns, tasks,
                rounds=effort.rounds, seconds=effort.seconds, sessions=pools[turns],
            )  # fmt: skip
            cells.append(cell)
            say(cell)
    finally:
        for side in (ours, theirs, by_hand):
            await side.close()
    return cells


def limits(daemon: Server, echo: Server, effort: Effort) -> Iterator[Verdict]:
    """Beside a server that only echoes."""
    ratio = blocking_beat(daemon, echo, rounds=effort.rounds, beats=effort.beats)
    yield Verdict("one blocking client, heartbeat p50 vs echo", ratio, 1.25)
    ratio, cost = pipelined_cpu(daemon, echo, rounds=effort.rounds, batches=effort.batches)
    note = f"daemon {cost.median * 1e6:.1f} µs"
    yield Verdict("daemon CPU a pipelined heartbeat vs echo", ratio, 5.0, note=note)


def scales(rig: Rig, redis: Server, daemon: Server, effort: Effort) -> Iterator[Verdict]:
    """With more turns, sessions, unwritten sessions, dead calls."""
    short, long = FLAT_TURNS
    cost = uvloop.run(growth(daemon, FLAT_TURNS, rounds=effort.rounds))
    grown = Spread(*(cost[long].median / part for part in (cost[short].median, cost[short].high, cost[short].low)))
    note = f"{cost[short].median * 1e6:.0f} and {cost[long].median * 1e6:.0f} µs"
    yield Verdict(f"growth: add_turn at {long:,} turns vs at {short}", grown, 1.2, note=note)

    used = uvloop.run(memory(rig, redis, effort.memory_sessions, 20))
    name = f"memory a session of 20 turns vs JSON, {effort.memory_sessions:,}"
    yield Verdict(name, _one(used), 1.5)

    beats, flush = uvloop.run(
        beats_while_flushing(rig, redis, dirty=effort.dirty_sessions, turns=200, rounds=effort.rounds)
    )
    note = f"{len(beats):,} beats, longest {max(beats) * 1000:.1f} ms, flush {flush.median * 1000:.0f} ms"
    name = f"beat p99 while {effort.dirty_sessions:,} sessions of 200 turns flush"
    yield Verdict(name, _one(percentile(beats, 0.99) * 1000), 5.0, unit=" ms", note=note)

    idle, busy = ticks(rig.root / "reaping", live=effort.live_sessions, due=effort.due_sessions)
    yield Verdict(f"reaper: {effort.live_sessions:,} live, none due", _one(idle * 1000), 1.0, unit=" ms")
    name = f"reaper: {effort.due_sessions:,} due at once, longest turn"
    yield Verdict(name, _one(busy * 1000), 5.0, unit=" ms")


def _one(value: float) -> Spread:
    return Spread(value, value, value)


def run(effort: Effort, say: Callable[[str], None]) -> tuple[list[Cell], list[Verdict]]:
    """All of it, each line said as soon as it is known."""
    verdicts: list[Verdict] = []

    def known(verdict: Verdict) -> None:
        verdicts.append(verdict)
        say(verdict.line())

    def compared(cell: Cell) -> None:
        for verdict in judge([cell]):
            known(verdict)

    with Rig() as rig:
        redis, echo = rig.redis(), rig.echo()
        daemon = rig.daemon("callstate", redis)
        cells = uvloop.run(comparisons(redis, daemon, effort, compared))
        for verdict in limits(daemon, echo, effort):
            known(verdict)
        for verdict in scales(rig, redis, daemon, effort):
            known(verdict)
    return cells, verdicts
