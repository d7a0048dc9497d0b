"""`callstate latency`: how long round trips to the daemon take, measured until it is interrupted."""

from __future__ import annotations

import argparse
import asyncio
import time
from array import array
from bisect import insort
from typing import Any, Final

from callstate_client.api import CallStore
from callstate_client.cli import values
from callstate_client.cli.command import Command
from callstate_client.cli.output import Output

INTERVAL_S: Final = 0.01
REDRAW_S: Final = 0.1
"""How often the running figures are drawn, seconds."""


class Latencies:
    """Round trips, in milliseconds."""

    def __init__(self) -> None:
        self._ms = array("d")  # sorted
        self._sum_ms = 0.0

    def __len__(self) -> int:
        return len(self._ms)

    def add(self, seconds: float) -> None:
        """Add a round trip."""
        insort(self._ms, seconds * 1000)
        self._sum_ms += seconds * 1000

    def figures(self) -> dict[str, Any]:
        """The least, the mean, the median, the 99th of 100, the greatest; and how many there are."""
        ms, count = self._ms, len(self._ms)
        figures = {
            "min": ms[0],
            "avg": self._sum_ms / count,
            "p50": ms[(count - 1) // 2],
            "p99": ms[(99 * count - 1) // 100],
            "max": ms[-1],
        }
        return {f"{name}_ms": round(value, 3) for name, value in figures.items()} | {"count": count}


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", metavar="N", type=values.count, help="stop after this many (default: at Ctrl-C)")
    parser.add_argument(
        "--interval",
        metavar="S",
        type=values.positive,
        default=INTERVAL_S,
        help=f"pause between two pings, seconds (default {INTERVAL_S:g})",
    )


async def _latency(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    latencies = Latencies()
    await store.ping()  # connects, which is not what is measured
    drawn = 0.0
    try:
        while len(latencies) != args.count:
            started = time.perf_counter()
            await store.ping()
            latencies.add(time.perf_counter() - started)
            if out.redraws and time.monotonic() >= drawn + REDRAW_S:
                drawn = time.monotonic()
                out.redraw_line(_line(latencies.figures()))
            if len(latencies) != args.count:
                await asyncio.sleep(args.interval)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
    finally:  # also when the daemon has stopped to answer
        _summarize(latencies, out)
    return 0


def _summarize(latencies: Latencies, out: Output) -> None:
    figures = latencies.figures() if len(latencies) else {"count": 0}
    if out.as_json:
        out.document(figures)
        return
    if out.redraws:
        out.redraw_line("")
    out.text(_line(figures))


def _line(figures: dict[str, Any]) -> str:
    times = [f"{name.removesuffix('_ms')} {ms:.3f}" for name, ms in figures.items() if name != "count"]
    return ", ".join([*times, f"{figures['count']} round trips"]) + (" (ms)" if times else "")


COMMAND: Final = Command(
    "latency",
    "measure round trips to the daemon until Ctrl-C, or --count of them",
    _latency,
    add=_add,
    exits={0: "done, or ended by Ctrl-C"},
    description="Measure how long the daemon takes to answer a ping over its socket, in milliseconds. On a "
    "terminal the figures so far are shown; Ctrl-C prints the summary. What it measures includes this program: a "
    "worker in the same language sees about the same.",
)
