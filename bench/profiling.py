"""Where a request's time goes in the daemon: its CPU time by part, and its instructions."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.compare import ADDS, PER_TASK, keep_pools, pool
from bench.documents import documents
from bench.processes import Rig
from bench.raw import Raw, add_turn, beat, fill, line, save
from bench.sampling import take
from bench.sides import Sidecar, connected

VERBS: Final = ("heartbeat", "add_turn", "save", "load")
TURNS: Final = 20
TASKS: Final = 32

RATE_HZ: Final = 500
"""Looks at the daemon's stack a second."""

PARTS: Final = (
    ("write-behind", ("write_behind.py", "stores/", "redis/", "hiredis", "sqlite")),
    ("journal", ("journal/", "records.py")),
    ("replies", ("Connection.release", "Connection.flush", "Connection.take", "Connection.send", "result_line")),
    ("decoding and validating", ("request.py", "validation.py", "save_delta.py", "protocol/", "documents.py")),
    ("the verb", ("engine/", "model/", "metrics.py", "clock.py")),
    ("serving lines", ("serving/",)),
)  # fmt: skip
"""Parts, and what a frame of the stack has in it that is of that part; the innermost frame that is of any decides.
What is of none is the loop itself: waiting for sockets, and reading from them."""

LOOP: Final = "the loop, reading"

FEW, MANY = 2_000, 6_000
"""Requests of two runs under callgrind: the difference has neither start nor stop in it."""

_COLLECTED: Final = re.compile(r"Collected : (\d+)")


def profile(seconds: float, *, instructions: bool) -> dict[str, dict[str, Any]]:
    """Each verb: CPU time of the daemon a request, µs, by part, and instructions where wanted.

    32 tasks on four sessions of 20 turns each, SQLite behind, through the asyncio client.

    Args:
        seconds: to look at each verb.
        instructions: count them too, which takes valgrind and some minutes.

    Raises:
        RuntimeError: py-spy or valgrind is not installed.
    """
    with Rig() as rig:
        told = {verb: uvloop.run(_by_part(rig, verb, seconds)) for verb in VERBS}
        if instructions:
            for verb in VERBS:
                told[verb]["instructions"] = _instructions(rig, verb)
    return told


def _tool(name: str, advice: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise RuntimeError(f"{name} is missing: {advice}")
    return found


# -- by part ------------------------------------------------------------------------------------------------


async def _by_part(rig: Rig, verb: str, seconds: float) -> dict[str, Any]:
    server = rig.daemon(f"profile-{verb}", None)
    side = Sidecar(await connected(server.path), server)
    stacks = rig.root / f"{verb}.stacks"
    await keep_pools([side], {TURNS: PER_TASK * TASKS})
    watch = [
        _tool("py-spy", "pip install py-spy"), "record", "--pid", str(server.pid), "--format", "raw",
        "--nonblocking", "--rate", str(RATE_HZ), "--duration", f"{max(1, round(seconds))}", "--output", str(stacks),
    ]  # fmt: skip
    watching = subprocess.Popen(watch, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603, ASYNC220
    sample = await take(side, verb, pool(TURNS, PER_TASK * TASKS), adds=ADDS[TURNS], tasks=TASKS, seconds=seconds)
    watching.wait()
    await side.close()
    rig.end(server)
    cpu_us = sample.server_cpu_s / sample.count * 1e6
    found = parts(stacks.read_text("utf-8").splitlines())
    everything = sum(found.values()) or 1
    order = (*(name for name, _ in PARTS), LOOP)
    return {"cpu_us": cpu_us, "parts_us": {name: cpu_us * found[name] / everything for name in order}}


def parts(stacks: Sequence[str]) -> Counter[str]:
    """How often each part was seen.

    Args:
        stacks: as py-spy writes them: frames, outermost first, with a semicolon between, and how often.
    """
    found: Counter[str] = Counter()
    for stack in stacks:
        frames, _, times = stack.rpartition(" ")
        found[_part(frames.split(";"))] += int(times)
    return found


def _part(frames: Sequence[str]) -> str:
    """Write-behind is whatever is done on its behalf; for the rest the innermost frame that is known decides."""
    behind, others = PARTS[0], PARTS[1:]
    if any(mark in frame for frame in frames for mark in behind[1]):
        return behind[0]
    for frame in reversed(frames):
        for name, marks in others:
            if any(mark in frame for mark in marks):
                return name
    return LOOP


# -- instructions -------------------------------------------------------------------------------------------


def _instructions(rig: Rig, verb: str) -> float:
    """Of one request in the daemon, pipelined 64 at a time."""
    return (_counted(rig, verb, MANY) - _counted(rig, verb, FEW)) / (MANY - FEW)


def _counted(rig: Rig, verb: str, requests: int) -> int:
    kept = documents(pool(TURNS, TASKS), TURNS)
    label = f"{verb}-{requests}"
    valgrind = (
        _tool("valgrind", "apt install valgrind"),
        "--tool=callgrind",
        f"--callgrind-out-file={rig.root / label}.cg",
    )
    server = rig.daemon(label, None, below=valgrind)
    fill(server, kept)
    lines: Mapping[str, Callable[[str], bytes]] = {
        "heartbeat": beat,
        "add_turn": add_turn,
        "save": lambda one: save(kept[one]),
        "load": lambda one: line("session.load", f'{{"session_id":"{one}"}}'),
    }
    ids = [*kept]
    with Raw(server) as raw:
        raw.tell(lines[verb](ids[number % len(ids)]) for number in range(requests))
    output = server.stop()
    found = _COLLECTED.search(output)
    if found is None:
        raise RuntimeError(f"callgrind counted nothing:\n{output}")
    return int(found[1])
