"""kill -9 under mixed load, again and again: every acknowledged write is there, exactly once."""

from __future__ import annotations

import random

import pytest

from support.daemon import Daemon
from support.oracle import Oracle

ROUNDS = 12
"""Enough for a kill at each kind of moment; `make soak` goes on for an hour, with other faults too."""

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(60 + ROUNDS * 6),
    pytest.mark.asyncio(loop_factories=["uvloop"]),
]

SMALL_CHECKPOINTS = ["--set", "journal.checkpoint_min_bytes=65536", "--set", "journal.sync_interval_s=0.05"]


async def crash_rounds(daemon: Daemon, rounds: int, seed: int) -> int:
    oracle = Oracle(daemon.socket, seed)
    when = random.Random(seed)
    for _ in range(rounds):
        await oracle.drive(when.randrange(1, 1500), lambda: daemon.in_thread("kill"))
        await daemon.in_thread("start")
        await oracle.check()
    return oracle.acknowledged


async def test_nothing_acknowledged_is_lost_by_kill_9() -> None:
    """Durability `process`, the default; checkpoints are small, so that kills hit them too."""
    with Daemon(*SMALL_CHECKPOINTS) as daemon:
        acknowledged = await crash_rounds(daemon, ROUNDS, seed=1)
        assert acknowledged > ROUNDS * 200


async def test_nothing_acknowledged_is_lost_at_durability_power() -> None:
    with Daemon("--durability", "power", *SMALL_CHECKPOINTS) as daemon:
        await crash_rounds(daemon, max(5, ROUNDS // 4), seed=2)


async def test_a_clean_stop_loses_nothing_at_any_level() -> None:
    for durability in ("memory", "process", "power"):
        with Daemon("--durability", durability) as daemon:
            oracle = Oracle(daemon.socket, seed=3)
            for _ in range(3):
                await oracle.drive(300, lambda: daemon.in_thread("terminate"))
                await daemon.in_thread("start")
                await oracle.check()
