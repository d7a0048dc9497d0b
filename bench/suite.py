"""The parts of a run. A quick run has a figure for every target within a minute, a full run measures everything.

Each part has servers of its own. Both kinds of run are the same code, with a different `Effort`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import uvloop
from redis import Redis

from bench.clients import Client, Glide, RedisPy
from bench.compare import PER_TASK, SPREAD, TURNS, Cell, compare, keep_pools, pool
from bench.day.figures import day_json, verdicts
from bench.day.run import Day, measure
from bench.documents import documents
from bench.failover import JUDGED, SCENES, deaths_json, failover_verdict, play
from bench.growth import by_length, curve_json, relative
from bench.limits import PIPELINED, blocking_heartbeat, pipelined_cpu
from bench.loads import (
    FLUSH_WHEN_ASKED,
    LoadedDaemon,
    Size,
    flushing_verdict,
    heartbeats_during,
    memory_over_json,
    under_load,
)
from bench.processes import Rig, Server, awake
from bench.reaper import ticks
from bench.sampling import Spread
from bench.starting import starts
from bench.store_bytes import bytes_json, bytes_verdicts, in_redis, in_sqlite
from bench.subjects import ByHand, RedisStore, Sidecar, Subject, connected
from bench.targets import Verdict, decided, judge
from bench.wire import fill

QUICK_MATRIX: Final = (
    ("heartbeat", 20, 32), ("heartbeat", 200, 32), ("heartbeat", 20, 1),
    ("add_turn", 20, 32), ("add_turn", 200, 32), ("add_turn", 20, 1),
    ("load", 20, 32), ("load", 200, 32), ("load", 20, 1), ("load", 200, 1),
    ("save", 20, 32), ("save", 200, 32), ("save", 20, 1),
)  # fmt: skip
"""Operation, turns and tasks of each comparison that has a target."""

OPERATIONS: Final = ("heartbeat", "add_turn", "save", "save_built", "load", "list_active")
SPREAD_OVER: Final = ("add_turn", "save")
"""Operations whose writes the daemon batches: also compared on many sessions in turn, see compare.SPREAD."""

SPREAD_TASKS: Final = 32
GROWING: Final = ("heartbeat", "add_turn", "load", "save")

FEWER_ROUNDS: Final = 3
"""Rounds for a remark beside a figure."""

REWRITE_BYTES: Final = 1 << 30
"""A longer append-only file is rewritten between two comparisons, where that affects no figure."""

QUICK_PARTS: Final = (
    "heartbeat",
    "add_turn",
    "load",
    "save",
    "limits",
    "growth",
    "size",
    "bytes",
    "reaping",
    "start",
    "dying",
)
FULL_PARTS: Final = (
    "comparisons", "limits", "growth", "size", "bytes", "reaping", "start", "loads", "dying", "day",
)  # fmt: skip
"""The parts in the order in which they are measured. `size` is memory, and heartbeats during a large flush."""

ASLEEP: Final = ("start", "dying")
"""Parts measured on processors that may go idle, see awake()."""


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Args:
        full: all operations, peers and lengths, and the loads.
        rounds: samples of each subject; a quick run stops earlier if they already agree.
        seconds: duration of a sample.
        heartbeats: of the blocking client, per round.
        batches: of pipelined heartbeats, per round.
        tasks: concurrent tasks, in the comparisons of a full run.
        lengths: of histories, in turns; the growth target compares the last with the first.
        stored: lengths at which it is measured what a turn costs the store.
        flushed: sessions flushed at once there.
        spread: see compare.SPREAD.
        size: see loads.Size.
        live, due: sessions that the reaper watches, and those of them that fall silent.
        from_checkpoint, from_log, turn_by_turn: sessions that a start restores, see starts().
        idle_s: duration of the idle load, with which the others are compared.
        kills: of workers, in each scene of failover.py.
        days: hosts with live calls, see day/run.py.
    """

    full: bool = False
    rounds: int = 5
    seconds: float = 0.15
    heartbeats: int = 1000
    batches: int = 50
    tasks: Sequence[int] = (1, 32)
    lengths: Sequence[int] = (20, 2000)
    stored: Sequence[int] = (20, 200, 2000)
    flushed: int = 50
    spread: Mapping[int, int] = field(default_factory=lambda: SPREAD)
    size: Size = field(default_factory=Size)
    live: int = 100_000
    due: int = 10_000
    from_checkpoint: int = 20_000
    from_log: int = 5_000
    turn_by_turn: int = 0
    idle_s: float = 1.0
    kills: int = 60
    days: Sequence[Day] = ()


