"""The targets, and one line for each: figure, target, met or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from bench.compare import Cell
from bench.sampling import Spread

OURS: Final = "callstate"
THEIRS: Final = "redis-py RedisStore"
BY_HAND: Final = "redis-py by hand"

THROUGHPUT: Final = {
    ("heartbeat", 20, THEIRS): 50.0,
    ("heartbeat", 200, THEIRS): 75.0,
    ("add_turn", 20, THEIRS): 15.0,
    ("add_turn", 200, THEIRS): 40.0,
    ("add_turn", 20, BY_HAND): 10.0,
    ("add_turn", 200, BY_HAND): 6.0,
    ("load", 20, THEIRS): 3.0,
    ("load", 200, THEIRS): 3.0,
    ("save", 20, THEIRS): 3.0,
    ("save", 200, THEIRS): 3.0,
}
"""By operation, turns and peer: the required multiple of its requests per second, with 32 tasks."""

ONE_TASK: Final = {
    ("heartbeat", 20): 0.25,
    ("add_turn", 20): 0.25,
    ("save", 20): 0.75,
    ("load", 20): 1.0,
    ("load", 200): 0.7,
}
"""By operation and turns: the permitted median latency of one task, as a fraction of RedisStore's."""


@dataclass(frozen=True)
class Verdict:
    """A figure and its target."""

    name: str
    value: Spread
    limit: float
    at_least: bool = False
    unit: str = "x"
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the median meets the target."""
        return self.value.median >= self.limit if self.at_least else self.value.median <= self.limit

    def line(self) -> str:
        """The verdict as one line of text."""
        spread = ""
        if self.value.low != self.value.high:
            spread = f" ({_number(self.value.low)} … {_number(self.value.high)})"
        sign = ">=" if self.at_least else "<="
        figure = f"{_number(self.value.median)}{self.unit}{spread}"
        target = f"{sign} {_number(self.limit)}{self.unit}"
        verdict = "met" if self.met else "NOT MET"
        return f"{self.name:<53} {figure:<25} {target:<8} {verdict:<8} {self.note}".rstrip()

    def to_json(self) -> dict[str, Any]:
        """The verdict for `--json`."""
        return {
            "target": self.name,
            **{name: float(f"{getattr(self.value, name):.4g}") for name in ("median", "low", "high")},
            **{name: getattr(self, name) for name in ("limit", "at_least", "unit", "met", "note")},
        }


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def shares(cell: Cell) -> str:
    """Where a request's time goes: CPU time of client and daemon in µs, and the closing flush."""
    client = cell.figure(OURS, lambda sample: sample.client_cpu_s / sample.count * 1e6).median
    daemon = cell.figure(OURS, lambda sample: sample.server_cpu_s / sample.count * 1e6).median
    text = f"cpu client {client:.1f} + daemon {daemon:.1f} µs"
    flush = cell.figure(OURS, lambda sample: sample.flush_s).median
    return f"{text}, flushed {flush * 1000:.0f} ms later" if flush else text


def judge(cell: Cell) -> Iterator[Verdict]:
    """The verdicts that follow from a comparison with the peers."""
    if cell.spread:
        return
    if cell.tasks == 1 and (limit := ONE_TASK.get((cell.operation, cell.turns))) is not None:
        name = f"one task, {cell.operation} p50, {cell.turns} turns"
        yield Verdict(name, cell.p50(OURS, THEIRS), limit, note=shares(cell))
    for peer in cell.samples if cell.tasks == 32 else ():
        if (limit := THROUGHPUT.get((cell.operation, cell.turns, peer))) is not None:
            name = f"{cell.operation}, {cell.turns} turns, vs {peer}"
            yield Verdict(name, cell.throughput(OURS, peer), limit, at_least=True, note=shares(cell))


def decided(cell: Cell) -> bool:
    """Whether every round agrees with the median on each verdict, so that more rounds would hardly change one."""
    return all(not verdict.value.low < verdict.limit <= verdict.value.high for verdict in judge(cell))
