"""`callstate simulate`: the simulation with a progress bar before and a summary after."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from callstate_client.api import CallStore
from callstate_client.cli import output, render
from callstate_client.cli.output import Output
from callstate_client.cli.simulate import Simulation, Tally, Traffic

REFRESH_S: Final = 0.1
"""Redrawing at each of thousands of answers a second would be what is measured."""


async def simulate(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    """Play the calls; exit code 1 on any lost, doubled or changed turn and on any unexpected error."""
    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    traffic = Traffic(calls=args.calls, rate=args.rate, seed=seed, die=args.die, turns=args.turns)
    with _progress(traffic.calls, visible=not out.as_json) as show:
        simulation = Simulation(store, traffic, speed=args.speed, on_change=show)
        await simulation.run()
    report = simulation.report()
    if out.as_json:
        out.document(report)
    else:
        out.text(*render.simulation_tables(report))
    for problem in simulation.tally.problems:
        output.error(problem)
    return 0 if simulation.ok else 1


class _Display:
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
    """A bar on stderr, so that stdout has the summary alone; nothing where stderr is no terminal."""
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
