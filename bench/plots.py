"""The figures as SVG plots; the same figures give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("svg")  # before pyplot looks for a display

from matplotlib import pyplot as plt

from bench.report import measured
from bench.sampling import QUANTILES

STYLE: Final[Any] = {
    "svg.hashsalt": "callstate",  # otherwise its ids are random
    "svg.fonttype": "none",  # text as text: small, and searchable
    "xtick.minor.size": 0, "ytick.minor.size": 0,
    "font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False,
    "figure.constrained_layout.use": True,
}  # fmt: skip
OPERATIONS: Final = ("heartbeat", "add_turn", "save", "load")
TURNS: Final = (20, 200)

Told = dict[str, Any]
"""The content of the JSON file."""


def draw_all(told: Told, directory: Path) -> None:
    """Draw every plot as performance-*.svg.

    Args:
        told: the figures of a full run.
        directory: for the files.
    """
    plots: dict[str, Callable[[Told], None]] = {
        "throughput": throughput, "latency": latency, "growth": growth, "loads": loads, "dying": dying,
    }  # fmt: skip
    with mpl.rc_context(STYLE):
        for name, plot in plots.items():
            if not measured(told, name):
                continue
            plot(told)
            for axes in plt.gcf().axes:
                axes.minorticks_off()  # there would be nine between two powers of ten
            plt.savefig(directory / f"performance-{name}.svg", metadata={"Date": None})
            plt.close()


def _cells(told: Told, operation: str, turns: int) -> Iterable[Told]:
    what = (operation, turns, False)
    found = [cell for cell in told["comparisons"] if (cell["operation"], cell["turns"], cell["spread"]) == what]
    return sorted(found, key=lambda cell: int(cell["tasks"]))


def throughput(told: Told) -> None:
    """Requests per second by number of tasks, all subjects."""
    _, rows = plt.subplots(len(TURNS), len(OPERATIONS), figsize=(11, 5), sharey=True)
    for turns, row in zip(TURNS, rows, strict=True):
        for operation, axes in zip(OPERATIONS, row, strict=True):
            cells = list(_cells(told, operation, turns))
            for name in cells[0]["sides"]:
                rates = [cell["sides"][name]["throughput_per_s"][0] for cell in cells]
                axes.plot([str(cell["tasks"]) for cell in cells], rates, marker=".", label=name)
            axes.set_yscale("log")
            axes.set_title(f"{operation}, {turns} turns")
    for axes in rows[-1]:
        axes.set_xlabel("tasks")
    for row in rows:
        row[0].set_ylabel("requests per second")
    rows[0][1].legend(fontsize=7)


def latency(told: Told) -> None:
    """Latency distributions with 32 tasks."""
    _, row = plt.subplots(1, len(OPERATIONS), figsize=(11, 3), sharey=True)
    for operation, axes in zip(OPERATIONS, row, strict=True):
        (cell,) = (cell for cell in _cells(told, operation, 200) if cell["tasks"] == 32)
        for name, side in cell["sides"].items():
            axes.plot(side["quantiles_us"], [part * 100 for part in QUANTILES], label=name)
        axes.set_xscale("log")
        axes.set_title(f"{operation}, 200 turns")
        axes.set_xlabel("latency, µs")
    row[0].set_ylabel("% of requests within")
    row[1].legend(fontsize=7)


def growth(told: Told) -> None:
    """Cost by history length."""
    _, axes = plt.subplots(figsize=(5, 3.2))
    for operation, costs in told["growth"].items():
        median, low, high = zip(*(cost["us"] for cost in costs.values()), strict=True)
        numbers = [int(number) for number in costs]
        (line,) = axes.plot(numbers, median, marker=".", label=operation)
        axes.fill_between(numbers, low, high, alpha=0.15, color=line.get_color(), linewidth=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("turns in the history")
    axes.set_ylabel("µs per request, 32 tasks")
    axes.legend()


def loads(told: Told) -> None:
    """Heartbeat latencies under each load."""
    _, axes = plt.subplots(figsize=(8, 3.2))
    loads_ = [*reversed(told["loads"].values())]
    places = range(len(loads_))
    figures = {
        "p50": [each["p50_ms"] for each in loads_],
        "p99": [each["p99_ms"][0] for each in loads_],
        "longest": [each["longest_ms"] for each in loads_],
    }
    for (name, values), marker in zip(figures.items(), "o|x", strict=True):
        axes.plot(values, places, marker, label=name)
    axes.axvline(5.0, linestyle=":", color="grey", label="target for p99")
    axes.set_yticks(places, [each["name"] for each in loads_])
    axes.set_xscale("log")
    axes.set_xlabel("heartbeat, ms")
    axes.legend(loc="upper right")


def dying(told: Told) -> None:
    """Distributions of the time from kill -9 to suspect, and to the takeover."""
    figure, row = plt.subplots(1, 2, figsize=(8, 3.5), sharex=True, sharey=True)
    for what, axes in zip(("suspect", "claimed"), row, strict=True):
        for each in told["dying"].values():
            axes.plot(each[what]["quantiles_ms"], [part * 100 for part in QUANTILES], label=each["name"])
        axes.axvline(50.0, linestyle=":", color="grey", label="target for p99 of suspect")
        axes.set_xscale("log")
        axes.set_xlabel(f"kill -9 to {what}, ms")
    row[0].set_ylabel("% of kills within")
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7)