QUICK: Final = Effort()
FULL: Final = Effort(
    full=True, seconds=0.2, heartbeats=2000, batches=100, tasks=(1, 32, 256), lengths=(20, 60, 200, 600, 2000),
    flushed=200, from_checkpoint=100_000, from_log=100_000, turn_by_turn=100_000, kills=200,
    days=(Day(), Day(calls=500, segments=6, dies=None), Day(calls=8000, segments=6, dies=None)),
)  # fmt: skip
TINY: Final = Effort(
    rounds=2, seconds=0.01, heartbeats=20, batches=2, lengths=(20, 60), stored=(20, 40, 60), flushed=5,
    spread={20: 200, 200: 200}, size=Size(dirty=20, live=200, many=300), live=500, due=100,
    from_checkpoint=100, from_log=100, idle_s=0.1, kills=3,
)  # fmt: skip
"""Only checks that everything runs; the figures mean nothing."""
TINY_FULL: Final = replace(
    TINY, full=True, kills=6, days=(Day(calls=16, workers=2, segments=2, segment_s=0.5, dies=1),)
)


@dataclass
class Figures:
    """What a run has measured so far."""

    cells: list[Cell] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    growth: dict[str, Any] = field(default_factory=dict)
    """Costs by operation and history length."""
    bytes: dict[str, Any] = field(default_factory=dict)
    """By store and history length: what a turn costs it."""
    loads: dict[str, Any] = field(default_factory=dict)
    """Heartbeat latencies by load."""
    dying: dict[str, Any] = field(default_factory=dict)
    """By scene: how soon a worker's death was reported and its call taken over."""
    day: dict[str, Any] = field(default_factory=dict)
    """By number of live calls: what a host's day takes."""


