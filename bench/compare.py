"""The same operation by several subjects, in turn within one run, and the ratios between them."""

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
"""Sessions that each task works on in turn: a task stands for a worker with a few calls."""

SPREAD: Final[Mapping[int, int]] = {20: 1024, 200: 256}
"""By turns of a session: the number of sessions used in turn instead, so that nearly every mutation hits a session
whose previous one has already been written, and write-behind can't combine them."""

ADDS: Final[Mapping[int, int]] = {20: 4, 200: 20}
"""By turns of a session: how many it may get during a stretch; then it gets its old length back."""

TURNS: Final = tuple(ADDS)
"""The session lengths that are compared."""

WARM_UP_S: Final = 0.05


def pool(turns: int, sessions: int) -> list[str]:
    """Ids of sessions of this length; a smaller pool is the beginning of a larger one."""
    return [f"turns-{turns}-{number:06d}" for number in range(sessions)]


async def keep_pools(subjects: Sequence[Subject], pools: Mapping[int, int]) -> None:
    """Give each subject its sessions: `pools` maps turns to the number of sessions."""
    for subject in subjects:
        for turns, sessions in pools.items():
            await subject.keep(documents(pool(turns, sessions), turns))


@dataclass(frozen=True)
class Cell:
    """One operation on sessions of one length by some tasks: each subject's samples, one per round."""

    operation: str
    turns: int
    tasks: int
    sessions: int
    samples: Mapping[str, Sequence[Sample]]

    @property
    def spread(self) -> bool:
        """Whether more sessions are used in turn than PER_TASK for each task."""
        return self.sessions > PER_TASK * self.tasks

    def ratio(self, one: str, other: str, figure: Callable[[Sample], float]) -> Spread:
        """One subject's figure over another's, round by round, so that what ran side by side is compared."""
        pairs = zip(self.samples[one], self.samples[other], strict=True)
        return Spread.of([figure(ours) / figure(theirs) for ours, theirs in pairs])

    def throughput(self, one: str, other: str) -> Spread:
        """The ratio of requests per second."""
        return self.ratio(one, other, lambda sample: sample.throughput)

    def p50(self, one: str, other: str) -> Spread:
        """The ratio of median latencies."""
        return self.ratio(one, other, lambda sample: sample.percentile(0.5))

    def latency(self, subject: str, part: float) -> float:
        """A quantile of the latency over all rounds, seconds."""
        return percentile(chain.from_iterable(sample.latencies_s for sample in self.samples[subject]), part)

    def figure(self, subject: str, figure: Callable[[Sample], float]) -> Spread:
        """A figure of one subject over the rounds."""
        return Spread.of([figure(sample) for sample in self.samples[subject]])


async def compare(
    subjects: Sequence[Subject], operation: str, turns: int, tasks: int, *, rounds: int, seconds: float,
    sessions: int | None = None, enough: Callable[[Cell], bool] = lambda _: False,
) -> Cell:  # fmt: skip
    """Sample one operation by all subjects that support it; the order is reversed with each round.

    Args:
        subjects: with the sessions that `keep_pools` gave them.
        operation, turns, tasks: the operation, the length of the sessions, the number of tasks.
        rounds: at most.
        seconds: duration of a sample.
        sessions: number of sessions; None: PER_TASK for each task.
        enough: called with the results after each round from the third on; True ends the comparison.
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
