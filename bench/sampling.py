"""One sample: a number of tasks repeat one operation for some time, and what that took."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice, repeat
from typing import Final

from bench.subjects import Operation, Subject

WRITING: Final = ("add_turn", "save", "save_built")
"""Operations whose changes remain to be written to the store."""


QUANTILES: Final = (*(number / 50 for number in range(50)), 0.99, 0.995, 0.999)
"""Quantiles of the latency that are plotted."""


@dataclass(frozen=True)
class Sample:
    """The result of a sample. Times in seconds; `flush_s` is how long the closing flush to the store took."""

    count: int
    elapsed_s: float
    latencies_s: list[float]
    client_cpu_s: float
    server_cpu_s: float
    flush_s: float

    @property
    def throughput(self) -> float:
        """Requests per second."""
        return self.count / self.elapsed_s

    def percentile(self, part: float) -> float:
        """A quantile of the latency, seconds; `part` is from 0 to 1."""
        return percentile(self.latencies_s, part)


@dataclass(frozen=True)
class Spread:
    """A figure over several rounds: median, minimum and maximum."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of one value per round."""
        return cls(statistics.median(values), min(values), max(values))

    def to_json(self) -> list[float]:
        """Median, minimum, maximum."""
        return [short(self.median), short(self.low), short(self.high)]


def short(value: float) -> float:
    """Round to four significant digits."""
    return float(f"{value:.4g}")


def percentile(latencies_s: Iterable[float], part: float) -> float:
    """The latency that this fraction of them does not exceed."""
    ordered = sorted(latencies_s)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


async def _work(operation: Operation, items: Iterable[str], latencies: list[float], until: float) -> None:
    append, clock = latencies.append, time.perf_counter
    began = clock()
    for item in items:
        await operation(item)
        now = clock()
        append(now - began)
        if now > until:
            return
        began = now  # one clock call per request: between two lies only the loop over the items


def _plans(name: str, session_ids: Sequence[str], adds: int, tasks: int) -> list[Iterable[str]]:
    """The sessions that each task works through; tasks share sessions only if there are too few."""
    shares = [session_ids[start::tasks] or session_ids for start in range(tasks)]
    if name != "add_turn":
        return [cycle(share) for share in shares]
    return [chain.from_iterable(repeat(share, adds)) for share in shares]


class _Stretches:
    """Measured stretches of work, added up."""

    def __init__(self, subject: Subject) -> None:
        self._server = subject.server
        self.latencies_s: list[float] = []
        self.elapsed_s = self.client_cpu_s = self.server_cpu_s = 0.0

    async def run(self, operation: Operation, plans: Sequence[Iterable[str]], seconds: float) -> list[int]:
        """Run one stretch; returns the number of requests of each task."""
        taken: list[list[float]] = [[] for _ in plans]
        server_cpu, client_cpu, began = self._server.cpu_s(), time.process_time(), time.perf_counter()
        until = began + seconds
        await asyncio.gather(
            *(_work(operation, plan, latencies, until) for plan, latencies in zip(plans, taken, strict=True))
        )
        self.elapsed_s += time.perf_counter() - began
        self.client_cpu_s += time.process_time() - client_cpu
        self.server_cpu_s += self._server.cpu_s() - server_cpu
        self.latencies_s.extend(chain.from_iterable(taken))
        return [len(latencies) for latencies in taken]


async def take(
    subject: Subject, name: str, session_ids: Sequence[str], *,
    adds: int, tasks: int, seconds: float,
) -> Sample:  # fmt: skip
    """Let `tasks` tasks repeat one operation for some time.

    A sample of add_turn consists of many short stretches: whenever the sessions have grown as far as they may, they
    get their old length back, which is not measured. The daemon writes to the store as it always does, during
    stretches and between them; at the end everything is flushed, and `flush_s` is how long that took.

    Args:
        subject: performs the operation.
        name: of the operation.
        session_ids: the sessions, used in turn.
        adds: number of turns that a session may get.
        tasks: number of concurrent tasks.
        seconds: duration of the sample.
    """
    operation = subject.operations()[name]
    stretches = _Stretches(subject)
    gc.collect()
    while stretches.elapsed_s < seconds:
        plans = _plans(name, session_ids, adds, tasks)
        counts = await stretches.run(operation, plans, seconds - stretches.elapsed_s)
        if name != "add_turn":
            break
        again = zip(_plans(name, session_ids, adds, tasks), counts, strict=True)
        await subject.restore(dict.fromkeys(chain.from_iterable(islice(plan, count) for plan, count in again)))
    flush_s = await subject.settle() if name in WRITING else 0.0
    taken = stretches.latencies_s
    return Sample(len(taken), stretches.elapsed_s, taken, stretches.client_cpu_s, stretches.server_cpu_s, flush_s)
