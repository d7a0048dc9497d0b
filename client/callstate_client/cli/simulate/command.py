"""`callstate simulate`: runs a simulation with a progress bar and prints its report."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from callstate_client.api import CallStore
from callstate_client.cli import output, values
from callstate_client.cli.command import Command
from callstate_client.cli.output import Output
from callstate_client.cli.render.figures import pairs_table
from callstate_client.cli.simulate import Simulation, Tally, Traffic
from callstate_client.cli.simulate.scenario import MAX_TURNS

REFRESH_S: Final = 0.1
"""How often the bar is redrawn, seconds. On each of thousands of answers a second, drawing would dominate."""


async def _simulate(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    """Play the calls; exit code 1 if a turn is lost, doubled or changed, or after an unexpected error."""
    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    traffic = Traffic(calls=args.calls, rate=args.rate, seed=seed, die=args.die, turns=args.turns)
    with _progress(traffic.calls, visible=not out.as_json) as show:
        simulation = Simulation(store, traffic, speed=args.speed, on_change=show)
        await simulation.run()
    report = simulation.report()
    if out.as_json:
        out.document(report)
    else:
        out.text(*report_tables(report))
    for problem in simulation.tally.problems:
        output.error(problem)
    return 0 if simulation.ok else 1


def report_tables(report: Mapping[str, Any]) -> Iterator[Table]:
    """The report for people: counts, then latencies."""
    counts, checked, rates = report["counts"], report["checked"], report["per_second"]
    reasons = ", ".join(f"{name} {count}" for name, count in sorted(counts["reasons"].items()))
    yield pairs_table(
        {
            "calls": f"{counts['started']} begun, {counts['ended']} ended, {counts['died']} died,"
            f" {counts['failed']} failed",
            "endings": reasons or "none",
            "turns": f"{counts['turns_sent']} sent, {counts['turns_acknowledged']} acknowledged",
            "checked": f"{checked['acknowledged']} acknowledged turns, {checked['found']} found,"
            f" {checked['lost']} lost, {checked['doubled']} doubled, {checked['misplaced']} misplaced,"
            f" {checked['altered']} altered, {checked['missing_calls']} calls missing",
            "also": f"{counts['barge_ins']} barge-ins, {counts['holds']} holds,"
            f" {counts['transfers']} transfers, {counts['beats']} beats",
            "daemon": f"{counts['restarts']} restarts seen, {counts['beats_missed']} heartbeats missed,"
            f" {counts['retries']} retries",
            "took": f"{report['duration_s']:.1f} s: {rates['calls']:g} calls/s, {rates['turns']:g} turns/s,"
            f" {rates['requests']:g} requests/s",
            "repeat with": f"--seed {report['seed']}",
        }
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("LATENCY, ms")
    figures = ("count", "p50", "p95", "p99", "max")
    for name in figures:
        table.add_column(name.upper(), justify="right")
    for operation, latency in report["latency_ms"].items():
        table.add_row(operation, *(f"{latency[name]:g}" for name in figures))
    yield table


class _Display:
    """The progress bar, called with the running counts after each answer."""

    def __init__(self, progress: Progress, calls: int) -> None:
        self._progress = progress
        self._task = progress.add_task("calls", total=calls, live=0, turns=0)
        self._next = 0.0

    def __call__(self, tally: Tally) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + REFRESH_S
        done = tally.ended + tally.died + tally.failed
        self._progress.update(self._task, completed=done, live=tally.live, turns=tally.turns_acknowledged)


@contextmanager
def _progress(calls: int, *, visible: bool) -> Iterator[_Display]:
    """A bar on stderr, so that stdout has only the summary; hidden if stderr is not a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("[bold]calls"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[live]} live, {task.fields[turns]} turns acknowledged"),
        TimeElapsedColumn(),
    )
    hidden = not (visible and sys.stderr.isatty())
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        yield _Display(progress, calls)


def _range_of_turns(text: str) -> tuple[int, int]:
    low, colon, high = text.partition(":")
    if not (low.isdecimal() and (high.isdecimal() or not colon)):
        raise argparse.ArgumentTypeError(f"A:B, such as 6:16, not {text!r}")
    least, most = int(low), int(high or low)
    if not 1 <= least <= most <= MAX_TURNS:
        raise argparse.ArgumentTypeError(f"A:B with 1 <= A <= B <= {MAX_TURNS}, not {text!r}")
    return least, most


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", metavar="N", type=values.count, default=50, help="number of calls (default 50)")
    parser.add_argument(
        "--rate",
        metavar="CALLS_PER_S",
        type=values.positive,
        default=10.0,
        help="mean arrivals per second (default 10)",
    )
    parser.add_argument(
        "--speed", metavar="X", type=values.positive, default=30.0, help="multiple of real time (default 30)"
    )
    parser.add_argument("--seed", metavar="S", type=int, help="same seed, same calls (default: a new one)")
    parser.add_argument(
        "--die",
        metavar="FRACTION",
        type=values.fraction,
        default=0.0,
        help="fraction of calls that lose their worker and are never ended, 0 to 1 (default 0)",
    )
    parser.add_argument(
        "--turns", metavar="A:B", type=_range_of_turns, default=(6, 16), help="turns per call (default 6:16)"
    )


COMMAND: Final = Command(
    "simulate",
    "play realistic calls and check that nothing is lost",
    _simulate,
    add=_add,
    exits={1: "something was lost, or it failed"},
    registers=True,
)
