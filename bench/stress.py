"""How long a heartbeat takes while the daemon has much else to do, beside what it takes when there is nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from bench.burdens import (
    EXPIRING,
    FLUSH_WHEN_ASKED,
    STATS_EVERY_S,
    Beside,
    Burden,
    Checkpoint,
    Expiry,
    Flush,
    Nothing,
    Pipeline,
    Together,
    Unread,
    checkpoint_at,
)  # fmt: skip
from bench.compare import pool
from bench.documents import documents
from bench.processes import Rig, Server
from bench.raw import Raw, fill, paced_beats
from bench.sampling import Spread, percentile
from bench.targets import Verdict

BEAT_EVERY_S: Final = 0.001
"""A thousand a second: a host of 15,000 calls, each beating every 15 s."""

SLICE_S: Final = 0.05
"""So often it is looked whether the burden is still borne."""

BEATERS: Final = 32
"""Sessions that are beaten for, and nothing else is done with."""

PIPELINED: Final = 500
"""Sessions that the pipelined requests are about."""


@dataclass(frozen=True)
class Size:
    """How much.

    Args:
        dirty: sessions of 200 turns that are flushed.
        live: sessions of 20 turns that are there, and expire.
        many: as `live`, for one more checkpoint.
        requests: that are pipelined.
        seconds: the daemon is idle.
    """

    dirty: int = 1000
    live: int = 10_000
    many: int = 100_000
    requests: int = 100_000
    seconds: float = 1.0


@dataclass(frozen=True)
class Borne:
    """What the heartbeats took meanwhile, what the burden took, and the most lag the daemon told; seconds."""

    latencies_s: list[float]
    elapsed_s: float
    loop_lag_s: float

    def percentile_ms(self, part: float) -> float:
        """Of the heartbeats."""
        return percentile(self.latencies_s, part) * 1000


def bear(server: Server, burden: Burden) -> Borne:
    """Heartbeats on a connection of their own, at a fixed rate, until the burden is borne."""
    latencies: list[float] = []
    with Raw(server) as raw, Raw(server) as watching:
        burden.prepare()
        work = Beside(lambda: _timed(burden.bear))
        lag = Beside(lambda: _most_lag(watching, work))
        running = True
        while running:  # once more than it is borne: a small burden may be gone before the first beat
            running = work.running
            latencies += paced_beats(raw, _beaters(), seconds=SLICE_S, every_s=BEAT_EVERY_S)
        most = lag.finish()
        elapsed = work.finish()
    return Borne(latencies, elapsed, most)


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _beaters() -> list[str]:
    return [f"beaten-{number}" for number in range(BEATERS)]


def _most_lag(raw: Raw, work: Beside[float]) -> float:
    """What `server.stats` tells of the loop's lag, at most, while the work goes on."""
    most = 0.0
    while work.running:
        time.sleep(STATS_EVERY_S)
        most = max(most, raw.call("server.stats")["loop_lag_s"])
    return most


class Arena:
    """A daemon full of sessions, for each burden the ones it needs."""

    def __init__(self, rig: Rig, redis: Server, size: Size, label: str) -> None:
        self._size = size
        self.live = documents(pool(20, size.live), 20)
        self.long = documents(pool(200, size.dirty), 200)
        kept = self.live | self.long
        options = (*FLUSH_WHEN_ASKED, *EXPIRING, *checkpoint_at(kept), "--set", f"store.prefix={label}:")
        self.server = rig.daemon(label, redis, *options)
        self._journal = rig.root / label / "journal"
        self._kept = kept
        empty = self.server.rss_bytes()
        fill(self.server, self.live)
        self.memory_of_json = (self.server.rss_bytes() - empty) / max(1, sum(map(len, self.live.values())))
        """What the memory grew by with the live ones, over their JSON."""
        fill(self.server, self.long | documents(_beaters(), 20))

    def flush(self) -> Burden:
        """The long ones are written."""
        return Flush(self.server, [*self.long])

    def checkpoint(self) -> Burden:
        """Everything is written to a snapshot."""
        return Checkpoint(self.server, self._journal, self._kept)

    def expiry(self) -> Burden:
        """The short ones expire."""
        return Expiry(self.server, self.live)

    def pipeline(self) -> Burden:
        """Requests about some of the short ones."""
        return Pipeline(self.server, [*self.live][:PIPELINED], self._size.requests)

    def unread(self) -> Burden:
        """The long ones are loaded, and not read."""
        return Unread(self.server, [*self.long])


