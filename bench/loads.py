"""Heartbeat latency while the daemon is busy with something else, and memory per session.

A thread puts the load on the daemon through its socket. Meanwhile heartbeats are sent at a fixed rate on a
connection of their own: their latency is what a worker would see.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, Protocol

from bench.compare import pool
from bench.documents import document, documents, history
from bench.processes import Rig, Server, at_real_time
from bench.sampling import Spread, percentile
from bench.targets import Verdict
from bench.wire import PATIENCE_S, Wire, add_turn, fill, paced_heartbeats, save

HEARTBEAT_EVERY_S: Final = 0.001
"""1,000 per second: a host of 15,000 calls, each with a heartbeat every 15 s."""

SLICE_S: Final = 0.05
"""How often it is checked whether the load is done."""

HEARTBEAT_SESSIONS: Final = 32
"""Sessions that receive heartbeats and nothing else."""

LOOK_EVERY_S: Final = 0.01
STATS_EVERY_S: Final = 0.1

TIMEOUT_S: Final = 1.0
GRACE_S: Final = 0.5
"""Of the sessions that expire: seconds of silence until they are suspect, and until they are ended."""

BALLAST: Final = "ballast"
BALLAST_TURNS: Final = 200
"""Length of a session that is saved repeatedly until the log has outgrown its bound."""

LOG_ROOM: Final = 1.25
"""The bound as a multiple of the bytes that the daemon is filled with."""

FLUSH_WHEN_ASKED: Final = ("--set", "store.flush_interval_s=60")


class Load(Protocol):
    """Work for the daemon."""

    def prepare(self) -> None:
        """Prepare the work; not measured."""

    def run(self) -> None:
        """Do the work; return when it is done."""


class Idle:
    """No work, for some seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def prepare(self) -> None:
        """There is nothing to prepare."""

    def run(self) -> None:
        """Wait."""
        time.sleep(self._seconds)


class Flush:
    """A flush of many sessions at once, each changed since its last write.

    The daemon must run with `FLUSH_WHEN_ASKED`.
    """

    def __init__(self, server: Server, session_ids: Sequence[str]) -> None:
        self._server = server
        self._ids = session_ids

    def prepare(self) -> None:
        """Add a turn to each session."""
        with Wire(self._server) as wire:
            wire.send_all(map(add_turn, self._ids))

    def run(self) -> None:
        """Request the flush and wait for it."""
        with Wire(self._server) as wire:
            wire.flush()


class Checkpoint:
    """A checkpoint of all sessions, due because the log has outgrown its bound.

    The daemon must run with `checkpoint_at` for the documents that it was filled with.
    """

    def __init__(self, server: Server, directory: Path, kept: Mapping[str, bytes]) -> None:
        self._server = server
        self._directory = directory
        self._bound = _log_bound(kept)
        self._saves = [
            save(document(BALLAST, BALLAST_TURNS, history(BALLAST_TURNS, word))) for word in ("one", "other")
        ]  # alternating: saving an unchanged document adds nothing to the log

    def prepare(self) -> None:
        """Let the log grow almost to its bound."""
        if self._snapshots():
            raise RuntimeError("a checkpoint came before its time")
        with Wire(self._server) as wire:
            left = self._bound - wire.call("server.stats")["journal_bytes"]
            for _ in range(int(left / len(self._saves[0])) - 1):
                self._save(wire)

    def run(self) -> None:
        """Exceed the bound, and wait until the snapshot is complete."""
        deadline = time.monotonic() + PATIENCE_S
        with Wire(self._server) as wire:
            for _ in range(3):
                self._save(wire)
        while not (done := self._snapshots()) or not all(path.suffix == ".csj" for path in done):
            if time.monotonic() > deadline:
                raise TimeoutError("no checkpoint was written")
            time.sleep(LOOK_EVERY_S)  # there is no notification to wait for

    def _save(self, wire: Wire) -> None:
        self._saves.reverse()
        wire.send_all(self._saves[:1])

    def _snapshots(self) -> list[Path]:
        return [*self._directory.glob("snapshot-*")]


