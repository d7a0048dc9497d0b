"""The tables of docs/performance.md, which each full run writes between the marks in that file."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bench.day.figures import QUANTILES, REQUESTS
from bench.day.run import NOTHING, TYPICAL
from bench.hostile import tables as hostile_tables
from bench.report import measured
from bench.targets import BY_HAND, OURS, THEIRS

Told = dict[str, Any]
"""The content of the JSON file."""

_MARKED: Final = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill_in(document: Path, told: Told) -> None:
    """Replace the text between `<!-- figures: NAME -->` and `<!-- end -->` with that table."""

    def table(found: re.Match[str]) -> str:
        name = found[2]
        return f"{found[1]}{TABLES[name](told)}\n{found[3]}" if measured(told, name) else found[0]

    text = document.read_text("utf-8")
    document.write_text(_MARKED.sub(table, text), encoding="utf-8")


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _n(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(spread: Sequence[float]) -> str:
    median, low, high = spread
    return f"**{_n(median)}x** ({_n(low)} … {_n(high)})"


def machine(told: Told) -> str:
    """The kind of run, the machine, and the versions."""
    packages = ", ".join(f"{name} {version}" for name, version in told["machine"]["packages"].items())
    where = told["machine"]
    return (
        f"From {where['run']} on {where['cpus']} shared cores, Linux {where['kernel']}, Python {where['python']}; "
        f"{packages}."
    )


def targets(told: Told) -> str:
    """Figure, target, met or not."""

    def rows() -> Iterator[Sequence[str]]:
        for target in told["targets"]:
            unit = target["unit"]
            spread = f" ({_n(target['low'])} … {_n(target['high'])})" if target["low"] != target["high"] else ""
            sign = "≥" if target["at_least"] else "≤"
            met = "met" if target["met"] else "**not met**"
            figure = f"{_n(target['median'])}{unit}{spread}"
            yield target["target"], figure, f"{sign} {_n(target['limit'])}{unit}", met

    return _table(("figure", "measured", "target", ""), rows())


_WHAT: Final = ("operation", "turns", "tasks", "sessions")


def _what(cell: Told) -> Sequence[str]:
    sessions = f"{cell['sessions']:,}{' in turn' if cell['spread'] else ''}"
    return cell["operation"], str(cell["turns"]), str(cell["tasks"]), sessions


def throughput(told: Told) -> str:
    """callstate's requests per second over each peer's."""
    peers = [name for name in told["comparisons"][0]["sides"] if name != OURS]

    def rows() -> Iterator[Sequence[str]]:
        for cell in told["comparisons"]:
            ratios = [
                _ratio(cell["sides"][peer]["throughput_ratio"]) if peer in cell["sides"] else "" for peer in peers
            ]
            yield *_what(cell), *ratios

    return _table((*_WHAT, *(f"vs {peer}" for peer in peers)), rows())


def requests(told: Told) -> str:
    """Latency and CPU time of one request, for callstate and RedisStore."""

    def rows() -> Iterator[Sequence[str]]:
        for cell in told["comparisons"]:
            ours, theirs = cell["sides"][OURS], cell["sides"][THEIRS]
            yield (
                *_what(cell),
                *(f"{_n(ours[name])} / {_n(theirs[name])}" for name in ("p50_us", "p99_us")),
                *(f"{_n(ours[name][0])} / {_n(theirs[name][0])}" for name in ("client_cpu_us", "server_cpu_us")),
                f"{_n(ours['closing_flush_s'][0] * 1000)} ms" if ours["closing_flush_s"][0] else "",
            )  # fmt: skip

    head = (*_WHAT, "p50 µs", "p99 µs", "client CPU µs", "server CPU µs", "closing flush")
    return _table(head, rows())


SHORT_TURNS: Final = 20
"""History length of the summary."""


def beside(told: Told) -> str:
    """The summary: what a request costs beside the same one with RedisStore, alone and among 32 tasks."""
    cells = {
        (cell["operation"], cell["tasks"]): cell["sides"]
        for cell in told["comparisons"] if cell["turns"] == SHORT_TURNS and not cell["spread"]
    }  # fmt: skip

    def cpu(figures: Told) -> float:
        return sum(float(figures[name][0]) for name in ("client_cpu_us", "server_cpu_us"))

    def rows() -> Iterator[Sequence[str]]:
        for operation in ("heartbeat", "add_turn", "save", "load"):
            alone, busy = cells[operation, 1], cells[operation, 32]
            ours, theirs = alone[OURS], alone[THEIRS]
            hand = busy.get(BY_HAND)
            yield (
                operation, f"{_n(ours['p50_us'] / theirs['p50_us'])}x", f"{_n(cpu(ours) / cpu(theirs))}x",
                _ratio(busy[THEIRS]["throughput_ratio"]), _ratio(hand["throughput_ratio"]) if hand else "",
                f"{_n(cpu(busy[OURS]) / cpu(busy[THEIRS]))}x",
            )  # fmt: skip

    head = (
        "", "p50, one at a time", "CPU, one at a time", "throughput, 32 tasks",
        "beside Redis by hand", "CPU, 32 tasks",
    )  # fmt: skip
    return _table(head, rows())


def growth(told: Told) -> str:
    """Cost by history length."""
    numbers = next(iter(told["growth"].values())).keys()

    def rows() -> Iterator[Sequence[str]]:
        for operation, costs in told["growth"].items():
            yield operation, *(_ratio(costs[number]["ratio"]) for number in numbers)

    return _table(("turns", *(f"{int(number):,}" for number in numbers)), rows())


_COSTS: Final = {
    "wire_bytes": "sent, kB", "aof_bytes": "append-only file, kB", "written_bytes": "written, kB",
    "commands": "commands", "expires": "of them PEXPIRE", "store_cpu_us": "CPU of Redis, µs",
    "daemon_cpu_us": "CPU of the daemon, µs",
}  # fmt: skip
"""What a turn costs the store, in the order of the columns."""


def stored(told: Told) -> str:
    """What a turn costs the store: as a patch / with the whole document."""

    def rows() -> Iterator[Sequence[str]]:
        for store, lengths in told["bytes"].items():
            for turns, kinds in lengths.items():
                yield store, f"{int(turns):,}", *(_both(kinds, name) for name in _COSTS)

    return _table(("store", "turns", *_COSTS.values()), rows())


def _both(kinds: Told, name: str) -> str:
    if name not in kinds["added"]:
        return ""
    unit = 1000 if name.endswith("bytes") else 1
    return " / ".join(_n(kinds[kind][name][0] / unit) for kind in ("added", "whole"))


def loads(told: Told) -> str:
    """Heartbeat latencies under each load."""

    def rows() -> Iterator[Sequence[str]]:
        for each in told["loads"].values():
            p99 = "{} ms ({} … {})".format(*map(_n, each["p99_ms"]))
            yield (
                each["name"], f"{_n(each['took_ms'])} ms", f"{each['heartbeats']:,}", f"{_n(each['p50_ms'])} ms",
                p99, f"{_n(each['longest_ms'])} ms",
            )  # fmt: skip

    return _table(("meanwhile", "takes", "heartbeats", "p50", "p99", "longest"), rows())


def dying(told: Told) -> str:
    """How soon a worker's death is reported and its call taken over."""

    def rows() -> Iterator[Sequence[str]]:
        for each in told["dying"].values():
            rate = f" ({each['requests_per_s']:,})" if each["requests_per_s"] else ""
            figures = [
                " / ".join(_n(each[what][name]) for name in ("p50_ms", "p99_ms", "longest_ms"))
                for what in ("exit", "suspect", "claimed")
            ]
            yield each["name"] + rate, str(each["kills"]), *figures

    head = ("meanwhile", "kills", "process exited, ms", "`suspect` at another, ms", "claimed by another, ms")
    return _table(head, rows())


