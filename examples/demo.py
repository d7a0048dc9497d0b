"""callstate in under a minute: live calls, a `kill -9`, a restart, workers that die, and one that is replaced.

Starts a daemon of its own on temporary paths, plays calls against it, and says what became of them; every
number it prints is measured. The exit code is 1 when anything is missing: try `--durability memory`, which
keeps no journal. Run it with `make demo`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import failover
from callstate_client import SidecarStore, connect
from callstate_client.cli.simulate import Ledger, Simulation, Tally, Traffic, turn_numbers

RATE = 40.0
SPEED = 30.0
DIE = 0.05
HEARTBEAT_TIMEOUT_S = 2.0
GRACE_S = 1.0
REAP_PATIENCE_S = 20.0
POLL_S = 0.05


class Daemon:
    """A callstated of our own, in a directory that is removed with it."""

    def __init__(self, directory: Path, durability: str) -> None:
        self._durability = durability
        self.socket = str(directory / "callstate.sock")
        self.log = directory / "daemon.log"
        self._state_dir = directory / "state"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process that runs now."""
        assert self._process is not None  # noqa: S101 - a fault of this script, not of its input
        return self._process.pid

    async def start(self) -> None:
        """Start it; `connect` waits until it answers."""
        settings = {"heartbeat_timeout_s": HEARTBEAT_TIMEOUT_S, "grace_s": GRACE_S}
        reaper = [part for key, value in settings.items() for part in ("--set", f"reaper.{key}={value}")]
        command = [sys.executable, "-m", "callstate_sidecar", "--socket", self.socket, *reaper]
        command += ["--state-dir", str(self._state_dir), "--durability", self._durability]
        # whatever is configured here for a real daemon must not lead this one to a real store
        environ = {name: value for name, value in os.environ.items() if not name.startswith("CALLSTATE_")}
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(*command, stderr=log, env=environ)

    async def stop(self, signum: signal.Signals) -> int:
        """Send a signal, wait for the end, give the exit status."""
        if self._process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signum)
        return await self._process.wait()


