"""What can be said of every target within a minute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import uvloop

from bench.compare import POOLS, Cell, compare, keep_pools
from bench.drivers import RedisPy
from bench.limits import blocking_beat, pipelined_cpu
from bench.processes import Rig, Server
from bench.reaping import ticks
from bench.sampling import Spread, percentile
from bench.scale import beats_while_flushing, by_length, fill_pool, memory, relative
from bench.sides import ByHand, RedisStore, Sidecar
from bench.targets import Verdict, judge
from callstate_client import connect

MATRIX: Final = (
    ("heartbeat", 20, 32), ("heartbeat", 200, 32), ("heartbeat", 20, 1),
    ("add_turn", 20, 32), ("add_turn", 200, 32), ("add_turn", 20, 1),
    ("load", 20, 32), ("load", 200, 32), ("load", 20, 1), ("load", 200, 1),
    ("save", 20, 32), ("save", 200, 32), ("save", 20, 1),
)  # fmt: skip
"""Operation, turns and tasks of each comparison that a target is about."""

FLAT_TURNS: Final = (20, 2000)

COMPARED: Final = ("heartbeat", "add_turn", "load", "save")
ALONE: Final = ("limits", "growth", "memory", "flushing", "reaping")
PARTS: Final = (*COMPARED, *ALONE)
"""What a run is made of."""


@dataclass(frozen=True)
class Effort:
    """How much is done: little says little, but soon.

    Args:
        rounds: samples of each side.
        seconds: a sample lasts.
        beats: of the blocking client, a round.
        batches: of pipelined heartbeats, a round.
        memory_sessions: that fill a daemon.
        dirty_sessions: that are flushed at once.
        live_sessions, due_sessions: that the reaper watches, and that fall silent.
        pools: see POOLS.
    """

    rounds: int = 5
    seconds: float = 0.15
    beats: int = 1000
    batches: int = 50
    memory_sessions: int = 10_000
    dirty_sessions: int = 1000
    live_sessions: int = 100_000
    due_sessions: int = 10_000
    pools: Mapping[int, int] = field(default_factory=lambda: POOLS)


TINY: Final = Effort(
    rounds=2, seconds=0.01, beats=20, batches=2, memory_sessions=200, dirty_sessions=20, live_sessions=500,
    due_sessions=100, pools={20: 32, 200: 32},
)  # fmt: skip
"""Whether everything runs; its figures mean nothing."""


class Quick:
    """One run.

    Args:
        effort: how much is done.
        parts: of PARTS.
        say: told each verdict as soon as it is known.
    """

    def __init__(self, effort: Effort, parts: frozenset[str], say: Callable[[Verdict], None]) -> None:
        self._effort = effort
        self._parts = parts
        self._say = say
        self.cells: list[Cell] = []
        self.verdicts: list[Verdict] = []

    def run(self) -> None:
        """Start the servers, measure, end them."""
        with Rig() as rig:
            redis = rig.redis()
            daemon = rig.daemon("callstate", redis)
            if self._parts.intersection(COMPARED):
                uvloop.run(self._compare(redis, daemon))
            alone = {
                "limits": lambda: self._limits(rig, daemon),
                "growth": lambda: self._growth(daemon),
                "memory": lambda: self._memory(rig, redis),
                "flushing": lambda: self._flushing(rig, redis),
                "reaping": lambda: self._reaping(rig),
            }
            for part in ALONE:
                if part in self._parts:
                    for verdict in alone[part]():
                        self._known(verdict)

    def _known(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        self._say(verdict)

    async def _compare(self, redis: Server, daemon: Server) -> None:
        effort = self._effort
        ours = Sidecar(await connect(str(daemon.path)), daemon)
        theirs = RedisStore(RedisPy(redis.path), redis)
        by_hand = ByHand(RedisPy(redis.path), redis)
        try:
            await keep_pools([ours, theirs], effort.pools)
            for operation, turns, tasks in MATRIX:
                if operation not in self._parts:
                    continue
                cell = await compare(
                    [ours, theirs, by_hand] if operation == "add_turn" else [ours, theirs],
                    operation, turns, tasks,
                    rounds=effort.rounds, seconds=effort.seconds, sessions=effort.pools[turns],
                )  # fmt: skip
                self.cells.append(cell)
                for verdict in judge(cell):
                    self._known(verdict)
        finally:
            for side in (ours, theirs, by_hand):
                await side.close()

    def _limits(self, rig: Rig, daemon: Server) -> Iterator[Verdict]:
        effort, echo = self._effort, rig.echo()
        uvloop.run(fill_pool(daemon, 20, effort.pools[20]))
        ratio = blocking_beat(daemon, echo, rounds=effort.rounds, beats=effort.beats)
        yield Verdict("one blocking client, heartbeat p50 vs echo", ratio, 1.25)
        ratio, cost = pipelined_cpu(daemon, echo, rounds=effort.rounds, batches=effort.batches)
        note = f"daemon {cost.median * 1e6:.1f} µs"
        yield Verdict("daemon CPU a pipelined heartbeat vs echo", ratio, 5.0, note=note)
        rig.end(echo)

    def _growth(self, daemon: Server) -> Iterator[Verdict]:
        short, long = FLAT_TURNS
        costs = uvloop.run(by_length(daemon, FLAT_TURNS, ["add_turn"], rounds=2 * self._effort.rounds))["add_turn"]
        micros = [Spread.of(costs[turns]).median * 1e6 for turns in FLAT_TURNS]
        note = f"{micros[0]:.0f} and {micros[1]:.0f} µs"
        yield Verdict(f"growth: add_turn at {long:,} turns vs at {short}", relative(costs)[long], 1.2, note=note)

    def _memory(self, rig: Rig, redis: Server) -> Iterator[Verdict]:
        sessions = self._effort.memory_sessions
        used = uvloop.run(memory(rig, redis, sessions, 20))
        yield Verdict(f"memory of {sessions:,} sessions of 20 turns vs JSON", Spread.of([used]), 1.5)

    def _flushing(self, rig: Rig, redis: Server) -> Iterator[Verdict]:
        dirty = self._effort.dirty_sessions
        rounds = uvloop.run(beats_while_flushing(rig, redis, dirty=dirty, turns=200, rounds=self._effort.rounds))
        p99 = Spread.of([percentile(each.latencies_s, 0.99) * 1000 for each in rounds])
        longest = max(max(each.latencies_s) for each in rounds) * 1000
        took = Spread.of([each.elapsed_s for each in rounds]).median * 1000
        note = f"longest {longest:.1f} ms, a flush {took:.0f} ms"
        yield Verdict(f"beat p99 while {dirty:,} sessions of 200 turns flush", p99, 5.0, unit=" ms", note=note)

    def _reaping(self, rig: Rig) -> Iterator[Verdict]:
        effort = self._effort
        idle, busy = ticks(rig.root / "reaping", live=effort.live_sessions, due=effort.due_sessions)
        name = f"reaper: {effort.live_sessions:,} live, none due, tick"
        yield Verdict(name, Spread.of([idle * 1000]), 1.0, unit=" ms")
        name = f"reaper: {effort.due_sessions:,} due at once, longest tick"
        yield Verdict(name, Spread.of([busy * 1000]), 5.0, unit=" ms")
