"""Makes docs/pictures/top.svg: `callstate top` as it shows a daemon with simulated calls.

A daemon is started, workers play calls against it, one of them is killed, and the view is opened on it in Textual's
harness; nothing in the picture is made up:

    python scripts/top_picture.py
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from callstate_client import CallStore, connect
from callstate_client.cli.top.app import TopApp
from callstate_client.cli.top.sessions import SUSPECT

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "top.svg"
SIZE = (150, 36)
WORKERS = 3
WITHIN_S = 60.0


@asynccontextmanager
async def process(module: str, *args: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python program of ours, killed at the end of the block."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CALLSTATE_")}
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environ
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


def worker(socket: Path, seed: int) -> list[str]:
    """A worker with its calls."""
    return [
        "--socket", str(socket), "simulate", "--seed", str(seed), "--calls", "400", "--rate", "4", "--speed", "4",
    ]  # fmt: skip


async def until(condition: Callable[[], bool]) -> None:
    """Return once the view shows what is waited for; it changes at its own interval."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - the view has no event for what it knows
            await asyncio.sleep(0.05)


async def draw(store: CallStore, victim: asyncio.subprocess.Process, seconds: float) -> str:
    """Watch for a while, kill a worker, open a call. Returns the picture as SVG."""
    app = TopApp(store, interval_s=max(0.2, seconds / 20))
    async with app.run_test(size=SIZE) as pilot:
        await until(lambda: len(app.feed.calls.by(lambda call: call.owner)) == WORKERS)
        await asyncio.sleep(seconds)
        victim.kill()
        await until(lambda: any(call.state == SUSPECT for call in app.feed.calls.calls.values()))
        await pilot.press("s", "s", "home", "enter")  # by turns, and the first of them
        await until(lambda: app.opened is not None and len(app.opened.turns) > 0)
        await asyncio.sleep(seconds / 10)
        await pilot.pause()
        # fonts are those of whoever looks: an image may load nothing from elsewhere
        return re.sub(r"@font-face \{.*?\}\s*", "", app.export_screenshot(title="callstate top"), flags=re.DOTALL)


async def make(seconds: float) -> str:
    """Run everything for about this long. Returns the picture."""
    with tempfile.TemporaryDirectory(prefix="cs-") as folder:
        socket = Path(folder) / "s"
        daemon = ("--socket", str(socket), "--state-dir", str(Path(folder) / "state"))
        async with process("callstate_sidecar", *daemon), connect(socket, wait_s=WITHIN_S, register=False) as store:
            module = "callstate_client.cli"
            async with (
                process(module, *worker(socket, 1)),
                process(module, *worker(socket, 2)),
                process(module, *worker(socket, 3)) as victim,
            ):
                return await draw(store, victim, seconds)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description="Make a picture of `callstate top` with simulated calls.")
    parser.add_argument("--out", type=Path, default=PICTURE, help=f"default: {PICTURE}")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the calls are watched (default 20)")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(asyncio.run(make(args.seconds)), "utf-8")


if __name__ == "__main__":
    main()
