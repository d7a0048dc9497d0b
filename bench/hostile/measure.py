"""One attack measured: what it does to another client, and to the daemon's memory and event loop."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.hostile import probed
from bench.hostile.attacker import launch
from bench.hostile.attacks import Scene
from bench.hostile.victim import Victim
from bench.processes import PING, Rig, Server, at_real_time
from bench.sampling import percentile, short
from bench.wire import Wire

GUARD_BYTES: Final = 2 << 30
"""An attack that has grown the daemon by so much has shown it, and is ended: the machine has other users."""

LEAST: Final = 0.25
"""The part of an attack's time for which the victim is watched even if the attacker was stopped earlier."""

NEWCOMER_S: Final = 5.0
"""How long a new operator waits for the daemon's figures."""


@dataclass(frozen=True)
class Code:
    """The code that the daemon runs.

    Args:
        path: a checkout, or a virtual environment with a callstate installed; None: the one that runs this.
    """

    path: Path | None = None

    @property
    def python(self) -> str:
        """The interpreter."""
        own = None if self.path is None else self.path / "bin" / "python"
        return str(own) if own is not None and own.exists() else sys.executable

    def launcher(self, file: Path) -> list[str]:
        """The command that runs its daemon with a probe in the loop."""
        if self.path is None or not (self.path / "sidecar").is_dir():
            return [self.python, probed.__file__, str(file)]
        paths = os.pathsep.join(str(self.path / part) for part in ("client", "sidecar"))
        return ["env", f"PYTHONPATH={paths}", self.python, probed.__file__, str(file)]


@dataclass(frozen=True)
class Figures:
    """What an attack did."""

    idle: Sequence[float]
    attacked: Sequence[float]
    rss_before: int
    rss_peak: int
    longest_turn_s: float
    newcomer_s: float | None
    outcome: dict[str, int]
    guarded: bool

    def to_json(self) -> dict[str, Any]:
        """As the report has it: times in milliseconds, memory in MiB."""

        def ms(values: Sequence[float], part: float) -> float:
            return short(percentile(values, part) * 1000)

        return {
            "idle_p50_ms": ms(self.idle, 0.5), "idle_p99_ms": ms(self.idle, 0.99),
            "p50_ms": ms(self.attacked, 0.5), "p99_ms": ms(self.attacked, 0.99),
            "longest_ms": short(max(self.attacked) * 1000), "victim_requests": len(self.attacked),
            "longest_turn_ms": short(self.longest_turn_s * 1000),
            "newcomer_ms": None if self.newcomer_s is None else short(self.newcomer_s * 1000),
            "rss_before_mib": round(self.rss_before / 2**20), "rss_peak_mib": round(self.rss_peak / 2**20),
            "outcome": self.outcome, "guarded": self.guarded,
        }  # fmt: skip


class Longest:
    """The longest turn of a daemon's loop, in a file that it writes."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "longest"
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        with self.file.open("r+b" if self.file.exists() else "wb") as file:
            file.write(bytes(probed.DOUBLE.size))

    def read(self) -> float:
        """Seconds."""
        return float(probed.DOUBLE.unpack(self.file.read_bytes())[0])


def start(rig: Rig, code: Code, longest: Longest, host: str = "here") -> Server:
    """A daemon of this code, with the default limits, open to every user of this machine.

    Args:
        rig: where it runs; all daemons of a rig share a store.
        code: which code.
        longest: receives the turns of its loop.
        host: its host's id.
    """
    socket = rig.root / f"{host}.sock"
    store = ["--store", f"sqlite:{rig.root / 'store'}", "--set", f"host.id={host}"]
    arguments = ["--socket", str(socket), "--state-dir", str(rig.root / host), *store, "--log-level", "warning"]
    server = rig.start(
        "callstated", host, [*code.launcher(longest.file), "-m", "callstate_sidecar", *arguments], PING
    )
    rig.root.chmod(0o755)
    socket.chmod(0o666)
    return server


def prepare(rig: Rig, scene: Scene, code: Code, longest: Longest, scale: float) -> Server:
    """A daemon with what an attack needs there."""
    first = start(rig, code, longest, "elsewhere" if scene.elsewhere else "here")
    with Wire(first) as wire:
        scene.prepare(wire, scale)
        if scene.elsewhere:
            wire.flush()
    if not scene.elsewhere:
        return first
    first.stop()
    return start(rig, code, longest)


def _newcomer(server: Server) -> float | None:
    """How long a new connection waits for the daemon's figures; None: it is refused, or waits too long."""
    began = time.perf_counter()
    try:
        with Wire(server) as wire:
            wire.socket.settimeout(NEWCOMER_S)
            wire.call("server.stats")
    except (OSError, RuntimeError):
        return None
    return time.perf_counter() - began


def measure(scene: Scene, code: Code, *, seconds: float, scale: float) -> Figures:
    """Run an attack against a daemon of its own.

    Args:
        scene: the attack.
        code: of the daemon.
        seconds: how long it goes on; as long as the victim is watched without it.
        scale: of what is there before.
    """
    with Rig() as rig, tempfile.TemporaryDirectory() as folder:
        longest = Longest(Path(folder))
        server = prepare(rig, scene, code, longest, scale)
        victim = Victim(server)
        with at_real_time(server):
            idle = _during(victim, seconds / 2)
        before = server.rss_bytes()
        longest.reset()
        pid, pipe = launch(scene.attack, server.path, seconds, scene.same_user)
        try:
            with at_real_time(server):
                attacked, guarded = _under_attack(victim, server, before, pipe, seconds)
                newcomer = _newcomer(server)
            if guarded:
                os.kill(pid, signal.SIGKILL)
            outcome = b"" if guarded else os.read(pipe, 65536)
        finally:
            os.close(pipe)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return Figures(
            idle, attacked, before, peak_bytes(server.pid), longest.read(), newcomer,
            json.loads(outcome or b"{}"), guarded,
        )  # fmt: skip


def _during(victim: Victim, seconds: float) -> list[float]:
    until = time.monotonic() + seconds
    return victim.run(lambda: time.monotonic() > until)


def _under_attack(
    victim: Victim, server: Server, before: int, pipe: int, seconds: float
) -> tuple[list[float], bool]:
    """The victim's latencies from the attack's start almost to its end, and whether the guard ended it."""
    began, over = time.monotonic(), False

    def done() -> bool:
        nonlocal over
        over = server.rss_bytes() - before > GUARD_BYTES
        passed = (time.monotonic() - began) / seconds
        return over or passed > 0.9 or (passed > LEAST and bool(select.select([pipe], [], [], 0)[0]))

    return victim.run(done), over


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
