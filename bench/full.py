"""Everything: all operations, lengths, tasks and peers, how each cost grows, and what holds a heartbeat up."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import uvloop
from redis import Redis

from bench.churn import Churn, Growth, churn, growths_json, verdicts
from bench.compare import PER_TASK, SPREAD, TURNS, Cell, compare, keep_pools, pool
from bench.documents import documents
from bench.drivers import Coredis, Driver, Glide, RedisPy
from bench.dying import SCENES, deaths_json, play
from bench.dying import verdict as dying_verdict
from bench.processes import Rig, Server, awake
from bench.quick import TINY as TINY_EFFORT
from bench.quick import Effort, Quick
from bench.sampling import Spread, take
from bench.scale import Costs, by_length, relative
from bench.scaling import by_connections, by_sessions
from bench.sides import ByHand, RedisStore, Side, Sidecar, connected
from bench.starting import starts
from bench.stress import Size, flushing, stress, told
from bench.targets import Verdict, judge
from bench.turns import longest_turns, turns_json
from bench.turns import verdict as turns_verdict

OPERATIONS: Final = ("heartbeat", "add_turn", "save", "save_built", "load", "list_active")
SPREAD_OVER: Final = ("add_turn", "save")
"""Operations that are also compared on sessions in turn, see compare.SPREAD: those that write-behind gathers."""

SPREAD_TASKS: Final = 32
GROWING: Final = ("heartbeat", "add_turn", "load", "save")

PARTS: Final = ("comparisons", "bounds", "start", "growth", "stress", "loop", "churn", "dying")
"""What a run is made of."""

BOUNDS: Final = frozenset(("limits", "growth", "size", "reaping"))
"""Parts of a quick run whose figures a full one takes as well; `start` it measures with more sessions."""

LOOP_ROUNDS: Final = 3

REWRITE_BYTES: Final = 1 << 30
"""An append-only file longer than this is rewritten between two comparisons, where it is in nobody's way."""

Curve = dict[str, dict[int, dict[str, Any]]]
"""Operation to how many of something to figures."""


@dataclass(frozen=True)
class Reach:
    """How far a full run goes.

    Args:
        effort: see Effort.
        tasks: at once, in the comparisons.
        lengths: of histories, turns.
        sessions: in a daemon.
        connections: to a daemon, the tasks being as many as the most of them.
        dirty: sessions flushed at once.
        restored, turn_by_turn: sessions that a start restores, see starts.
        size, churn: see Size and Churn.
        watched, big_bytes: sessions of the daemon whose turns are timed, and the size of one of them.
        kills: of workers, in each scene of dying.py.
        spread: see compare.SPREAD.
    """

    effort: Effort
    tasks: Sequence[int] = (1, 32, 256)
    lengths: Sequence[int] = (20, 60, 200, 600, 2000)
    sessions: Sequence[int] = (1_000, 10_000, 100_000)
    connections: Sequence[int] = (1, 10, 50, 250, 500)
    dirty: Sequence[int] = (10, 100, 1000, 4000)
    restored: int = 100_000
    turn_by_turn: int = 100_000
    size: Size = field(default_factory=Size)
    churn: Churn = field(default_factory=Churn)
    watched: int = 100_000
    big_bytes: int = 7_600_000
    kills: int = 200
    spread: Mapping[int, int] = field(default_factory=lambda: SPREAD)


WHOLE: Final = Reach(Effort(rounds=5, seconds=0.2, beats=2000, batches=100))
TINY: Final = Reach(
    TINY_EFFORT, tasks=(1, 32), lengths=(20, 60), sessions=(100, 200), connections=(1, 4), dirty=(10,),
    restored=100, turn_by_turn=0, spread={20: 200, 200: 200},
    size=Size(dirty=20, live=200, many=300, requests=1200, seconds=0.1),
    churn=Churn(
        requests=80, sessions=30, limited=30, connections=20, misses=20, workers=10, samples=2, remembered=10
    ),
    watched=100, big_bytes=100_000, kills=6,
)  # fmt: skip
"""Whether everything runs; its figures mean nothing."""


