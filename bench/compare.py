"""The same operation by several subjects, in turn within one run, and what one is to another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Final

from bench.documents import documents
from bench.processes import on_one_processor
from bench.sampling import Sample, Spread, percentile, take
from bench.subjects import Subject

PER_TASK: Final = 4
"""Sessions that each task works on, one after the other: a task is a worker with a few calls. Each subject has so
many of each length."""

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


async def keep_pools(subjects: Sequence[Subject], pools: Mapping[int, int]) -> None:
    """Give each subject its sessions: `pools` is turns to how many."""
    for subject in subjects:
        for turns, sessions in pools.items():
            await subject.keep(documents(pool(turns, sessions), turns))


@dataclass(frozen=True)
class Cell:
    """One operation on so many sessions of one length by so many tasks: each subject's samples, one a round."""

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
        """A figure of one subject over that of the other, round by round: what ran side by side is compared."""
        pairs = zip(self.samples[one], self.samples[other], strict=True)
        return Spread.of([figure(ours) / figure(theirs) for ours, theirs in pairs])

    def throughput(self, one: str, other: str) -> Spread:
        """How many times as many requests a second."""
        return self.ratio(one, other, lambda sample: sample.throughput)

    def p50(self, one: str, other: str) -> Spread:
        """The median latency as a part of the other's."""
        return self.ratio(one, other, lambda sample: sample.percentile(0.5))

    def latency(self, subject: str, part: float) -> float:
        """A latency over all rounds, seconds."""
        return percentile(chain.from_iterable(sample.latencies_s for sample in self.samples[subject]), part)

    def figure(self, subject: str, figure: Callable[[Sample], float]) -> Spread:
        """A figure of one subject over the rounds."""
        return Spread.of([figure(sample) for sample in self.samples[subject]])


async def compare(
    subjects: Sequence[Subject], operation: str, turns: int, tasks: int, *, rounds: int, seconds: float,
    sessions: int | None = None, enough: Callable[[Cell], bool] = lambda _: False,
) -> Cell:  # fmt: skip
    """Let all subjects that can do one operation in each round, the first of one round being the last of the next.

    Args:
        subjects: who; what they were given by `keep_pools` is asked.
        operation, turns, tasks: what, on sessions of what length, by how many.
        rounds: at most.
        seconds: a sample lasts.
        sessions: how many are asked; None: what the tasks have of their own.
        enough: told what there is after each round from the third on; true ends it.
    """
    able = [subject for subject in subjects if operation in subject.operations()]
    sessions = PER_TASK * tasks if sessions is None else sessions
    ids, adds = pool(turns, sessions), ADDS[turns]
    samples: dict[str, list[Sample]] = {subject.name: [] for subject in able}
    cell = Cell(operation, turns, tasks, sessions, samples)
    servers = {subject.server for subject in able} if tasks == 1 else ()
    with on_one_processor(*servers) if servers else nullcontext():
        for subject in able:
            await take(subject, operation, ids, adds=adds, tasks=tasks, seconds=min(seconds, WARM_UP_S))
        for number in range(rounds):
            for subject in able if number % 2 else reversed(able):
                sample = await take(subject, operation, ids, adds=adds, tasks=tasks, seconds=seconds)
                samples[subject.name].append(sample)
            if number >= 2 and enough(cell):
                break
    for subject in able:
        if await subject.turns(ids[0]) not in (turns, None):
            raise RuntimeError(f"{subject.name} was not measured at {turns} turns")
    return cell