class Run:
    """One run.

    Args:
        effort: how much is measured.
        show: called with each verdict as soon as it is known.
    """

    def __init__(self, effort: Effort, show: Callable[[Verdict], None]) -> None:
        self._effort = effort
        self._show = show
        self.figures = Figures()

    def run(self, parts: Collection[str]) -> None:
        """Measure these parts; `figures` is filled as it goes."""
        steps: dict[str, Callable[[Rig], Iterable[Verdict]]] = {
            "limits": self._limits, "growth": self._growth, "size": self._size, "bytes": self._bytes,
            "reaping": self._reaping, "start": self._start, "loads": self._loads, "dying": self._dying,
            "day": self._day,
        }  # fmt: skip
        order = FULL_PARTS if self._effort.full else QUICK_PARTS
        operations = [part for part in order if part in parts and part not in steps]
        with awake():
            if operations:
                with Rig() as rig:
                    uvloop.run(self._compare(rig, operations))
            self._each(steps, [part for part in order if part in parts and part not in ASLEEP])
        self._each(steps, [part for part in order if part in parts and part in ASLEEP])

    def _each(self, steps: Mapping[str, Callable[[Rig], Iterable[Verdict]]], parts: Iterable[str]) -> None:
        for part in parts:
            if part in steps:
                with Rig() as rig:
                    for verdict in steps[part](rig):
                        self._known(verdict)

    def _known(self, verdict: Verdict) -> None:
        self.figures.verdicts.append(verdict)
        self._show(verdict)

    # -- comparisons ----------------------------------------------------------------------------------------

    async def _compare(self, rig: Rig, operations: Collection[str]) -> None:
        redis = rig.redis()
        daemon = rig.daemon("callstate", redis)
        clients: list[Client] = [RedisPy(redis.path)]
        if self._effort.full:
            clients.append(await Glide.connect(redis.path))
        ours = Sidecar(await connected(daemon.path), daemon)
        subjects: list[Subject] = [ours]
        for client in clients:
            subjects += [RedisStore(client, redis), ByHand(client, redis)]
        await keep_pools(subjects, self._pools())
        for operation, turns, tasks, sessions in self._matrix(operations):
            by_hand = self._effort.full or operation == "add_turn"  # the only one with a target against it
            cell = await compare(
                subjects if by_hand else subjects[:2], operation, turns, tasks, sessions=sessions,
                rounds=self._effort.rounds, seconds=self._effort.seconds,
                enough=(lambda _: False) if self._effort.full else decided,
            )  # fmt: skip
            self.figures.cells.append(cell)
            for verdict in judge(cell):
                self._known(verdict)
            rewrite_if_long(redis)
        await ours.close()
        for client in clients:
            await client.close()

    def _pools(self) -> dict[int, int]:
        own = PER_TASK * max(self._effort.tasks)
        return {turns: max(own, self._effort.spread[turns]) if self._effort.full else own for turns in TURNS}

    def _matrix(self, operations: Collection[str]) -> Iterator[tuple[str, int, int, int]]:
        """Operation, turns, tasks and sessions of each comparison."""
        if not self._effort.full:
            for operation, turns, tasks in QUICK_MATRIX:
                if operation in operations:
                    yield operation, turns, tasks, PER_TASK * tasks
            return
        for operation in OPERATIONS:
            for turns in TURNS:
                for tasks in self._effort.tasks:
                    yield operation, turns, tasks, PER_TASK * tasks
                if operation in SPREAD_OVER:
                    yield operation, turns, SPREAD_TASKS, self._effort.spread[turns]

    # -- the other parts --------------------------------------------------------------------------------------

    def _limits(self, rig: Rig) -> Iterator[Verdict]:
        effort = self._effort
        daemon, echo = rig.daemon("callstate", rig.redis()), rig.echo()
        fill(daemon, documents(pool(20, PIPELINED), 20))
        ratio = blocking_heartbeat(daemon, echo, rounds=effort.rounds, heartbeats=effort.heartbeats)
        yield Verdict("one blocking client, heartbeat p50 vs echo", ratio, 1.25)
        ratio, cost = pipelined_cpu(daemon, echo, rounds=effort.rounds, batches=effort.batches)
        note = f"daemon {cost.median * 1e6:.1f} µs"
        yield Verdict("daemon CPU per pipelined heartbeat vs echo", ratio, 5.0, note=note)

    def _growth(self, rig: Rig) -> Iterator[Verdict]:
        lengths, rounds, redis = self._effort.lengths, self._effort.rounds, rig.redis()
        short, long = lengths[0], lengths[-1]
        daemon = rig.daemon("callstate", redis)
        costs = uvloop.run(
            by_length(daemon, lengths, GROWING if self._effort.full else ["add_turn"], rounds=rounds)
        )
        if self._effort.full:
            self.figures.growth = curve_json(costs)
        added = costs["add_turn"]
        micros = [Spread.of(added[turns]).median * 1e6 for turns in (short, long)]
        unwritten = rig.daemon("unwritten", redis, *FLUSH_WHEN_ASKED, "--set", "store.prefix=unwritten:")
        few = min(rounds, FEWER_ROUNDS)
        alone = uvloop.run(by_length(unwritten, (short, long), ["add_turn"], rounds=few))["add_turn"]
        by_itself = relative(alone)[long].median
        note = f"{micros[0]:.0f} and {micros[1]:.0f} µs; {by_itself:.3g}x with nothing written behind"
        yield Verdict(f"growth: add_turn at {long:,} turns vs at {short}", relative(added)[long], 1.2, note=note)

    def _size(self, rig: Rig) -> Iterator[Verdict]:
        size, redis = self._effort.size, rig.redis()
        name = f"memory of {size.live:,} sessions of 20 turns vs JSON"
        yield Verdict(name, Spread.of([memory_over_json(rig, redis, size.live)]), 1.5)
        daemon = LoadedDaemon(rig, redis, size, "size")
        flushes = [heartbeats_during(daemon.server, daemon.flush()) for _ in range(self._effort.rounds)]
        yield flushing_verdict(flushes, size.dirty)

    def _bytes(self, rig: Rig) -> Iterator[Verdict]:
        effort = self._effort
        redis = in_redis(rig, effort.stored, sessions=effort.flushed, rounds=effort.rounds)
        sqlite = in_sqlite(rig, effort.stored, sessions=effort.flushed, rounds=effort.rounds)
        if effort.full:
            self.figures.bytes = bytes_json({"Redis": redis, "SQLite": sqlite})
        return bytes_verdicts(redis, sqlite)

    def _reaping(self, rig: Rig) -> Iterator[Verdict]:
        live, due = self._effort.live, self._effort.due
        idle_s, busy_s = uvloop.run(ticks(rig.root / "reaping", live=live, due=due))
        yield Verdict(f"reaper: {live:,} live, none due, tick", Spread.of([idle_s * 1000]), 1.0, unit=" ms")
        yield Verdict(f"reaper: {due:,} due at once, longest tick", Spread.of([busy_s * 1000]), 5.0, unit=" ms")

    def _start(self, _: Rig) -> Iterator[Verdict]:
        return starts(self._effort.from_checkpoint, self._effort.from_log, self._effort.turn_by_turn)

    def _loads(self, rig: Rig) -> Iterator[Verdict]:
        effort = self._effort
        self.figures.loads = under_load(rig, rig.redis(), effort.size, rounds=effort.rounds, idle_s=effort.idle_s)
        return iter(())

    def _dying(self, rig: Rig) -> Iterator[Verdict]:
        redis = rig.redis()
        scenes = SCENES if self._effort.full else JUDGED
        deaths = {name: play(rig, redis, name, self._effort.kills) for name in scenes}
        self.figures.dying = deaths_json(deaths)
        yield failover_verdict(deaths)

    def _day(self, _: Rig) -> Iterator[Verdict]:
        for day in self._effort.days:
            crews = measure(day)
            self.figures.day[str(day.calls)] = day_json(day, crews)
            yield from verdicts(day, crews)


def rewrite_if_long(redis: Server) -> None:
    """Let Redis rewrite a long append-only file, and wait until it has."""
    with Redis(unix_socket_path=str(redis.path)) as client:

        def persistence() -> Any:
            return client.info("persistence")

        if persistence()["aof_current_size"] < REWRITE_BYTES:
            return
        client.bgrewriteaof()
        while (info := persistence())["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"]:
            time.sleep(0.05)  # there is no notification to wait for
