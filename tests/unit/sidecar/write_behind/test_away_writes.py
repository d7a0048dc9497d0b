"""Sessions whose part of the store is away wait in flight, and hold up no other."""

from __future__ import annotations

import pytest

from callstate_client.errors import StoreUnavailableError
from callstate_sidecar.write_behind.away_writes import BACKOFF_FIRST_S, BACKOFF_MAX_S
from support.core import Core


async def partly_away() -> Core:
    """A core with two dirty sessions, the store's part of one of which is away."""
    core = Core()
    core.memory.away_ids = {"away"}
    for session_id in ("away", "here"):
        await core.save(session_id)
    await core.writer.write_round()
    return core


async def back(core: Core) -> None:
    core.memory.away_ids = set()
    core.clock.advance(BACKOFF_MAX_S)
    await core.writer.write_round()


async def test_it_waits_and_the_others_are_written() -> None:
    core = await partly_away()
    assert [*core.memory.rows] == ["here"]
    assert (core.writer.store.status, core.table.dirty.sessions) == ("up", 1)
    for _ in range(5):
        await core.turn("here")
        await core.writer.write_round()
    assert [[write.session_id for write in batch] for batch in core.memory.batches[1:]] == [["here"]] * 5
    core.clock.advance(BACKOFF_FIRST_S)
    await core.turn("here")
    await core.writer.write_round()
    assert [write.session_id for write in core.memory.batches[-1]] == ["here", "away"], "the others first"
    await back(core)
    assert core.table.dirty.sessions == 0
    assert core.memory.versions()["away"] == core.session("away").version


async def test_its_age_counts_from_its_first_change() -> None:
    core = await partly_away()
    core.clock.advance(3600.0)
    await core.turn("away")
    await core.writer.write_round()
    oldest = core.table.dirty.oldest
    assert oldest is not None
    assert core.clock.mono() - oldest >= 3600.0
    assert core.table.dirty.sessions == 1
    await back(core)
    assert core.table.dirty.oldest is None


@pytest.mark.parametrize("applied", [False, True])
async def test_its_deletion_waits_too(applied: bool) -> None:
    core = await partly_away()
    core.memory.away_applies = applied
    await core.turn("away")
    await core.writer.write_round()
    await core.call("session.delete", session_id="away")
    await core.writer.write_round()
    assert core.table.dirty.sessions == 1
    await back(core)
    row = core.memory.rows["away"]
    assert row.document is None
    assert core.table.dirty.sessions == 0


async def test_a_flush_waits_for_it_and_not_with_the_others() -> None:
    core = await partly_away()
    assert await core.writer.flush(["here"], 5.0) == {"flushed": 1, "unflushed": 0}
    assert await core.writer.flush(None, 0.01) == {"flushed": 0, "unflushed": 1}


async def test_a_read_of_that_part_does_not_make_the_store_down() -> None:
    core = await partly_away()
    core.memory.away_ids = {"unknown"}
    with pytest.raises(StoreUnavailableError):
        await core.call("session.load", session_id="unknown")
    assert core.writer.store.status == "up"
