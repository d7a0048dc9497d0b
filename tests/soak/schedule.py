"""What happens in a soak and when, as data made from a seed: the same seed and length give the same schedule.

Faults of one lane follow one another; those of different lanes overlap. Within a lane they are dealt like cards:
each happens once before one happens again, so that a short run has them all.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Lane:
    """Faults of one kind.

    Args:
        pause_s: mean time between two of them, seconds.
        faults: each with the shortest and the longest time that it lasts, seconds.
    """

    pause_s: float
    faults: Mapping[str, tuple[float, float]]


LANES: Final[Mapping[str, Lane]] = {
    "worker": Lane(4.0, {"worker_kill": (0, 0), "worker_stop": (0.5, 5.0), "worker_leave": (0, 0)}),
    "daemon": Lane(
        5.0,
        {
            "daemon_kill": (0.0, 1.5), "daemon_restart": (0, 0), "daemon_stop": (0.2, 3.0),
            "disk_full": (1.0, 4.0), "files_full": (0.5, 2.5), "full_and_kill": (0.5, 1.5),
        },
    ),
    "redis": Lane(
        4.0,
        {
            "redis_down": (0.5, 3.0), "redis_stop": (0.5, 4.0), "redis_slow": (1.0, 4.0), "redis_cut": (1.0, 4.0),
            "redis_emptied": (0, 0), "redis_replaced": (0.0, 1.0), "redis_readonly": (1.0, 3.0),
            "redis_oom": (1.0, 3.0), "redis_loading": (0, 0), "redis_busy": (0.5, 2.0), "redis_noauth": (0.5, 3.0),
        },
    ),
    "flood": Lane(
        6.0,
        {
            "deaf_readers": (2.0, 6.0), "junk_lines": (0.5, 2.0), "many_ids": (0.5, 2.0),
            "junk_sessions": (0.5, 2.0), "idle_connections": (1.0, 5.0), "unfinished_lines": (1.0, 4.0),
        },
    ),
    "clock": Lane(15.0, {"clock_step": (2.0, 8.0)}),
    "operator": Lane(
        6.0,
        {"drain": (0.2, 1.0), "check": (0, 0), "command_line": (0, 0), "export": (0, 0), "flush": (0, 0)},
    ),
}  # fmt: skip
"""The longest stop of a worker or of the daemon stays well below the heartbeat timeout of the run."""

RESTARTS: Final = {"daemon_kill", "daemon_restart", "full_and_kill"}
RESTARTS_IN: Final = 0.4
"""The part of a run, from its beginning, in which the daemon is restarted. After that it lives to the end: a leak
shows in a long life only."""


@dataclass(frozen=True)
class Step:
    """One fault.

    Args:
        at_s: when it begins, seconds after the warm-up.
        lane, fault: which.
        for_s: how long it lasts, seconds.
        choice: 0 to 1, for what the fault has to choose: which worker, how far the clock is set.
    """

    at_s: float
    lane: str
    fault: str
    for_s: float
    choice: float

    def to_json(self) -> dict[str, Any]:
        """The step as data."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.at_s:8.2f} s  {self.fault} for {self.for_s:.2f} s ({self.choice:.3f})"


def schedule(seed: int, seconds: float) -> list[Step]:
    """The steps of a run, in order; none lasts beyond its end."""
    steps: list[Step] = []
    for name, lane in LANES.items():
        dice = random.Random(f"{seed} {name}")
        deck: list[str] = []
        at_s = dice.uniform(0, lane.pause_s)
        while True:
            late = RESTARTS if at_s > RESTARTS_IN * seconds else set()
            deck = [fault for fault in deck if fault not in late]
            if not deck:
                deck = [fault for fault in lane.faults if fault not in late]
                dice.shuffle(deck)
            fault = deck.pop()
            for_s = dice.uniform(*lane.faults[fault])
            if at_s + for_s > seconds:
                break
            steps.append(Step(round(at_s, 3), name, fault, round(for_s, 3), round(dice.random(), 6)))
            at_s += for_s + dice.uniform(0.3, 1.7) * lane.pause_s
    return sorted(steps, key=lambda step: (step.at_s, step.lane))