def checkpoint_at(kept: Mapping[str, bytes]) -> tuple[str, ...]:
    """Options of a daemon that is filled with these documents and then made to write a checkpoint."""
    return ("--set", f"journal.checkpoint_min_bytes={_log_bound(kept)}", "--set", "journal.sync_interval_s=0.05")


def _log_bound(kept: Mapping[str, bytes]) -> int:
    return int(LOG_ROOM * (sum(map(len, kept.values())) + (4 << 20)))


class Expiry:
    """Many sessions that fall silent at the same moment, and so become suspect and end together."""

    def __init__(self, server: Server, kept: Mapping[str, bytes]) -> None:
        self._server = server
        self._documents = kept

    def prepare(self) -> None:
        """Send one heartbeat for all of them, then wait until just before their timeout."""
        with Wire(self._server) as wire:
            for timeout_s in (TIMEOUT_S + 60, TIMEOUT_S):  # a longer one while they are being saved
                more = f',"heartbeat_timeout_s":{timeout_s}'
                wire.send_all(save(each, more) for each in self._documents.values())
            self._ended = wire.call("server.stats")["sessions"].get("ended", 0) + len(self._documents)
            wire.call("session.heartbeat", session_ids=[*self._documents])
        time.sleep(TIMEOUT_S - 0.1)

    def run(self) -> None:
        """Wait until all have ended."""
        deadline = time.monotonic() + PATIENCE_S
        with Wire(self._server) as wire:
            while wire.call("server.stats")["sessions"].get("ended", 0) < self._ended:
                if time.monotonic() > deadline:
                    raise TimeoutError("the sessions were not reaped")
                time.sleep(STATS_EVERY_S)


@dataclass(frozen=True)
class Size:
    """Numbers of sessions.

    Args:
        dirty: of 200 turns, which are flushed.
        live: of 20 turns, which expire; also the number whose memory is measured.
        many: of 20 turns, for a larger checkpoint.
    """

    dirty: int = 1000
    live: int = 10_000
    many: int = 100_000


@dataclass(frozen=True)
class UnderLoad:
    """Latencies of the heartbeats during one load, and duration of the load; seconds."""

    latencies_s: list[float]
    elapsed_s: float

    def percentile_ms(self, part: float) -> float:
        """A percentile of the latencies, in milliseconds."""
        return percentile(self.latencies_s, part) * 1000


def heartbeats_during(server: Server, load: Load) -> UnderLoad:
    """Send heartbeats at a fixed rate until the load is done."""
    latencies: list[float] = []
    load.prepare()
    with Wire(server) as wire, at_real_time(server), ThreadPoolExecutor(1) as thread:
        work = thread.submit(_timed, load)
        running = True
        while running:  # one more slice at the end: a small load may be over before the first heartbeat
            running = not work.done()
            latencies += paced_heartbeats(wire, _heartbeat_ids(), seconds=SLICE_S, every_s=HEARTBEAT_EVERY_S)
        return UnderLoad(latencies, work.result())


def _timed(load: Load) -> float:
    began = time.perf_counter()
    load.run()
    return time.perf_counter() - began


def _heartbeat_ids() -> list[str]:
    return [f"alive-{number}" for number in range(HEARTBEAT_SESSIONS)]


class LoadedDaemon:
    """A daemon filled with the sessions of all loads."""

    def __init__(self, rig: Rig, redis: Server, size: Size, label: str) -> None:
        self._live = documents(pool(20, size.live), 20)
        self._long = documents(pool(200, size.dirty), 200)
        self._kept = self._live | self._long
        options = (*FLUSH_WHEN_ASKED, "--set", f"reaper.grace_s={GRACE_S}", *checkpoint_at(self._kept))
        self.server = rig.daemon(label, redis, *options, "--set", f"store.prefix={label}:")
        self._journal = rig.root / label / "journal"
        fill(self.server, self._kept | documents(_heartbeat_ids(), 20))

    def flush(self) -> Load:
        """A flush of the long sessions."""
        return Flush(self.server, [*self._long])

    def checkpoint(self) -> Load:
        """A checkpoint of all sessions."""
        return Checkpoint(self.server, self._journal, self._kept)

    def expiry(self) -> Load:
        """The expiry of the short sessions."""
        return Expiry(self.server, self._live)


