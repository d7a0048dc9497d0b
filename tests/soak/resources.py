"""Memory, descriptors and disk space of a daemon: flat over a run, and back where they were once all is quiet."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from soak.oracles import Violation

MIB: Final = 1 << 20


@dataclass(frozen=True)
class Bound:
    """What is noise in a figure.

    Args:
        trend: what a line through all samples may rise by in the whole of a run.
        rest: how far the figure may lie above its start once all is quiet.
        peak: what it may never exceed.
    """

    trend: float
    rest: float
    peak: float


BOUNDS: Final = {
    "rss": Bound(48 * MIB, 64 * MIB, 512 * MIB),
    "fds": Bound(24, 6, 1000),
    "disk": Bound(32 * MIB, 48 * MIB, 512 * MIB),
}
"""Floods come and go, and the memory of a Python process does not fall back to the last page: hence the room. It
does not grow with the length of a run: what leaks a little shows in an hour."""

SETTLING_S: Final = 15.0
"""The first seconds of each process, in which it fills its caches and reads its journal."""

LONG_S: Final = 40.0
"""A shorter life, without its first seconds, says nothing about what rises all the time."""


@dataclass(frozen=True)
class Sample:
    """The figures of one moment.

    Args:
        at_s: seconds.
        pid: of the daemon: a new process begins anew.
        hot: what its sessions take, as it says; None: it did not answer.
    """

    at_s: float
    pid: int
    rss: float
    fds: float
    disk: float
    hot: float | None


def take(at_s: float, pid: int, state_dir: Path, hot: float | None) -> Sample:
    """The figures now.

    Raises:
        OSError: the process is gone.
    """
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    fds = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - a hundred times a minute
    return Sample(at_s, pid, pages * os.sysconf("SC_PAGE_SIZE"), fds, disk_bytes(state_dir), hot)


def disk_bytes(folder: Path) -> int:
    """What a folder takes on its disk; files come and go meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_blocks * 512
        except OSError:
            continue
    return total


def slope(lives: Iterable[Sequence[tuple[float, float]]]) -> float:
    """The least-squares slope of all samples, each process about its own mean: a restart is no fall.

    Args:
        lives: of each process its samples: time and figure.
    """
    above = below = 0.0
    for life in lives:
        if len(life) < 2:
            continue
        mean_at = sum(at for at, _ in life) / len(life)
        mean = sum(value for _, value in life) / len(life)
        above += sum((at - mean_at) * (value - mean) for at, value in life)
        below += sum((at - mean_at) ** 2 for at, _ in life)
    return above / below if below else 0.0


class Resources:
    """The figures of a run.

    Args:
        idle: of the daemon before it had any load.
    """

    def __init__(self, idle: Sample) -> None:
        self.idle = idle
        self.samples: list[Sample] = []
        self._most_hot: dict[int, float] = {}

    def add(self, sample: Sample, *, calm: bool = True) -> None:
        """Take a sample during the run; `calm`: no flood is going on, which would be taken for a rise.

        Sessions that a flood has left are kept until they are reaped and forgotten, and what they took is used
        again rather than given back. So the memory that counts for a trend is what exceeds the most they took.
        """
        if calm and sample.hot is not None:
            most = self._most_hot[sample.pid] = max(sample.hot, self._most_hot.get(sample.pid, 0.0))
            self.samples.append(replace(sample, rss=sample.rss - most))
        for name, bound in BOUNDS.items():
            if (value := getattr(sample, name)) > bound.peak:
                raise Violation(f"{name} has reached {value:,.0f}, more than {bound.peak:,.0f}")

    def _lives(self, name: str) -> list[list[tuple[float, float]]]:
        lives: dict[int, list[tuple[float, float]]] = {}
        began: dict[int, float] = {}
        for sample in self.samples:
            if sample.at_s - began.setdefault(sample.pid, sample.at_s) >= SETTLING_S:
                lives.setdefault(sample.pid, []).append((sample.at_s, getattr(sample, name)))
        return [life for life in lives.values() if life[-1][0] - life[0][0] >= LONG_S]

    def trends(self) -> dict[str, float]:
        """What each figure rises by in an hour, by the line through all samples."""
        return {name: slope(self._lives(name)) * 3600 for name in BOUNDS}

    def check_flat(self) -> None:
        """No figure rises over the run."""
        span_s = sum(life[-1][0] - life[0][0] for life in self._lives("rss"))
        for name, hourly in self.trends().items():
            rise, limit = hourly / 3600 * span_s, BOUNDS[name].trend
            if rise > limit:
                raise Violation(f"{name} has risen by {rise:,.0f} in {span_s:.0f} s: more than {limit:,.0f}")

    def check_rest(self, quiet: Sample) -> None:
        """Once all is quiet, each figure is back where it was before the load."""
        for name, bound in BOUNDS.items():
            rise = getattr(quiet, name) - getattr(self.idle, name)
            if rise > bound.rest:
                raise Violation(f"{name} is {rise:,.0f} above its start once all is quiet: over {bound.rest:,.0f}")
