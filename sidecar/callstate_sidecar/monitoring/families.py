"""The metrics of one daemon for Prometheus, made of a snapshot of its figures. Pure: no I/O, nothing is shared.

Labels have few values, all of them known beforehand: statuses, methods, kinds of errors, reasons. No metric has an
id, a number or anything else of a call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Final, NamedTuple

from prometheus_client import Metric  # pyright: ignore[reportMissingImports]
from prometheus_client.core import (  # pyright: ignore[reportMissingImports]
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)

from callstate_client.engine.reasons import EXITED, OVERTIME, POISONED, SILENT
from callstate_client.errors import BY_CODE
from callstate_client.model.words import Status
from callstate_sidecar.histogram import Histogram
from callstate_sidecar.monitoring.catalogue import COUNTERS, GAUGES, SHOWN_OTHERWISE, counter

OTHER: Final = "other"
"""The label of values that are not known beforehand, such as a status that another program has made up."""

ERROR_KINDS: Final = tuple(sorted(error.kind for error in BY_CODE.values()))

STORE_STATES: Final = ("up", "down", "refusing")

SUSPECTED_FOR: Final = (SILENT, EXITED)
REAPED_FOR: Final = (SILENT, EXITED, OVERTIME, POISONED)


class Snapshot(NamedTuple):
    """The figures of one moment."""

    stats: Mapping[str, Any]
    """As `server.stats` returns them."""
    suspected: Mapping[str, int]
    reaped: Mapping[str, int]
    lag: Histogram
    gc_pauses: Histogram
    durations: Mapping[str, Histogram]
    limits: Mapping[str, float]
    """Bounds that the figures should stay below, by the name of their metric."""
    info: Mapping[str, str]


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """All metrics."""
    stats = snapshot.stats
    yield InfoMetricFamily("callstate_build", "Version, store and durability.", value=dict(snapshot.info))
    yield _by("callstate_sessions", "Sessions in memory.", "status", _known(stats["sessions"], [*Status]))
    for member, named in GAUGES.items():
        yield GaugeMetricFamily(named.name, named.meaning, value=float(stats[member]))
    for name, value in snapshot.limits.items():
        yield GaugeMetricFamily(name, "A limit of the configuration.", value=value)
    states = {state: int(stats["store"] == state) for state in STORE_STATES}
    yield _by("callstate_store_state", "1 for the state in which the store is, else 0.", "state", states)
    yield GaugeMetricFamily(
        "callstate_journal_up", "1 if the journal takes writes.", value=float(stats["journal"] == "ok")
    )
    for member in [*COUNTERS, *sorted(stats.keys() - COUNTERS.keys() - GAUGES.keys() - SHOWN_OTHERWISE)]:
        if isinstance(value := stats.get(member, 0), int | float):
            yield CounterMetricFamily(*counter(member), value=float(value))
    yield _counted("callstate_requests", "Requests.", "method", stats["requests"])
    yield _counted("callstate_errors", "Error replies.", "kind", _known(stats["errors"], ERROR_KINDS))
    yield _counted(
        "callstate_suspected", "Sessions that became suspects.", "reason", _known(snapshot.suspected, SUSPECTED_FOR)
    )
    yield _counted(
        "callstate_reaped", "Sessions that the reaper ended.", "reason", _known(snapshot.reaped, REAPED_FOR)
    )
    yield _histogram("callstate_loop_lag_seconds", "How late each tick was.", "", {"": snapshot.lag})
    yield _histogram("callstate_gc_pause_seconds", "Pauses for garbage collection.", "", {"": snapshot.gc_pauses})
    durations = snapshot.durations
    yield _histogram("callstate_request_duration_seconds", "From request to reply.", "method", durations)


def _known(found: Mapping[str, int], names: Iterable[str]) -> dict[str, int]:
    """The counts of these names, those not found as 0, and the sum of all others."""
    counts = {str(name): found.get(name, 0) for name in names}
    others = sum(count for name, count in found.items() if name not in counts)
    return {**counts, OTHER: others}


def _by(name: str, meaning: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def _counted(name: str, meaning: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def _histogram(name: str, meaning: str, label: str, values: Mapping[str, Histogram]) -> Metric:
    """A histogram for each value of a label; an empty label: for the one value, without it."""
    family = HistogramMetricFamily(name, meaning, labels=[label] if label else [])
    for value, histogram in values.items():
        bounds = [f"{bound:g}" for bound in histogram.bounds_s]
        below = [float(count) for count in accumulate(histogram.counts)]
        buckets = list(zip([*bounds, "+Inf"], below, strict=True))
        family.add_metric([value] if label else [], buckets, sum_value=histogram.sum_s)
    return family