@dataclass
class Figures:
    """What a run gave."""

    cells: list[Cell] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    race: dict[str, float] = field(default_factory=dict)
    """Heartbeats a second of RedisStore on each of the other clients, 32 tasks."""
    curves: dict[str, Curve] = field(default_factory=dict)
    """By `turns`, `sessions`, `connections`, `dirty`."""
    stress: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By burden."""
    loop: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The longest turn of the daemon's loop during each kind of work."""
    churn: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By store: what each kind of thing that came and went left behind."""
    dying: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By scene: how soon a worker's death was known, and its call held by another."""


class Full:
    """One run.

    Args:
        reach: how far it goes.
        say: told what is under way.
        show: told each verdict as soon as it is known.
    """

    def __init__(self, reach: Reach, say: Callable[[str], None], show: Callable[[Verdict], None]) -> None:
        self._reach = reach
        self._effort = reach.effort
        self._say = say
        self._show = show
        self.figures = Figures()

    def run(self, parts: Collection[str] = PARTS) -> None:
        """These parts, each upon servers of its own; `figures` has what was measured so far at any time."""
        steps = {
            "comparisons": self._comparisons, "bounds": self._bounds, "start": self._start,
            "growth": self._growth, "stress": self._stress, "loop": self._loop, "churn": self._churn,
            "dying": self._dying,
        }  # fmt: skip
        for part in PARTS:
            if part in parts:
                self._say(f"{part}:")
                steps[part]()

    def _comparisons(self) -> None:
        with Rig() as rig, awake():
            redis = rig.redis()
            uvloop.run(self._compare(redis, rig.daemon("callstate", redis)))

    def _bounds(self) -> None:
        alone = Quick(self._effort, BOUNDS, self._known)
        alone.run()

    def _start(self) -> None:
        for verdict in starts(self._reach.restored, self._reach.restored, self._reach.turn_by_turn):
            self._known(verdict)

    def _growth(self) -> None:
        with Rig() as rig, awake():
            self._grow(rig)

    def _stress(self) -> None:
        size = self._reach.size
        with Rig() as rig, awake():
            self.figures.stress = told(stress(rig, rig.redis(), size, rounds=self._effort.rounds), size)

    def _loop(self) -> None:
        rounds = [
            longest_turns(self._reach.watched, big_bytes=self._reach.big_bytes)
            for _ in range(min(LOOP_ROUNDS, self._effort.rounds))
        ]
        self._known(turns_verdict(rounds, self._reach.watched))
        self.figures.loop = turns_json(rounds)

    def _churn(self) -> None:
        growths: dict[str, list[Growth]] = {}
        for name in ("sqlite", "redis"):
            with Rig() as rig:
                store = rig.redis() if name == "redis" else None
                growths[name] = [*churn(rig, store, self._reach.churn)]
        for verdict in verdicts(growths):
            self._known(verdict)
        self.figures.churn = growths_json(growths)

    def _dying(self) -> None:
        with Rig() as rig:
            redis = rig.redis()
            deaths = {name: play(rig, redis, name, self._reach.kills) for name in SCENES}
        self._known(dying_verdict(deaths))
        self.figures.dying = deaths_json(deaths)

    def _known(self, verdict: Verdict) -> None:
        self.figures.verdicts.append(verdict)
        self._show(verdict)

    # -- comparisons ----------------------------------------------------------------------------------------

    async def _compare(self, redis: Server, daemon: Server) -> None:
        effort = self._effort
        other = await self._faster_client(redis)
        sides: list[Side] = [
            Sidecar(await connected(daemon.path), daemon),
            RedisStore(RedisPy(redis.path), redis),
            ByHand(RedisPy(redis.path), redis),
            RedisStore(other, redis),
            ByHand(other, redis),
        ]
        own = PER_TASK * max(self._reach.tasks)
        await keep_pools(sides, {turns: max(own, self._reach.spread[turns]) for turns in TURNS})
        for operation in OPERATIONS:
            for turns in TURNS:
                pools = [(tasks, PER_TASK * tasks) for tasks in self._reach.tasks]
                if operation in SPREAD_OVER:
                    pools.append((SPREAD_TASKS, self._reach.spread[turns]))
                for tasks, sessions in pools:
                    cell = await compare(
                        sides, operation, turns, tasks,
                        rounds=effort.rounds, seconds=effort.seconds, sessions=sessions,
                    )  # fmt: skip
                    self.figures.cells.append(cell)
                    for verdict in judge(cell):
                        self._known(verdict)
                    rewrite_if_long(redis)
        for side in sides[:-1]:  # the last two share a client
            await side.close()

    async def _faster_client(self, redis: Server) -> Driver:
        """Whichever of valkey-glide and coredis makes the faster RedisStore."""
        drivers: list[Driver] = [await Glide.connect(redis.path), await Coredis.connect(redis.path)]
        ids = pool(20, PER_TASK * 32)
        for driver in drivers:
            side = RedisStore(driver, redis)
            await side.keep(documents(ids, 20))
            for _ in range(2):  # the first warms up
                sample = await take(side, "heartbeat", ids, adds=1, tasks=32, seconds=5 * self._effort.seconds)
                self.figures.race[driver.name] = sample.throughput
        drivers.sort(key=lambda driver: self.figures.race[driver.name])
        await drivers[0].close()
        return drivers[1]

    # -- growth ---------------------------------------------------------------------------------------------

    def _grow(self, rig: Rig) -> None:
        reach, rounds, curves = self._reach, self._effort.rounds, self.figures.curves
        redis = rig.redis()
        daemon = rig.daemon("callstate", redis)
        curves["turns"] = _curve(uvloop.run(by_length(daemon, reach.lengths, GROWING, rounds=rounds)))
        curves["connections"] = _curve(
            uvloop.run(by_connections(daemon, reach.connections, ("heartbeat", "add_turn", "load"), rounds=rounds))
        )
        rewrite_if_long(redis)
        sizes = uvloop.run(by_sessions(rig, redis, reach.sessions, GROWING, rounds=rounds))
        curves["sessions"] = _curve(sizes.costs)
        curves["memory"] = {"rss": {count: {"of_json": used} for count, used in sizes.memory.items()}}
        rewrite_if_long(redis)
        beats: dict[int, dict[str, Any]] = {}
        for dirty in reach.dirty:
            flushes = flushing(rig, redis, dirty=dirty, rounds=rounds)
            beats[dirty] = {
                "p50_ms": _spread([each.percentile_ms(0.5) for each in flushes]),
                "p99_ms": _spread([each.percentile_ms(0.99) for each in flushes]),
                "flush_ms": _spread([each.elapsed_s * 1000 for each in flushes]),
            }
            rewrite_if_long(redis)
        curves["dirty"] = {"heartbeat": beats}


def _spread(values: Sequence[float]) -> list[float]:
    spread = Spread.of(values)
    return [spread.median, spread.low, spread.high]


def _curve(costs: Mapping[str, Costs]) -> Curve:
    """Each cost in microseconds, and over that of the first."""
    return {
        operation: {
            number: {
                "us": _spread([value * 1e6 for value in cost[number]]),
                "ratio": [ratio.median, ratio.low, ratio.high],
            }
            for number, ratio in relative(cost).items()
        }
        for operation, cost in costs.items()
    }


def rewrite_if_long(redis: Server) -> None:
    """Give Redis a short append-only file again, and wait until it has it."""
    with Redis(unix_socket_path=str(redis.path)) as client:

        def persistence() -> Any:
            return client.info("persistence")

        if persistence()["aof_current_size"] < REWRITE_BYTES:
            return
        client.bgrewriteaof()
        while (info := persistence())["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"]:
            time.sleep(0.05)  # Redis tells nobody when it is done
