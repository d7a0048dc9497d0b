"""How soon a worker's death is reported, and its call taken over by another worker: kill -9, many times."""

from __future__ import annotations

import gc
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from bench.processes import Rig, Server
from bench.sampling import QUANTILES, Spread, percentile, short
from bench.targets import Verdict
from bench.wire import Wire
from bench.workers import TURNS

ENDED_WITHIN_S: Final = 10.0
PATIENCE_MS: Final = 30_000

AT_ONCE: Final = 20
"""Victims started together: all of them hold their calls before the first is killed."""

PAUSE_S: Final = 0.02
"""Longest pause between a takeover and the next kill, chosen at random, so that kills fall on every phase of the
daemon's periodic work (write-behind, ticks)."""

WARM_UP: Final = 4
"""Kills before the first that is measured."""

BUSY_PER_S: Final = 1000
"""Requests per second of a busy host, half of them turns: 1,500 calls with a turn every three seconds."""

LARGE_BYTES: Final = 256 << 20
"""Memory of a worker with models or audio, which the kernel frees before the exit is visible to anyone."""


@dataclass(frozen=True)
class Scene:
    """The conditions under which workers are killed.

    Args:
        name: in words.
        rate_per_s: requests by 32 tasks of another process; 0: as many as possible; None: none.
        ballast_bytes: private memory of a victim beyond that of a small Python process.
        part: fraction of the requested kills; expensive scenes have fewer.
        at_once: see AT_ONCE.
    """

    name: str
    rate_per_s: int | None = None
    ballast_bytes: int = 0
    part: float = 1.0
    at_once: int = AT_ONCE


SCENES: Final[Mapping[str, Scene]] = {
    "idle": Scene("nothing else to do"),
    "busy": Scene(f"another worker sends {BUSY_PER_S:,} requests a second", BUSY_PER_S),
    "saturated": Scene("another worker sends as many requests as it can", 0),
    "large": Scene(
        f"nothing else to do, victims of {LARGE_BYTES >> 20} MB", ballast_bytes=LARGE_BYTES, part=0.2, at_once=4
    ),
}
JUDGED: Final = ("idle", "busy")
"""The scenes that the target applies to."""

LIMIT_MS: Final = 50.0


@dataclass(frozen=True)
class Deaths:
    """What was measured in one scene: one value per kill, in seconds since the signal was sent."""

    exits_s: Sequence[float]
    """Until the process had exited: the kernel's share, before which nothing can be reported."""
    suspects_s: Sequence[float]
    """Until another worker had read the event."""
    claims_s: Sequence[float]
    """Until a third worker held the call and had its history."""
    requests_per_s: float | None
    """The rate that the traffic reached."""