def day(told: Told) -> str:
    """What a host's day takes, by side."""
    return _day(told, {str(TYPICAL)})


def days(told: Told) -> str:
    """The same for each number of live calls."""
    return _day(told, told["day"])


def _day(told: Told, numbers: Container[str]) -> str:
    def rows() -> Iterator[Sequence[str]]:
        for number, each in told["day"].items():
            for name, side in each["sides"].items() if number in numbers else ():
                rss = " + ".join(f"{value / 1e6:.0f}" for value in side["rss_bytes"].values())
                cores = side["cores"]
                yield (
                    f"{int(number):,}", name, _cores(side["net_cores"]),
                    *(_cores(cores[kind]) if kind in cores else "" for kind in ("clients", "daemon", "redis")),
                    _n(side["redis_bytes_per_s"] / 1000), _n(side["aof_bytes_per_s"] / 1000), rss,
                )  # fmt: skip

    head = (
        "live calls", "kept by", "cores, net", "clients", "daemon", "Redis", "to Redis, kB/s",
        "append-only file, kB/s", "memory of Redis + daemon, MB",
    )  # fmt: skip
    return _table(head, rows())


def _cores(spread: Sequence[float]) -> str:
    return f"{spread[0]:.3f}"


def waits(told: Told) -> str:
    """How long the requests of a host's day take: p50 / p99 / p99.9, in milliseconds."""
    return _waits(told, {str(TYPICAL)}, QUANTILES)


def waits_of_days(told: Told) -> str:
    """The same for each number of live calls, and the longest."""
    return _waits(told, told["day"], (*QUANTILES, "longest_ms"))


def _waits(told: Told, numbers: Container[str], quantiles: Iterable[str]) -> str:
    def times(request: Told | None) -> str:
        return " / ".join(_n(request[name]) for name in quantiles) if request else ""

    def rows() -> Iterator[Sequence[str]]:
        for number, each in told["day"].items():
            for name, side in each["sides"].items() if number in numbers else ():
                if name != NOTHING:
                    requests = side["requests"]
                    yield f"{int(number):,}", name, *(times(requests.get(request)) for request in REQUESTS)

    return _table(("live calls", "kept by", *REQUESTS), rows())


def hostile(told: Told) -> str:
    """What each attack did, before and after."""
    return _table(hostile_tables.ATTACKS, hostile_tables.attack_rows(told, _n))


def verbs(told: Told) -> str:
    """How the cost of each verb grows with adversarial input."""
    return _table(hostile_tables.VERBS, hostile_tables.verb_rows(told, _n))


TABLES: Final[dict[str, Callable[[Told], str]]] = {
    "machine": machine, "targets": targets, "beside": beside, "throughput": throughput, "requests": requests,
    "growth": growth,
    "bytes": stored, "loads": loads, "dying": dying, "day": day, "waits": waits, "days": days,
    "waits_of_days": waits_of_days,
    "hostile": hostile, "verbs": verbs,
}  # fmt: skip
