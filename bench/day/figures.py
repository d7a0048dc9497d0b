"""The figures of a day, and whether they meet the goals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Any, Final

from bench.day.run import NOTHING, OURS, TYPICAL, Crew, Day
from bench.sampling import Spread, percentile, short
from bench.targets import Verdict

REQUESTS: Final = ("begin", "turn", "update", "load", "beat", "end")

CPU_VS_REDISSTORE: Final = 1 / 3
CPU_VS_BY_HAND: Final = 1.0
P99_MS: Final = 1.0
P999_MS: Final = 5.0
DAEMON_CORES: Final = 0.15
"""The goals, with TYPICAL calls."""

QUANTILES: Final = {"p50_ms": 0.5, "p99_ms": 0.99, "p99_9_ms": 0.999}


def _net_cores(crew: Crew, idle: Crew | None) -> list[float]:
    """Cores of each segment, without what pacing the requests costs by itself."""
    pacing = [0.0] * len(crew.segments) if idle is None else [each.cores for each in idle.segments]
    return [each.cores - paced for each, paced in zip(crew.segments, pacing, strict=True)]


def _of_day(segments: int, figure: Callable[[Sequence[int]], float]) -> Spread:
    """A figure of the whole day, and its least and greatest with one segment left out.

    Args:
        segments: how many there are.
        figure: of these segments.
    """
    everything = range(segments)
    others = [figure([n for n in everything if n != left_out] or everything) for left_out in everything]
    return Spread(figure(everything), min(others), max(others))


def _mean(values: Sequence[float]) -> Spread:
    return _of_day(len(values), lambda numbers: fmean(values[number] for number in numbers))


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Of sums: a ratio of two short segments' net CPU, small differences both, says next to nothing."""

    def ratio(numbers: Sequence[int]) -> float:
        return sum(ours[number] for number in numbers) / sum(theirs[number] for number in numbers)

    return _of_day(len(ours), ratio)


def _request_json(latencies_us: Sequence[float]) -> dict[str, float]:
    quantiles = {name: percentile(latencies_us, part) for name, part in QUANTILES.items()}
    quantiles["longest_ms"] = max(latencies_us)
    return {"count": len(latencies_us)} | {name: short(value / 1000) for name, value in quantiles.items()}


def _side_json(crew: Crew, idle: Crew | None) -> dict[str, Any]:
    seconds = sum(each.seconds for each in crew.segments)
    kinds = crew.segments[0].cpu_s
    return {
        "cores": {
            kind: _mean([each.cpu_s[kind] / each.seconds for each in crew.segments]).to_json() for kind in kinds
        },
        "net_cores": _mean(_net_cores(crew, idle)).to_json(),
        "redis_bytes_per_s": short(sum(each.redis_bytes for each in crew.segments) / seconds),
        "aof_bytes_per_s": short(sum(each.aof_bytes for each in crew.segments) / seconds),
        "rss_bytes": crew.rss_bytes,
        "rescued": crew.rescued,
        "requests": {
            name: _request_json(crew.latencies_us[name]) for name in REQUESTS if crew.latencies_us.get(name)
        },
    }


def day_json(day: Day, crews: Sequence[Crew]) -> dict[str, Any]:
    """The figures of one day; a figure with a spread is as of `_of_day`."""
    idle = next((crew for crew in crews if crew.side == NOTHING), None)
    return {
        "calls": day.calls,
        "workers": day.workers,
        "seconds": day.segments * day.segment_s,
        "sides": {crew.side: _side_json(crew, idle if crew is not idle else None) for crew in crews},
    }


def verdicts(day: Day, crews: Sequence[Crew]) -> Iterator[Verdict]:
    """The goals of a day of TYPICAL calls."""
    if day.calls != TYPICAL:
        return
    name = f"a day of {day.calls:,} calls"
    by_side = {crew.side: crew for crew in crews}
    ours, idle = by_side[OURS], by_side[NOTHING]
    for side, limit in (("RedisStore", CPU_VS_REDISSTORE), ("by hand", CPU_VS_BY_HAND)):
        ratio = _ratio(_net_cores(ours, idle), _net_cores(by_side[side], idle))
        yield Verdict(f"{name}, CPU of all processes vs {side}", ratio, limit)
    requests = {name: ours.latencies_us[name] for name in REQUESTS if ours.latencies_us.get(name)}
    for part, quantile, limit in ((0.99, "p99", P99_MS), (0.999, "p99.9", P999_MS)):
        worst = max(requests, key=lambda request: percentile(requests[request], part))
        value = Spread.of([percentile(requests[worst], part) / 1000])
        yield Verdict(f"{name}, {quantile} of the slowest request", value, limit, unit=" ms", note=worst)
    daemon = _mean([each.cpu_s["daemon"] / each.seconds for each in ours.segments])
    yield Verdict(f"{name}, the daemon", daemon, DAEMON_CORES, unit=" cores")
