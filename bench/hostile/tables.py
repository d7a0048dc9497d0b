"""The tables of `bench hostile` for docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from bench.hostile.verbs import LINEAR

Told = dict[str, Any]
Format = Callable[[float], str]

DONE: Final = {"done", "held", "not read from", "backlog full"}
"""Outcomes that say how far an attacker came; the others say how it was stopped."""

SIDES: Final = ("before", "after")


def _both(sides: Told, figure: Callable[[Told], str]) -> str:
    """A figure before and after."""
    return " → ".join(figure(sides[side]) for side in SIDES if side in sides)


def attack_rows(told: Told, number: Format) -> Iterator[Sequence[str]]:
    """By attack: memory, the victim's latencies, the loop's longest turn, and how it was refused."""
    for name, sides in told["hostile"].items():
        yield (
            name,
            _both(sides, lambda each: f"{'>' * each['guarded']}{number(each['rss_peak_mib'])}"),
            f"{number(sides['after']['idle_p50_ms'])} / {number(sides['after']['idle_p99_ms'])}",
            _both(sides, lambda each: f"{number(each['p50_ms'])} / {number(each['p99_ms'])}"),
            _both(sides, lambda each: number(each["longest_turn_ms"])),
            _both(sides, lambda each: "no" if each["newcomer_ms"] is None else number(each["newcomer_ms"])),
            refusal(sides["after"]["outcome"]),
        )


ATTACKS: Final = (
    "attack", "memory, MiB", "victim idle, p50 / p99 ms", "victim attacked, p50 / p99 ms", "longest turn, ms",
    "a new client's `stats`, ms", "refused as",
)  # fmt: skip


def refusal(outcome: dict[str, int]) -> str:
    """How an attacker was stopped, if it was."""
    words = [f"`{kind}`" if kind.isidentifier() else kind for kind in outcome if kind not in DONE]
    if "not read from" in outcome:
        words.append("not read from")
    return ", ".join(words) or "served"


VERBS: Final = ("verb", "size", "ms of the daemon's CPU, size doubling", "grows as size to the power of", "")


def verb_rows(told: Told, number: Format) -> Iterator[Sequence[str]]:
    """By verb and input: the costs, and whether they grow linearly."""
    for each in told["verbs"].values():
        linear = "at most linear" if each["exponent"] <= LINEAR else "**more than linear**"
        refused = f", refused at {each['sizes'][-1]:,}: `{each['refused']}`" if each["refused"] else ""
        yield (
            f"`{each['verb']}`",
            f"{each['sizes'][0]:,} … {each['sizes'][-1]:,} {each['what']}",
            " ".join(number(cost) for cost in each["ms"]),
            number(each["exponent"]),
            linear + refused,
        )