class Actor:
    """A process of bench/workers.py.

    Args:
        server: the daemon.
        role: see bench/workers.py.
        number: see bench/workers.py.
    """

    def __init__(self, server: Server, role: str, number: int = 0) -> None:
        self._role = role
        self._log = server.path.with_name(f"{server.path.stem}-{role}.log")
        command = [sys.executable, "-m", "bench.workers", role, str(server.path), str(number)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1
            )
        assert self._process.stdin is not None  # noqa: S101 - it was started with pipes
        assert self._process.stdout is not None  # noqa: S101 - same
        self.stdin, self._stdout = self._process.stdin, self._process.stdout

    def said(self) -> list[str]:
        """The words of its next line of output.

        Raises:
            RuntimeError: the process has exited.
        """
        line = self._stdout.readline()
        if not line:
            raise RuntimeError(f"{self._role} has ended:\n{self._log.read_text()[-2000:]}")
        return line.split()

    def dismiss(self) -> None:
        """Let it exit, by closing its stdin."""
        self.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.dismiss()
        try:
            self._process.wait(ENDED_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()


class _Killer:
    """Kills one worker after the other, and is itself the worker that receives the event: a single thread that does
    nothing else, so that it does not measure delays of its own."""

    def __init__(self, server: Server, victims: Actor, rescuer: Actor) -> None:
        self._victims = victims
        self._rescuer = rescuer
        self._wire = Wire(server)
        self._wire.call("worker.register", worker_id="watcher")
        self._wire.call("events.subscribe", types=["suspect", "claimed"])

    def run(self, kills: int, at_once: int) -> Iterator[tuple[float, float, float]]:
        """Times until exit, suspect and claim for each kill; seconds."""
        while kills > 0:
            count = min(kills, at_once)
            for pidfd, session_id in self._fork(count):
                time.sleep(random.uniform(0.0, PAUSE_S))
                death = self._kill(pidfd, session_id)
                os.close(pidfd)
                if death is not None:
                    yield death
            kills -= count

    def _fork(self, count: int) -> list[tuple[int, str]]:
        """Start victims, each with its call. They are returned by pidfd, because a pid may be reused."""
        self._victims.stdin.write(f"{count}\n")
        said = [self._victims.said() for _ in range(count)]
        return [(os.pidfd_open(int(pid)), session_id) for pid, session_id in said]

    def _kill(self, pidfd: int, session_id: str) -> tuple[float, float, float] | None:
        """Kill one worker; None if the rescuer, claiming at that moment, got the call before the event was sent."""
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(self._wire.socket, select.POLLIN)
        exited = told = 0
        first = b""
        killed = time.monotonic_ns()
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        while not (exited and told):
            ready = poll.poll(PATIENCE_MS)
            if not ready:
                raise TimeoutError(f"nobody heard of the death of {session_id}'s worker")
            for fd, _ in ready:
                if fd == pidfd:
                    exited = time.monotonic_ns()
                    poll.unregister(pidfd)
                else:
                    first = self._wire.reply()
                    told = time.monotonic_ns()
                    poll.unregister(self._wire.socket)
        claimed = self._claimed(session_id)
        if _event(first, session_id) == "claimed":
            return None
        _event(self._wire.reply(), session_id)
        return (exited - killed) / 1e9, (told - killed) / 1e9, (claimed - killed) / 1e9

    def _claimed(self, session_id: str) -> int:
        """Wait until the call is claimed and over; returns the time of the claim by the same clock."""
        rescued, at, turns = self._rescuer.said()
        if (rescued, int(turns)) != (session_id, TURNS):
            raise RuntimeError(f"{rescued} was claimed with {turns} turns, not {session_id} with {TURNS}")
        return int(at)

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()


def _event(line: bytes, session_id: str) -> str:
    """The type of an event, which must be of this session, with the reason that its worker has exited."""
    event = json.loads(line)["params"]
    told: str = event["type"]
    if (event["session_id"], event["reason"]) != (session_id, "worker_exited"):
        raise RuntimeError(f"not of {session_id}'s worker: {event}")
    return told


def play(rig: Rig, redis: Server, name: str, kills: int) -> Deaths:
    """Run one scene, with a daemon of its own."""
    scene = SCENES[name]
    kills = max(1, round(kills * scene.part))
    server = rig.daemon(f"dying-{name}", redis, "--set", f"store.prefix=dying-{name}:")
    rate: float | None = None
    with ExitStack() as stack:
        victims = stack.enter_context(Actor(server, "victims", scene.ballast_bytes))
        rescuer = stack.enter_context(Actor(server, "rescuer"))
        traffic = None
        if scene.rate_per_s is not None:
            traffic = stack.enter_context(Actor(server, "traffic", scene.rate_per_s))
            traffic.said()
        killer = _Killer(server, victims, rescuer)
        stack.callback(killer.close)
        list(killer.run(WARM_UP, scene.at_once))
        gc.collect()
        gc.disable()
        stack.callback(gc.enable)
        exits, suspects, claims = zip(*killer.run(kills, scene.at_once), strict=True)
        if traffic is not None:
            traffic.dismiss()
            rate = float(traffic.said()[0])
    rig.end(server)
    return Deaths(exits, suspects, claims, rate)


def failover_verdict(deaths: Mapping[str, Deaths]) -> Verdict:
    """The verdict, by the worse of the scenes that the target applies to."""
    p99 = {name: percentile(deaths[name].suspects_s, 0.99) * 1000 for name in JUDGED}
    note = "; ".join(
        f"{name}: p50 {percentile(deaths[name].suspects_s, 0.5) * 1000:.1f}, p99 {p99[name]:.1f}, "
        f"claimed p99 {percentile(deaths[name].claims_s, 0.99) * 1000:.1f} ms"
        for name in JUDGED
    )
    value = Spread.of([max(p99.values())])
    return Verdict("kill -9 of a worker to suspect at another, p99", value, LIMIT_MS, unit=" ms", note=note)


def deaths_json(deaths: Mapping[str, Deaths]) -> dict[str, dict[str, Any]]:
    """The figures for the JSON file."""
    return {
        name: {
            "name": SCENES[name].name,
            "kills": len(each.exits_s),
            "requests_per_s": each.requests_per_s and round(each.requests_per_s),
            "exit": _figures(each.exits_s),
            "suspect": _figures(each.suspects_s),
            "claimed": _figures(each.claims_s),
        }
        for name, each in deaths.items()
    }


def _figures(values_s: Sequence[float]) -> dict[str, Any]:
    def ms(value_s: float) -> float:
        return short(value_s * 1000)

    return {
        "p50_ms": ms(percentile(values_s, 0.5)),
        "p99_ms": ms(percentile(values_s, 0.99)),
        "longest_ms": ms(max(values_s)),
        "quantiles_ms": [ms(percentile(values_s, part)) for part in QUANTILES],
    }
