"""A worker is killed in mid-call, and another one goes on with it: history, recovery data and all.

Starts a daemon and two workers, each a process of its own. Worker A holds a call and talks until it is killed
-9; worker B waits in `recover(watch=True)`, gets the call, says what it found, goes on and ends it. Every time
printed is measured; the exit code is 0 only if nothing that was acknowledged is missing.

    python examples/failover.py
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from callstate_client import SessionState, connect

TURNS = 5
"""Turns that worker A says before it dies."""


async def worker_a(socket: str) -> None:
    """Holds a call, says each turn once the last is acknowledged, and never leaves by itself."""
    async with connect(socket, "worker-a") as store:
        state = SessionState("call-1", provider="sip", from_="+15550100", to="+15550199", status="active")
        async with store.hold(state, labels={"app": "failover"}) as call:
            await call.update(recovery_data={"node": "order", "item": 7})
            for number in range(TURNS):
                await call.add_turn("user" if number % 2 else "agent", f"turn {number}", duration_ms=900)
                print(f"acknowledged {number + 1}", flush=True)
            await asyncio.Event().wait()


async def worker_b(socket: str) -> None:
    """Takes over calls whose workers died, as a worker does that has room for more."""
    async with connect(socket, "worker-b") as store:
        print("waiting", flush=True)
        async for call in store.recover(labels={"app": "failover"}, watch=True):
            print(f"claimed {time.time()} {len(call.state.history)} {call.state.recovery_data['node']}", flush=True)
            async with call:
                await call.add_turn("agent", "Sorry, where were we?")
            break


async def start(role: str, socket: str) -> asyncio.subprocess.Process:
    """One worker, as a process."""
    return await asyncio.create_subprocess_exec(
        sys.executable, __file__, role, socket, stdout=asyncio.subprocess.PIPE
    )


async def said(process: asyncio.subprocess.Process, word: str) -> list[str]:
    """Wait until a worker has said this word; gives the rest of the line."""
    assert process.stdout is not None  # noqa: S101 - it was started with a pipe
    while line := (await process.stdout.readline()).decode():
        if line.startswith(word):
            return line.split()[1:]
    raise SystemExit(f"a worker ended without having said {word!r}")


async def play(socket: str, say: Callable[[str, str], None]) -> bool:
    """The whole act, each step said as it is measured; True when nothing is lost."""
    async with connect(socket, wait_s=20, register=False) as store, store.events("suspect") as events:
        b = await start("b", socket)
        await said(b, "waiting")
        a = await start("a", socket)
        while int((await said(a, "acknowledged"))[0]) < TURNS:
            pass
        killed = time.time()
        a.kill()
        say("worker A", f"held a call with {TURNS} turns acknowledged; killed -9")
        suspect = await anext(events)
        say("suspect", f"after {(suspect.at.timestamp() - killed) * 1000:.1f} ms: {suspect.reason}")
        at, turns, node = await said(b, "claimed")
        say("claimed", f"after {(float(at) - killed) * 1000:.1f} ms by worker B, with {turns} turns, at {node!r}")
        await asyncio.gather(a.wait(), b.wait())
        record = await store.get("call-1")
        lost = TURNS - int(turns)
        say("went on", f"to {record.turn_count} turns, and ended as {record.ended_reason!r}; {lost} turns lost")
        return lost == 0 and record.turn_count == TURNS + 1 and record.ended_reason == "completed"


async def main() -> int:
    """Start a daemon for it, and end that."""
    with tempfile.TemporaryDirectory(prefix="callstate-failover-") as directory:
        socket = str(Path(directory) / "callstate.sock")
        environ = {name: value for name, value in os.environ.items() if not name.startswith("CALLSTATE_")}
        daemon = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "callstate_sidecar", "--socket", socket, "--state-dir", f"{directory}/state",
            "--log-level", "warning", env=environ,
        )  # fmt: skip
        try:
            return 0 if await play(socket, lambda name, text: print(f"{name:<10} {text}")) else 1
        finally:
            daemon.send_signal(signal.SIGTERM)
            await daemon.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["a"]:
        asyncio.run(worker_a(sys.argv[2]))
    elif sys.argv[1:2] == ["b"]:
        asyncio.run(worker_b(sys.argv[2]))
    else:
        sys.exit(asyncio.run(main()))