def memory_over_json(rig: Rig, redis: Server, sessions: int) -> float:
    """How much a daemon's resident memory grows with this many sessions of 20 turns, over their JSON.

    As many others are saved and flushed first, to fill what takes memory once and not per session: the heap that
    a start leaves free (14 MB where it had to compile redis-py, none where the bytecode was cached), the ring of
    10,000 events, and the buffers of a flush.
    """
    server = rig.daemon("memory", redis, *FLUSH_WHEN_ASKED, "--set", "store.prefix=memory:")
    ids = pool(20, 2 * sessions)
    fill(server, documents(ids[sessions:], 20))
    before = server.rss_bytes()
    measured = documents(ids[:sessions], 20)
    fill(server, measured)
    grown = server.rss_bytes() - before
    rig.end(server)
    return grown / sum(map(len, measured.values()))


def under_load(rig: Rig, redis: Server, size: Size, *, rounds: int, idle_s: float) -> dict[str, dict[str, Any]]:
    """Measure each load, with a new daemon for each round, and the large checkpoint once; returned as JSON."""
    names = {
        "idle": "nothing else to do",
        "flush": f"{size.dirty:,} changed sessions of 200 turns are flushed",
        "checkpoint": f"a checkpoint of {size.live + size.dirty:,} sessions",
        "many": f"a checkpoint of {size.many:,} sessions",
        "expiry": f"{size.live:,} sessions expire at once",
    }
    found: dict[str, list[UnderLoad]] = {name: [] for name in names}
    for number in range(rounds):
        daemon = LoadedDaemon(rig, redis, size, f"loads-{number}")
        loads = {
            "idle": Idle(idle_s),
            "flush": daemon.flush(),
            "checkpoint": daemon.checkpoint(),
            "expiry": daemon.expiry(),
        }
        for name, load in loads.items():
            found[name].append(heartbeats_during(daemon.server, load))
        rig.end(daemon.server)
    daemon = LoadedDaemon(rig, redis, Size(dirty=0, live=size.many), "loads-many")
    found["many"].append(heartbeats_during(daemon.server, daemon.checkpoint()))
    rig.end(daemon.server)
    return {name: _figures(rounds_of, names[name]) for name, rounds_of in found.items()}


def _figures(rounds: Sequence[UnderLoad], name: str) -> dict[str, Any]:
    """Figures over all rounds; `p99_ms` is the median, minimum and maximum of the rounds."""
    everything = [*chain.from_iterable(each.latencies_s for each in rounds)]
    p99 = Spread.of([each.percentile_ms(0.99) for each in rounds])
    return {
        "name": name,
        "heartbeats": len(everything),
        "p50_ms": percentile(everything, 0.5) * 1000,
        "p99_ms": [p99.median, p99.low, p99.high],
        "longest_ms": max(everything) * 1000,
        "took_ms": Spread.of([each.elapsed_s for each in rounds]).median * 1000,
    }


def flushing_verdict(flushes: Sequence[UnderLoad], dirty: int) -> Verdict:
    """The target for heartbeats during a flush."""
    p99 = Spread.of([each.percentile_ms(0.99) for each in flushes])
    longest = max(max(each.latencies_s) for each in flushes) * 1000
    took = Spread.of([each.elapsed_s for each in flushes]).median * 1000
    note = f"longest {longest:.1f} ms, a flush {took:.0f} ms"
    return Verdict(f"heartbeat p99 while {dirty:,} sessions of 200 turns flush", p99, 5.0, unit=" ms", note=note)
