"""The figures as SVG: the same figures give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("svg")  # before pyplot looks for a display

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.report import QUANTILES, at_hand

STYLE: Final[Any] = {
    "svg.hashsalt": "callstate",  # the ids in it are random otherwise
    "svg.fonttype": "none",  # text as text: small, and searchable
    "xtick.minor.size": 0, "ytick.minor.size": 0,
    "font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False,
    "figure.constrained_layout.use": True,
}  # fmt: skip
OPERATIONS: Final = ("heartbeat", "add_turn", "save", "load")
TURNS: Final = (20, 200)

Told = dict[str, Any]
"""What `--json` wrote."""


def draw_all(told: Told, directory: Path) -> None:
    """Every plot, as performance-*.svg.

    Args:
        told: the figures of a full run.
        directory: where to.
    """
    plots: dict[str, Callable[[Told], None]] = {
        "throughput": throughput, "latency": latency, "turns": by_turns, "sessions": by_sessions,
        "connections": by_connections, "dirty": by_dirty, "memory": memory, "stress": stress, "churn": churn,
        "dying": dying,
    }  # fmt: skip
    with mpl.rc_context(STYLE):
        for name, plot in plots.items():
            if not at_hand(told, name):
                continue
            plot(told)
            for axes in plt.gcf().axes:
                axes.minorticks_off()  # nine more of everything between two powers of ten
            plt.savefig(directory / f"performance-{name}.svg", metadata={"Date": None})
            plt.close()


def _cells(told: Told, operation: str, turns: int) -> Iterable[Told]:
    what = (operation, turns, False)
    found = [cell for cell in told["comparisons"] if (cell["operation"], cell["turns"], cell["spread"]) == what]
    return sorted(found, key=lambda cell: int(cell["tasks"]))


def throughput(told: Told) -> None:
    """Requests a second by tasks, every side."""
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
        row[0].set_ylabel("requests a second")
    rows[0][1].legend(fontsize=7)


def latency(told: Told) -> None:
    """How the latencies of 32 tasks are distributed."""
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


def by_turns(told: Told) -> None:
    """Cost by history length."""
    _costs(told["curves"]["turns"], "turns in the history")


def by_sessions(told: Told) -> None:
    """Cost by sessions in the daemon."""
    _costs(told["curves"]["sessions"], "sessions in the daemon")


def by_connections(told: Told) -> None:
    """Cost by connections."""
    _costs(told["curves"]["connections"], "connections that share the same tasks")


def _costs(curve: Told, label: str) -> None:
    _, axes = plt.subplots(figsize=(5, 3.2))
    for operation, costs in curve.items():
        _line(axes, {number: cost["us"] for number, cost in costs.items()}, operation)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("µs a request, 32 tasks" if "turns" in label or "daemon" in label else "µs a request")
    axes.legend()


def by_dirty(told: Told) -> None:
    """Heartbeats while so many sessions are flushed."""
    _, axes = plt.subplots(figsize=(5, 3.2))
    beats = told["curves"]["dirty"]["heartbeat"]
    for name in ("p50_ms", "p99_ms"):
        _line(axes, {number: figures[name] for number, figures in beats.items()}, name.removesuffix("_ms"))
    axes.axhline(5.0, linestyle=":", color="grey", label="target for p99")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("sessions of 200 turns that are flushed at once")
    axes.set_ylabel("heartbeat, ms")
    axes.legend()


def memory(told: Told) -> None:
    """Resident memory by sessions."""
    _, axes = plt.subplots(figsize=(5, 3.2))
    used = told["curves"]["memory"]["rss"]
    axes.plot([int(count) for count in used], [figures["of_json"] for figures in used.values()], marker=".")
    axes.axhline(1.5, linestyle=":", color="grey", label="target")
    axes.set_xscale("log")
    axes.set_ylim(0)
    axes.set_xlabel("sessions of 20 turns")
    axes.set_ylabel("resident memory / their JSON")
    axes.legend()


def stress(told: Told) -> None:
    """Heartbeats beside what else the daemon does."""
    _, axes = plt.subplots(figsize=(8, 3.2))
    burdens = [*reversed(told["stress"].values())]
    places = range(len(burdens))
    figures = {
        "p50": [each["p50_ms"] for each in burdens],
        "p99": [each["p99_ms"][0] for each in burdens],
        "longest": [each["longest_ms"] for each in burdens],
    }
    for (name, values), marker in zip(figures.items(), "o|x", strict=True):
        axes.plot(values, places, marker, label=name)
    axes.axvline(5.0, linestyle=":", color="grey", label="target for p99")
    axes.set_yticks(places, [each["name"] for each in burdens])
    axes.set_xscale("log")
    axes.set_xlabel("heartbeat, ms")
    axes.legend(loc="upper right")


def churn(told: Told) -> None:
    """Resident memory while things come and go."""
    _, row = plt.subplots(1, len(told["churn"]), figsize=(8, 3), sharey=True)
    for axes, (store, kinds) in zip(row, told["churn"].items(), strict=True):
        for each in kinds:
            sizes = each["rss_bytes"]
            share = [100 * (number + 1) / len(sizes) for number in range(len(sizes))]
            axes.plot(share, [size / 1e6 for size in sizes], label=f"{each['count']:,} {each['kind']}")
        axes.set_title(store)
        axes.set_xlabel("% of them come and gone")
    row[0].set_ylim(0)  # of both, and only now: the top stays where it is then
    row[0].set_ylabel("resident memory, MB")
    row[0].legend(fontsize=7)


def dying(told: Told) -> None:
    """How soon deaths are known, and calls held by another, as distributions."""
    figure, row = plt.subplots(1, 2, figsize=(8, 3.5), sharex=True, sharey=True)
    for what, axes in zip(("suspect", "claimed"), row, strict=True):
        for each in told["dying"].values():
            axes.plot(each[what]["quantiles_ms"], [part * 100 for part in QUANTILES], label=each["name"])
        axes.axvline(50.0, linestyle=":", color="grey", label="target for p99 of suspect")
        axes.set_xscale("log")
        axes.set_xlabel(f"kill -9 to {what}, ms")
    row[0].set_ylabel("% of kills within")
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7)


def _line(axes: Axes, points: dict[str, list[float]], label: str) -> None:
    numbers = [int(number) for number in points]
    median, low, high = zip(*points.values(), strict=True)
    (line,) = axes.plot(numbers, median, marker=".", label=label)
    axes.fill_between(numbers, low, high, alpha=0.15, color=line.get_color(), linewidth=0)
