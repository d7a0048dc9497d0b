"""The tables of docs/performance.md, written anew by each full run between the marks that are there for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bench.report import at_hand
from bench.targets import OURS, THEIRS

LOOP_GOAL_MS: Final = 5
"""What no turn of the daemon's loop may exceed."""

Told = dict[str, Any]
"""What `--json` wrote."""

_MARKED: Final = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill_in(document: Path, told: Told) -> None:
    """Replace what lies between `<!-- figures: NAME -->` and `<!-- end -->` by that table."""

    def table(found: re.Match[str]) -> str:
        name = found[2]
        return f"{found[1]}{TABLES[name](told)}\n{found[3]}" if at_hand(told, name) else found[0]

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
    """Where, with what, and how thoroughly."""
    packages = ", ".join(f"{name} {version}" for name, version in told["machine"]["packages"].items())
    where = told["machine"]
    return (
        f"By {where['run']} on {where['cpus']} shared cores, Linux {where['kernel']}, Python {where['python']}; "
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
    """callstate's requests a second over each peer's."""
    peers = [name for name in told["comparisons"][0]["sides"] if name != OURS]

    def rows() -> Iterator[Sequence[str]]:
        for cell in told["comparisons"]:
            ratios = [
                _ratio(cell["sides"][peer]["throughput_ratio"]) if peer in cell["sides"] else "" for peer in peers
            ]
            yield *_what(cell), *ratios

    return _table((*_WHAT, *(f"vs {peer}" for peer in peers)), rows())


def requests(told: Told) -> str:
    """What one request takes on either side."""

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


def _growth(name: str, label: str) -> Callable[[Told], str]:
    def table(told: Told) -> str:
        curve = told["curves"][name]
        numbers = next(iter(curve.values())).keys()

        def rows() -> Iterator[Sequence[str]]:
            for operation, costs in curve.items():
                yield operation, *(_ratio(costs[number]["ratio"]) for number in numbers)

        return _table((label, *(f"{int(number):,}" for number in numbers)), rows())

    return table


def dirty(told: Told) -> str:
    """Heartbeats during flushes."""

    def rows() -> Iterator[Sequence[str]]:
        for number, figures in told["curves"]["dirty"]["heartbeat"].items():
            yield (
                f"{int(number):,}",
                *(f"{_n(figures[name][0])} ms" for name in ("p50_ms", "p99_ms", "flush_ms")),
            )

    return _table(("sessions flushed", "beat p50", "beat p99", "the flush"), rows())


def memory(told: Told) -> str:
    """Resident memory over JSON."""
    used = told["curves"]["memory"]["rss"]
    return _table(
        ("sessions", *(f"{int(count):,}" for count in used)),
        iter([("memory / JSON", *(f"{_n(figures['of_json'])}x" for figures in used.values()))]),
    )


def stress(told: Told) -> str:
    """Heartbeats beside what else the daemon does."""

    def rows() -> Iterator[Sequence[str]]:
        for each in told["stress"].values():
            p99 = "{} ms ({} … {})".format(*map(_n, each["p99_ms"]))
            yield (
                each["name"], f"{_n(each['took_ms'])} ms", f"{each['beats']:,}", f"{_n(each['p50_ms'])} ms", p99,
                *(f"{_n(each[name])} ms" for name in ("longest_ms", "loop_lag_ms")),
            )  # fmt: skip

    return _table(("meanwhile", "takes", "beats", "p50", "p99", "longest", "loop lag"), rows())


def loop(told: Told) -> str:
    """The longest turn of the daemon's loop during each kind of work."""

    def rows() -> Iterator[Sequence[str]]:
        for each in told["loop"]["turns"]:
            wall, processor = (
                "{} ms ({} … {})".format(*map(_n, each[name])) for name in ("wall_ms", "processor_ms")
            )
            yield each["name"], wall, processor, "met" if each["wall_ms"][0] <= LOOP_GOAL_MS else "**not met**"

    return _table(("meanwhile", "longest turn", "of that, on a processor", f"≤ {LOOP_GOAL_MS} ms"), rows())


def churn(told: Told) -> str:
    """What came and went, and what it left behind."""

    def rows() -> Iterator[Sequence[str]]:
        for store, kinds in told["churn"].items():
            for each in kinds:
                first, last = (f"{each['rss_bytes'][place] / 1e6:.1f} MB" for place in (0, -1))
                yield each["kind"], store, f"{each['count']:,}", first, last, f"{each['bytes_each']:.1f} B"

    return _table(("what", "store", "how many", "memory at first", "at last", "growth, each"), rows())


def dying(told: Told) -> str:
    """How soon a worker's death is known, and its call is held by another."""

    def rows() -> Iterator[Sequence[str]]:
        for each in told["dying"].values():
            rate = f" ({each['requests_per_s']:,})" if each["requests_per_s"] else ""
            figures = [
                " / ".join(_n(each[what][name]) for name in ("p50_ms", "p99_ms", "longest_ms"))
                for what in ("exit", "suspect", "claimed")
            ]
            yield each["name"] + rate, str(each["kills"]), *figures

    head = ("meanwhile", "kills", "the process is gone, ms", "`suspect` at another, ms", "claimed by another, ms")
    return _table(head, rows())


def profile(told: Told) -> str:
    """The daemon's CPU time a request, by what it is spent on."""
    verbs = told["profile"]
    parts = [*dict.fromkeys(part for figures in verbs.values() for part in figures["parts_us"])]

    def rows() -> Iterator[Sequence[str]]:
        for part in parts:
            yield part, *(f"{figures['parts_us'].get(part, 0.0):.1f}" for figures in verbs.values())
        yield "**all**", *(f"**{figures['cpu_us']:.1f}**" for figures in verbs.values())
        if all("instructions" in figures for figures in verbs.values()):
            yield "instructions", *(f"{figures['instructions']:,.0f}" for figures in verbs.values())

    return _table(("µs a request", *verbs), rows())


TABLES: Final[dict[str, Callable[[Told], str]]] = {
    "machine": machine,
    "targets": targets,
    "throughput": throughput,
    "requests": requests,
    "turns": _growth("turns", "turns"),
    "sessions": _growth("sessions", "sessions"),
    "connections": _growth("connections", "connections"),
    "dirty": dirty,
    "memory": memory,
    "stress": stress,
    "loop": loop,
    "churn": churn,
    "dying": dying,
    "profile": profile,
}
