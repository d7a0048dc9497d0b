"""What can be said of every target within a minute."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import uvloop

from bench.burdens import FLUSH_WHEN_ASKED
from bench.compare import PER_TASK, TURNS, Cell, compare, keep_pools, pool
from bench.documents import documents
from bench.drivers import RedisPy
from bench.dying import JUDGED, play
from bench.dying import verdict as dying_verdict
from bench.limits import PIPELINED, blocking_beat, pipelined_cpu
from bench.processes import Rig, Server, awake
from bench.raw import fill
from bench.reaping import ticks
from bench.sampling import Spread
from bench.scale import by_length, relative
from bench.sides import ByHand, RedisStore, Sidecar, connected
from bench.starting import starts
from bench.stress import Arena, Size, bear, flushing_verdict
from bench.targets import Verdict, decided, judge

MATRIX: Final = (
    ("heartbeat", 20, 32), ("heartbeat", 200, 32), ("heartbeat", 20, 1),
    ("add_turn", 20, 32), ("add_turn", 200, 32), ("add_turn", 20, 1),
    ("load", 20, 32), ("load", 200, 32), ("load", 20, 1), ("load", 200, 1),
    ("save", 20, 32), ("save", 200, 32), ("save", 20, 1),
)  # fmt: skip
"""Operation, turns and tasks of each comparison that a target is about."""

MOST_TASKS: Final = 32

FLAT_TURNS: Final = (20, 2000)

REMARK_ROUNDS: Final = 3
"""For what is only remarked beside a figure."""

COMPARED: Final = ("heartbeat", "add_turn", "load", "save")
ALONE: Final = ("limits", "growth", "size", "reaping", "start", "dying")
AWAKE: Final = ("limits", "growth", "size", "reaping")
"""Of those, what is measured on processors that are kept awake."""
PARTS: Final = (*COMPARED, *ALONE)
"""What a run is made of. `size` is memory, and heartbeats while much of it is flushed."""


@dataclass(frozen=True)
class Effort:
    """How much is done: little says little, but soon.

    Args:
        rounds: samples of each side; fewer where those that were taken leave no doubt.
        seconds: a sample lasts.
        beats: of the blocking client, a round.
        batches: of pipelined heartbeats, a round.
        memory_sessions: that fill a daemon.
        dirty_sessions: that are flushed at once.
        live_sessions, due_sessions: that the reaper watches, and that fall silent.
        snapshot_sessions, log_sessions: that a start restores from a checkpoint, and from a log.
        kills: of workers, in each scene of dying.py.
    """

    rounds: int = 5
    seconds: float = 0.15
    beats: int = 1000
    batches: int = 50
    memory_sessions: int = 10_000
    dirty_sessions: int = 1000
    live_sessions: int = 100_000
    due_sessions: int = 10_000
    snapshot_sessions: int = 20_000
    log_sessions: int = 5_000
    kills: int = 60


TINY: Final = Effort(
    rounds=2, seconds=0.01, beats=20, batches=2, memory_sessions=200, dirty_sessions=20, live_sessions=500,
    due_sessions=100, snapshot_sessions=100, log_sessions=100, kills=3,
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
            alone = {
                "limits": lambda: self._limits(rig, daemon),
                "growth": lambda: self._growth(rig, redis, daemon),
                "size": lambda: self._size(rig, redis),
                "reaping": lambda: self._reaping(rig),
                "start": self._start,
                "dying": lambda: self._dying(rig, redis),
            }
            with awake():
                if self._parts.intersection(COMPARED):
                    uvloop.run(self._compare(redis, daemon))
                self._each(alone, AWAKE)
            self._each(alone, [part for part in ALONE if part not in AWAKE])

    def _each(self, alone: Mapping[str, Callable[[], Iterable[Verdict]]], parts: Iterable[str]) -> None:
        for part in parts:
            if part in self._parts:
                for verdict in alone[part]():
                    self._known(verdict)

    def _known(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        self._say(verdict)

    async def _compare(self, redis: Server, daemon: Server) -> None:
        effort = self._effort
        ours = Sidecar(await connected(daemon.path), daemon)
        theirs = RedisStore(RedisPy(redis.path), redis)
        by_hand = ByHand(RedisPy(redis.path), redis)
        try:
            await keep_pools([ours, theirs], dict.fromkeys(TURNS, PER_TASK * MOST_TASKS))
            for operation, turns, tasks in MATRIX:
                if operation not in self._parts:
                    continue
                cell = await compare(
                    [ours, theirs, by_hand] if operation == "add_turn" else [ours, theirs],
                    operation, turns, tasks, rounds=effort.rounds, seconds=effort.seconds, enough=decided,
                )  # fmt: skip
                self.cells.append(cell)
                for verdict in judge(cell):
                    self._known(verdict)
        finally:
            for side in (ours, theirs, by_hand):
                await side.close()

    def _limits(self, rig: Rig, daemon: Server) -> Iterator[Verdict]:
        effort, echo = self._effort, rig.echo()
        fill(daemon, documents(pool(20, PIPELINED), 20))
        ratio = blocking_beat(daemon, echo, rounds=effort.rounds, beats=effort.beats)
        yield Verdict("one blocking client, heartbeat p50 vs echo", ratio, 1.25)
        ratio, cost = pipelined_cpu(daemon, echo, rounds=effort.rounds, batches=effort.batches)
        note = f"daemon {cost.median * 1e6:.1f} µs"
        yield Verdict("daemon CPU a pipelined heartbeat vs echo", ratio, 5.0, note=note)
        rig.end(echo)

    def _growth(self, rig: Rig, redis: Server, daemon: Server) -> Iterator[Verdict]:
        short, long = FLAT_TURNS
        rounds = self._effort.rounds
        costs = uvloop.run(by_length(daemon, FLAT_TURNS, ["add_turn"], rounds=rounds))["add_turn"]
        micros = [Spread.of(costs[turns]).median * 1e6 for turns in FLAT_TURNS]
        unwritten = rig.daemon("unwritten", redis, *FLUSH_WHEN_ASKED, "--set", "store.prefix=unwritten:")
        few = min(rounds, REMARK_ROUNDS)
        alone = uvloop.run(by_length(unwritten, FLAT_TURNS, ["add_turn"], rounds=few))["add_turn"]
        rig.end(unwritten)
        by_itself = relative(alone)[long].median
        note = f"{micros[0]:.0f} and {micros[1]:.0f} µs; {by_itself:.3g}x with nothing written behind"
        yield Verdict(f"growth: add_turn at {long:,} turns vs at {short}", relative(costs)[long], 1.2, note=note)

    def _size(self, rig: Rig, redis: Server) -> Iterator[Verdict]:
        effort = self._effort
        arena = Arena(rig, redis, Size(dirty=effort.dirty_sessions, live=effort.memory_sessions), "size")
        name = f"memory of {effort.memory_sessions:,} sessions of 20 turns vs JSON"
        yield Verdict(name, Spread.of([arena.memory_of_json]), 1.5)
        yield flushing_verdict(
            [bear(arena.server, arena.flush()) for _ in range(effort.rounds)], effort.dirty_sessions
        )
        rig.end(arena.server)

    def _reaping(self, rig: Rig) -> Iterator[Verdict]:
        effort = self._effort
        idle, busy = uvloop.run(ticks(rig.root / "reaping", live=effort.live_sessions, due=effort.due_sessions))
        name = f"reaper: {effort.live_sessions:,} live, none due, tick"
        yield Verdict(name, Spread.of([idle * 1000]), 1.0, unit=" ms")
        name = f"reaper: {effort.due_sessions:,} due at once, longest tick"
        yield Verdict(name, Spread.of([busy * 1000]), 5.0, unit=" ms")

    def _start(self) -> Iterator[Verdict]:
        return starts(self._effort.snapshot_sessions, self._effort.log_sessions)

    def _dying(self, rig: Rig, redis: Server) -> Iterator[Verdict]:
        yield dying_verdict({name: play(rig, redis, name, self._effort.kills) for name in JUDGED})