@contextlib.asynccontextmanager
async def temporary_daemon(durability: str) -> AsyncIterator[Daemon]:
    """A running daemon; gone, with all its files, afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="callstate-demo-"))
    daemon = Daemon(directory, durability)
    try:
        await daemon.start()
        yield daemon
    except BaseException:
        if daemon.log.exists():
            sys.stderr.write(daemon.log.read_text(errors="replace"))
        raise
    finally:
        await daemon.stop(signal.SIGKILL)
        shutil.rmtree(directory)


class Findings:
    """What the demo measures, told as it goes."""

    missing = 0

    def row(self, name: str, text: str, *, gap: bool = False) -> None:
        """One line of the report, with an empty one before it where something new begins."""
        sys.stdout.write("\n" * gap + f"  {name:<16}{text}\n")
        sys.stdout.flush()


async def crash(daemon: Daemon, simulation: Simulation, halfway: asyncio.Event, findings: Findings) -> None:
    """Halfway through the calls: kill -9, restart at once, look for all that had been acknowledged."""
    await halfway.wait()
    acknowledged: list[tuple[Ledger, frozenset[int]]] = [
        (ledger, ledger.acknowledged) for ledger in simulation.ledgers
    ]
    total = sum(len(numbers) for _, numbers in acknowledged)
    live = simulation.tally.live
    killed_at = time.monotonic()
    pid = daemon.pid
    await daemon.stop(signal.SIGKILL)
    findings.row("kill -9", f"pid {pid}, with {live} calls live and {total} turns acknowledged", gap=True)
    await daemon.start()
    async with connect(daemon.socket, wait_s=10) as store:
        await store.ping()
        away_s = time.monotonic() - killed_at
    found = 0
    for ledger, numbers in acknowledged:
        record = await simulation.read(ledger.session_id) if numbers else None
        found += len(numbers.intersection(turn_numbers(record))) if record else 0
    findings.missing += total - found
    findings.row("restart", f"pid {daemon.pid}, answering again {away_s:.2f} s after the kill")
    findings.row("after restart", f"{found} of {total} acknowledged turns found")


async def play(daemon: Daemon, store: SidecarStore, traffic: Traffic, findings: Findings) -> Simulation:
    """All calls, with the crash in the middle of them."""
    expected = sum(script.turns for script in traffic.scripts())
    halfway = asyncio.Event()

    def watch(tally: Tally) -> None:
        if tally.turns_acknowledged >= expected // 2:
            halfway.set()

    simulation = Simulation(store, traffic, speed=SPEED, on_change=watch)
    findings.row(
        "calls", f"{traffic.calls} with {expected} turns, {RATE:g} calls a second, {SPEED:g} times real time"
    )

    async def run() -> None:
        try:
            await simulation.run()
        finally:
            halfway.set()  # also when nothing worked: what is there is told all the same

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run())
        tasks.create_task(crash(daemon, simulation, halfway, findings))
    checked, tally = simulation.checked, simulation.tally
    findings.missing += checked.faults + sum(tally.errors.values())
    findings.row(
        "in all",
        f"{checked.found} of {checked.acknowledged} acknowledged turns found,"
        f" {checked.lost} lost, {checked.doubled} doubled, {checked.altered + checked.misplaced} changed",
        gap=True,
    )
    findings.row("workers", f"{tally.ended} ended their calls, {tally.died} died; restarts seen: {tally.restarts}")
    for problem in tally.problems:
        findings.row("!", problem)
    return simulation


async def watch_reaper(store: SidecarStore, simulation: Simulation, findings: Findings) -> None:
    """Wait until the calls of dead workers have been reaped, and look whether their data is intact."""
    began = time.monotonic()
    dead = {ledger.session_id: ledger for ledger in simulation.ledgers if ledger.died}
    waiting = set(dead)
    while waiting and time.monotonic() - began < REAP_PATIENCE_S:
        await asyncio.sleep(POLL_S)
        async for record in store.sessions(status="ended", labels={"run": simulation.run_id}):
            if record.ended_reason == "heartbeat_timeout":
                waiting.discard(record.state.id)
    acknowledged = found = faults = 0
    for session_id in dead.keys() - waiting:
        comparison = dead[session_id].compare(await simulation.read(session_id))
        acknowledged += comparison.acknowledged
        found += comparison.found
        faults += comparison.faults
    findings.missing += len(waiting) + faults
    silence = f"{HEARTBEAT_TIMEOUT_S:g} s of silence and {GRACE_S:g} s of grace"
    findings.row("reaped", f"{len(dead) - len(waiting)} of {len(dead)} dead calls, after {silence}", gap=True)
    findings.row("their data", f"{found} of {acknowledged} acknowledged turns found")


async def demo(traffic: Traffic, durability: str) -> int:
    """Run it all; gives the exit code."""
    # SIGTERM unwinds as Ctrl-C does, so that the daemon and its directory go too
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    began = time.monotonic()
    findings = Findings()
    sys.stdout.write(f"callstate demo, seed {traffic.seed}; takes well under a minute\n\n")
    async with temporary_daemon(durability) as daemon, connect(daemon.socket, wait_s=10) as store:
        info = await store.info()
        findings.row("daemon", f"pid {daemon.pid}, durability {info['durability']}, store {info['store']}")
        simulation = await play(daemon, store, traffic, findings)
        await watch_reaper(store, simulation, findings)
        findings.row("second act", "a worker is killed in mid-call (examples/failover.py)", gap=True)
        findings.missing += not await failover.play(daemon.socket, findings.row)
        latencies = simulation.report()["latency_ms"]
        for name in ("add_turn", "heartbeat"):
            p50, p95, longest = (latencies[name][figure] for figure in ("p50", "p95", "max"))
            text = f"p50 {p50:.2f} ms, p95 {p95:.2f} ms, max {longest:.0f} ms (the restart included)"
            findings.row(name, text, gap=name == "add_turn")
        status = await daemon.stop(signal.SIGTERM)
        findings.missing += status != 0
        findings.row("stopped", f"SIGTERM, exit status {status}")
    verdict = "nothing is missing" if not findings.missing else f"FAULTS: {findings.missing}"
    sys.stdout.write(f"\n{verdict}; {time.monotonic() - began:.1f} s in all\n")
    return 1 if findings.missing else 0


def main() -> int:
    """Read the arguments, run the demo, clean up also when told to stop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--durability", choices=("memory", "process", "power"), default="process")
    args = parser.parse_args()
    traffic = Traffic(calls=args.calls, rate=RATE, seed=args.seed, die=DIE)
    try:
        return asyncio.run(demo(traffic, args.durability))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


if __name__ == "__main__":
    sys.exit(main())
