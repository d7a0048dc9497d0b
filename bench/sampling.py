"""One sample: so many tasks doing one thing for a while, with what it took."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice, repeat

from bench.sides import Operation, Side


@dataclass(frozen=True)
class Sample:
    """What a sample gave. Times in seconds; `flush_s` is how long the store behind took to have it all."""

    count: int
    elapsed_s: float
    latencies_s: list[float]
    client_cpu_s: float
    server_cpu_s: float
    flush_s: float

    @property
    def throughput(self) -> float:
        """Requests a second."""
        return self.count / self.elapsed_s

    def percentile(self, part: float) -> float:
        """A latency, seconds; `part` from 0 to 1."""
        return percentile(self.latencies_s, part)


@dataclass(frozen=True)
class Spread:
    """A figure over several rounds: its median, and the least and the most it was."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one figure a round."""
        return cls(statistics.median(values), min(values), max(values))


def percentile(latencies_s: Iterable[float], part: float) -> float:
    """The latency that this part of them does not exceed."""
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
        began = now  # one look at the clock a request: what lies between two is the loop over items


def _plans(name: str, session_ids: Sequence[str], adds: int, tasks: int) -> list[Iterable[str]]:
    """The sessions each task goes through; no two tasks share one unless there are too few."""
    shares = [session_ids[start::tasks] or session_ids for start in range(tasks)]
    if name != "add_turn":
        return [cycle(share) for share in shares]
    return [chain.from_iterable(repeat(share, adds)) for share in shares]


async def take(
    side: Side, name: str, session_ids: Sequence[str], *,
    adds: int, tasks: int, seconds: float, restored: bool = True,
) -> Sample:  # fmt: skip
    """Let `tasks` tasks do one operation for so long, or until each session has grown as far as it may.

    Afterwards everything is flushed and the sessions have their length again; neither counts, but `flush_s` says
    how long the flush took.

    Args:
        side: who does it.
        name: which operation.
        session_ids: whom it is done to, in turn.
        adds: how many turns a session may get.
        tasks: how many do it at once.
        seconds: for how long.
        restored: False leaves the sessions as long as they have become.
    """
    operation = side.operations()[name]
    plans = _plans(name, session_ids, adds, tasks)
    taken: list[list[float]] = [[] for _ in plans]
    gc.collect()
    server_cpu, client_cpu, began = side.server.cpu_s(), time.process_time(), time.perf_counter()
    until = began + seconds
    await asyncio.gather(
        *(_work(operation, plan, latencies, until) for plan, latencies in zip(plans, taken, strict=True))
    )
    elapsed, client_cpu = time.perf_counter() - began, time.process_time() - client_cpu
    server_cpu = side.server.cpu_s() - server_cpu
    flush_s = await side.settle() if name in ("add_turn", "save", "save_built") else 0.0
    if name == "add_turn" and restored:
        again = _plans(name, session_ids, adds, tasks)
        touched = chain.from_iterable(
            islice(plan, len(latencies)) for plan, latencies in zip(again, taken, strict=True)
        )
        await side.restore(dict.fromkeys(touched))
    latencies_s = [*chain.from_iterable(taken)]
    return Sample(len(latencies_s), elapsed, latencies_s, client_cpu, server_cpu, flush_s)
