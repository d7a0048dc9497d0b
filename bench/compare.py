"""The same operation by several sides, in turn within one run, and what one is to another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Final

from bench.documents import documents
from bench.processes import on_one_processor
from bench.sampling import Sample, Spread, percentile, take
from bench.sides import Side

PER_TASK: Final = 4
"""Sessions of its own that each task works on, one after the other: a task is a worker with a few calls. Each side
keeps so many of each length."""

SPREAD: Final[Mapping[int, int]] = {20: 1024, 200: 256}
"""Turns of a session to how many of that length are asked in turn instead, so that nearly each mutation is of a
session whose last one is long written: what write-behind can't gather."""

ADDS: Final[Mapping[int, int]] = {20: 4, 200: 20}
"""Turns of a session to how many it may get during a stretch; then it is given its old length again."""

TURNS: Final = tuple(ADDS)
"""The lengths that are compared."""

WARM_UP_S: Final = 0.05


def pool(turns: int, sessions: int) -> list[str]:
    """The ids of so many sessions of so many turns; a smaller pool is the beginning of a larger one."""
    return [f"turns-{turns}-{number:06d}" for number in range(sessions)]


async def keep_pools(sides: Sequence[Side], pools: Mapping[int, int]) -> None:
    """Give each side its sessions: `pools` is turns to how many."""
    for side in sides:
        for turns, sessions in pools.items():
            await side.keep(documents(pool(turns, sessions), turns))


@dataclass(frozen=True)
class Cell:
    """One operation on so many sessions of one length by so many tasks: each side's samples, one a round."""

    operation: str
    turns: int
    tasks: int
    sessions: int
    samples: Mapping[str, Sequence[Sample]]

    @property
    def spread(self) -> bool:
        """Whether more sessions are asked in turn than the tasks have of their own."""
        return self.sessions > PER_TASK * self.tasks

    def ratio(self, one: str, other: str, figure: Callable[[Sample], float]) -> Spread:
        """A figure of one side over that of the other, round by round: what ran side by side is compared."""
        pairs = zip(self.samples[one], self.samples[other], strict=True)
        return Spread.of([figure(ours) / figure(theirs) for ours, theirs in pairs])

    def throughput(self, one: str, other: str) -> Spread:
        """How many times as many requests a second."""
        return self.ratio(one, other, lambda sample: sample.throughput)

    def p50(self, one: str, other: str) -> Spread:
        """The median latency as a part of the other's."""
        return self.ratio(one, other, lambda sample: sample.percentile(0.5))

    def latency(self, side: str, part: float) -> float:
        """A latency over all rounds, seconds."""
        return percentile(chain.from_iterable(sample.latencies_s for sample in self.samples[side]), part)

    def figure(self, side: str, figure: Callable[[Sample], float]) -> Spread:
        """A figure of one side over the rounds."""
        return Spread.of([figure(sample) for sample in self.samples[side]])


async def compare(
    sides: Sequence[Side], operation: str, turns: int, tasks: int, *, rounds: int, seconds: float,
    sessions: int | None = None, enough: Callable[[Cell], bool] = lambda _: False,
) -> Cell:  # fmt: skip
    """Let all sides that can do one operation in each round, the first of one round being the last of the next.

    Args:
        sides: who; what they were given by `keep_pools` is asked.
        operation, turns, tasks: what, on sessions of what length, by how many.
        rounds: at most.
        seconds: a sample lasts.
        sessions: how many are asked; None: what the tasks have of their own.
        enough: told what there is after each round from the third on; true ends it.
    """
    able = [side for side in sides if operation in side.operations()]
    sessions = PER_TASK * tasks if sessions is None else sessions
    ids, adds = pool(turns, sessions), ADDS[turns]
    samples: dict[str, list[Sample]] = {side.name: [] for side in able}
    cell = Cell(operation, turns, tasks, sessions, samples)
    servers = {side.server for side in able} if tasks == 1 else ()
    with on_one_processor(*servers) if servers else nullcontext():
        for side in able:
            await take(side, operation, ids, adds=adds, tasks=tasks, seconds=min(seconds, WARM_UP_S))
        for number in range(rounds):
            for side in able if number % 2 else reversed(able):
                sample = await take(side, operation, ids, adds=adds, tasks=tasks, seconds=seconds)
                samples[side.name].append(sample)
            if number >= 2 and enough(cell):
                break
    for side in able:
        if await side.turns(ids[0]) not in (turns, None):
            raise RuntimeError(f"{side.name} was not measured at {turns} turns")
    return cell
