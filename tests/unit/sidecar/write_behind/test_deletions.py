"""Deletions that the store has: which are remembered, and repeated."""

from __future__ import annotations

import asyncio

import pytest

from callstate_client.engine.sessions.stored import StoredMeta
from callstate_client.engine.sessions.writes import Whole
from callstate_sidecar import slices
from callstate_sidecar.write_behind import deletions
from callstate_sidecar.write_behind.deletions import FORGOTTEN_AT_ONCE, FlushedDeletions
from support.core import HOST, Core

TTL_S = 100.0


def deletion(session_id: str, version: int = 3) -> Whole:
    meta = StoredMeta(host=HOST, epoch=0, version=version, deleted=True)
    return Whole(session_id, None, meta, active=False)


def remembering(core: Core) -> FlushedDeletions:
    return FlushedDeletions(core.queue, core.clock, TTL_S)  # type: ignore[arg-type]


async def test_those_that_grow_old_together_are_forgotten_a_few_at_a_time() -> None:
    core = Core()
    remembered = remembering(core)
    for number in range(1000):
        remembered.written(deletion(f"s{number}"))
    core.clock.advance(TTL_S + 1.0)
    for number in range(1000):
        before = len(remembered)
        remembered.written(deletion(f"t{number}"))
        assert before - len(remembered) < FORGOTTEN_AT_ONCE
    assert remembered._deleted.keys() == {f"t{number}" for number in range(1000)}


async def test_only_the_newest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletions, "MAX_DELETIONS", 10)
    remembered = remembering(Core())
    for number in range(30):
        remembered.written(deletion(f"s{number}"))
    assert [*remembered._deleted] == [f"s{number}" for number in range(20, 30)]


async def test_one_that_is_made_again_counts_from_then_on() -> None:
    core = Core()
    remembered = remembering(core)
    remembered.written(deletion("a"))
    core.clock.advance(TTL_S - 1.0)
    remembered.written(deletion("a", 9))
    core.clock.advance(2.0)
    remembered.written(deletion("b"))
    assert remembered._deleted.keys() == {"a", "b"}


async def test_all_are_repeated_while_others_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is repeated is written again meanwhile, and not repeated for that."""
    monkeypatch.setattr(slices, "SLICE_S", 0.0)
    core = Core()
    remembered = remembering(core)
    for number in range(10):
        remembered.written(deletion(f"s{number}"))
        core.clock.advance(1.0)
    repeating = asyncio.ensure_future(remembered.repeat())
    pending = core.table.tombstones.pending
    while "s2" not in pending:
        await asyncio.sleep(0)
    assert "s9" not in pending, "one after the other"
    remembered.written(deletion("s0", 9))
    remembered.written(Whole("s8", b"{}", StoredMeta(host=HOST, epoch=0, version=9), active=True))
    core.clock.advance(TTL_S - 10.0)
    remembered.written(deletion("late"))
    await repeating
    assert [*pending] == ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s9"]
