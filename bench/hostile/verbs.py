"""How the cost of each verb grows with adversarial input: linearly at most, or it is refused."""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final

from bench.hostile.attacker import KIND
from bench.hostile.inputs import INPUTS, Input
from bench.processes import Rig, Server
from bench.sampling import short
from bench.wire import Wire

REPEATS: Final = 12
"""The cheapest of so many requests counts, each taken alone: what else the machine and the daemon do can only add
to it. All sizes take turns, so that a slow spell of the machine does not fall on one of them."""

LINEAR: Final = 1.25
"""The exponent up to which growth counts as linear: times of milliseconds on a shared machine are not exact."""

ENOUGH_S: Final = 0.002
"""Costs below this are the machine's as much as the input's: growth within them means nothing."""

NUMBER: Final = re.compile("@")


def measure(rig: Rig, doublings: int) -> dict[str, Any]:
    """The figures of all inputs, each against a daemon of its own.

    Args:
        rig: where the daemons run.
        doublings: how often the smallest size is doubled.
    """
    found: dict[str, Any] = {}
    for number, each in enumerate(INPUTS):
        sizes = [each.smallest << doubling for doubling in range(doublings + 1)]
        daemons = [
            rig.daemon(f"verb-{number}-{size}", None, "--set", "journal.checkpoint_min_bytes=1073741824")
            for size in sizes
        ]
        costs, refused = _costs(daemons, each, sizes)
        for daemon in daemons:
            rig.end(daemon)
        found[f"{each.verb}: {each.what}"] = {
            "verb": each.verb, "what": each.what, "sizes": sizes,
            "ms": [short(cost * 1000) for cost in costs], "refused": refused,
            "exponent": short(exponent(sizes, costs)),
        }  # fmt: skip
    return found


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """By which power of its size an input's cost grows: a line through the logarithms; tiny costs are left out."""
    points = [(math.log(size), math.log(cost)) for size, cost in zip(sizes, costs, strict=True) if cost > ENOUGH_S]
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def _costs(daemons: Sequence[Server], each: Input, sizes: Sequence[int]) -> tuple[list[float], str]:
    """The CPU seconds of each daemon for one request of its size, and how the largest was refused; empty: not."""
    lines = [each.line(size).decode() for size in sizes]
    costs = [math.inf] * len(sizes)
    refused = ""
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(daemon)) for daemon in daemons]
        for wire, size in zip(wires, sizes, strict=True):
            for one in each.prepare(size):
                _ask(wire.socket, one)
        for number in range(REPEATS):
            for place, (daemon, wire) in enumerate(zip(daemons, wires, strict=True)):
                one = NUMBER.sub(str(number), lines[place]).encode()
                before = daemon.cpu_s()
                refused = _refusal(_ask(wire.socket, one))
                costs[place] = min(costs[place], daemon.cpu_s() - before)
    return costs, refused


def _ask(connection: socket.socket, line: bytes) -> bytes:
    connection.sendall(line)
    reply = b""
    while not reply.endswith(b"\n"):
        chunk = connection.recv(1 << 22)
        if not chunk:
            return b""
        reply += chunk
    return reply


def _refusal(reply: bytes) -> str:
    if b'"error"' not in reply[:100]:
        return "" if reply else "cut off"
    found = KIND.search(reply[:2000])
    return found[1].decode() if found else "refused"
