"""`bench hostile`: all attacks, on this code and on an older one, and the growth of each verb."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.hostile import verbs
from bench.hostile.attacks import SCENES
from bench.hostile.measure import Code, measure
from bench.processes import Rig

GROWTH: Final = "growth"
NAMES: Final = (*(scene.name for scene in SCENES), GROWTH)


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Args:
        seconds: how long each attack goes on.
        scale: of what is there before each attack.
        doublings: of the smallest input of each verb.
    """

    seconds: float = 3.0
    scale: float = 1.0
    doublings: int = 4


TINY: Final = Effort(seconds=0.4, scale=0.002, doublings=1)
"""Only checks that everything runs."""


def run(
    effort: Effort, against: Path | None, only: Collection[str], say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Run the attacks whose names have one of these words; all, without any.

    Yields:
        `attacks`, by name: `after`, the figures of this code, and with `against` `before`, those of the older one,
        measured just before; at the end, `growth`: that of each verb.
    """
    sides = {"after": Code()} if against is None else {"before": Code(against), "after": Code()}
    wanted = [name for name in NAMES if not only or any(word in name for word in only)]
    for scene in SCENES:
        if scene.name not in wanted:
            continue
        both: dict[str, Any] = {}
        for side, code in sides.items():
            figures = measure(scene, code, seconds=effort.seconds, scale=effort.scale).to_json()
            both[side] = figures
            say(f"{scene.name}, {side}: {json.dumps(figures)}")
        yield {"attacks": {scene.name: both}}
    if GROWTH in wanted:
        with Rig() as rig:
            growth = verbs.measure(rig, effort.doublings)
        for name, each in growth.items():
            say(f"{name}: {json.dumps(each)}")
        yield {GROWTH: growth}


def write(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Add what was measured to the JSON file, in place of the same figures of an earlier run; returns all of it."""
    told: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    attacks = told.setdefault("hostile", {})
    for name, sides in found.get("attacks", {}).items():
        attacks[name] = attacks.get(name, {}) | sides
    if GROWTH in found:
        told["verbs"] = found[GROWTH]
    path.write_text(json.dumps(told, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return told