NAMES: Final[Mapping[str, str]] = {
    "idle": "nothing else to do",
    "flush": "{dirty:,} changed sessions of 200 turns are flushed",
    "checkpoint": "a checkpoint of {all:,} sessions",
    "many": "a checkpoint of {many:,} sessions",
    "expiry": "{live:,} sessions expire at once",
    "pipeline": "one client pipelines {requests:,} requests",
    "unread": "a client never reads its replies",
    "together": "all of these but the large checkpoint, at once",
}
"""Burdens, and in words."""


def stress(rig: Rig, redis: Server, size: Size, *, rounds: int) -> dict[str, list[Borne]]:
    """Every burden by itself, then all at once, each round upon daemons of their own; the large one once."""
    borne: dict[str, list[Borne]] = {name: [] for name in NAMES}
    for number in range(rounds):
        arena = Arena(rig, redis, size, f"stress-{number}")
        for name, burden in _alone(arena, size):
            borne[name].append(bear(arena.server, burden))
        rig.end(arena.server)
        arena = Arena(rig, redis, size, f"together-{number}")
        parts = [arena.flush(), arena.checkpoint(), arena.pipeline(), arena.unread(), arena.expiry()]
        borne["together"].append(bear(arena.server, Together(parts)))
        rig.end(arena.server)
    arena = Arena(rig, redis, Size(dirty=0, live=size.many), "stress-many")
    borne["many"].append(bear(arena.server, arena.checkpoint()))
    rig.end(arena.server)
    return borne


def _alone(arena: Arena, size: Size) -> Iterator[tuple[str, Burden]]:
    """What leaves the sessions as they were comes first."""
    yield "idle", Nothing(size.seconds)
    yield "flush", arena.flush()
    yield "unread", arena.unread()
    yield "pipeline", arena.pipeline()
    yield "checkpoint", arena.checkpoint()
    yield "expiry", arena.expiry()


def flushing(rig: Rig, redis: Server, *, dirty: int, rounds: int) -> list[Borne]:
    """Only the flush of so many changed sessions of 200 turns."""
    arena = Arena(rig, redis, Size(dirty=dirty, live=0), f"flushing-{dirty}")
    borne = [bear(arena.server, arena.flush()) for _ in range(rounds)]
    rig.end(arena.server)
    return borne


def flushing_verdict(flushes: Sequence[Borne], dirty: int) -> Verdict:
    """The target about them."""
    p99 = Spread.of([each.percentile_ms(0.99) for each in flushes])
    longest = max(max(each.latencies_s) for each in flushes) * 1000
    took = Spread.of([each.elapsed_s for each in flushes]).median * 1000
    note = f"longest {longest:.1f} ms, a flush {took:.0f} ms"
    return Verdict(f"beat p99 while {dirty:,} sessions of 200 turns flush", p99, 5.0, unit=" ms", note=note)


def told(borne: Mapping[str, Sequence[Borne]], size: Size) -> dict[str, dict[str, Any]]:
    """For the JSON: of all rounds together, but `p99_ms` with the least and the most of a round."""
    words = vars(size) | {"all": size.live + size.dirty}
    return {name: _figures(each, NAMES[name].format(**words)) for name, each in borne.items()}


def _figures(rounds: Sequence[Borne], name: str) -> dict[str, Any]:
    everything = [*chain.from_iterable(each.latencies_s for each in rounds)]
    p99 = Spread.of([each.percentile_ms(0.99) for each in rounds])
    return {
        "name": name,
        "beats": len(everything),
        "p50_ms": percentile(everything, 0.5) * 1000,
        "p99_ms": [p99.median, p99.low, p99.high],
        "longest_ms": max(everything) * 1000,
        "took_ms": Spread.of([each.elapsed_s for each in rounds]).median * 1000,
        "loop_lag_ms": max(each.loop_lag_s for each in rounds) * 1000,
    }
