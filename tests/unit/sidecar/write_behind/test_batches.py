"""A batch is taken, and its results are applied, in slices of a bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from callstate_client.engine import flush_queue
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.writes import Write
from callstate_client.engine.table.quarantine import RETRY_MAX_S
from callstate_sidecar.logs.event_log import event_of
from callstate_sidecar.slices import SLICE_S, Slices
from callstate_sidecar.write_behind import batches, outcomes
from support.core import Core

SESSIONS = 20
A_SLICE = 4
"""Sessions for which a slice has time."""


def ticking() -> Callable[[], Slices]:
    """Slices by a clock that each look at it moves on."""
    looks = count()
    return lambda: Slices(clock=lambda: next(looks) * SLICE_S / A_SLICE)


async def dirty(monkeypatch: pytest.MonkeyPatch, module: Any) -> Core:
    core = Core()
    for number in range(SESSIONS):
        await core.save(f"s{number}")
    monkeypatch.setattr(module, "Slices", ticking())
    return core


def written(core: Core) -> list[list[str]]:
    return [[write.session_id for write in batch] for batch in core.memory.batches]


def others_turns() -> tuple[list[int], asyncio.Task[None]]:
    """Counts the turns of the loop that others had."""
    turns = [0]

    async def others() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    return turns, asyncio.ensure_future(others())


async def test_a_batch_is_taken_in_slices_and_written_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    core = await dirty(monkeypatch, batches)
    taken: list[int] = []
    take = core.queue.take

    def counted(*args: Any) -> Any:
        found = take(*args)
        taken.append(len(found))
        return found

    monkeypatch.setattr(core.queue, "take", counted)
    await core.writer.write_round()
    assert written(core) == [[f"s{number}" for number in range(SESSIONS)]]
    assert sum(taken) == SESSIONS
    assert max(taken) <= A_SLICE


async def test_what_changes_while_a_batch_is_taken_is_written_with_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core = await dirty(monkeypatch, batches)
    take, changes = core.queue.take, 0

    def change(*args: Any) -> Any:
        nonlocal changes
        found = take(*args)
        if found and not changes:
            changes += 1
            session = core.table.sessions[found[0][0].session_id]
            core.queue.mark_stale(session.id, core.clock.mono(), session.doc.size)
        return found

    monkeypatch.setattr(core.queue, "take", change)
    await core.writer.write_round()
    await core.writer.write_round()
    assert written(core) == [[f"s{number}" for number in range(SESSIONS)], ["s0"]]
    assert not core.table.dirty.sessions


async def test_a_batch_that_is_cancelled_while_it_is_taken_is_dirty_again(monkeypatch: pytest.MonkeyPatch) -> None:
    core = await dirty(monkeypatch, batches)
    writing = asyncio.ensure_future(core.writer.write_round())
    while not core.table.dirty.in_flight:
        await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert not core.table.dirty.in_flight
    assert [*core.table.dirty.marks] == [f"s{number}" for number in range(SESSIONS)]
    assert not core.memory.batches


async def test_results_are_applied_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    core = await dirty(monkeypatch, outcomes)
    turns, other = others_turns()
    writing = asyncio.ensure_future(core.writer.write_round())
    while len(core.table.dirty.in_flight) < SESSIONS:
        await asyncio.sleep(0)
    left: list[int] = []
    while not writing.done():
        left.append(len(core.table.dirty.in_flight))
        await asyncio.sleep(0)
    other.cancel()
    steps = [before - after for before, after in zip(left, [*left[1:], 0], strict=True)]
    assert sum(steps) == SESSIONS
    assert max(steps) <= A_SLICE
    assert turns[0] > SESSIONS // A_SLICE


async def test_results_that_a_stop_cuts_off_are_unknown_and_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    core = await dirty(monkeypatch, outcomes)
    writing = asyncio.ensure_future(core.writer.write_round())
    while not core.memory.batches or len(core.table.dirty.in_flight) == SESSIONS:
        await asyncio.sleep(0)
    some = len(core.table.dirty.in_flight)
    assert 0 < some < SESSIONS
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert not core.table.dirty.in_flight
    assert len(core.table.dirty.marks) == some


def unwritable(monkeypatch: pytest.MonkeyPatch, *session_ids: str) -> None:
    """These can't be encoded, which is a bug."""
    make = flush_queue.write_of

    def failing(session: Session, host_id: str) -> Write:
        if session.id in session_ids:
            raise TypeError("a bug")
        return make(session, host_id)

    monkeypatch.setattr(flush_queue, "write_of", failing)


def refused(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if event_of(record) == "store_refused"]


async def test_a_session_that_cannot_be_encoded_is_quarantined_and_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    core = await dirty(monkeypatch, batches)
    with monkeypatch.context() as patched:
        unwritable(patched, "s0", "s7")
        await core.writer.write_round()
        assert core.memory.rows.keys() == {f"s{number}" for number in range(SESSIONS)} - {"s0", "s7"}
        assert [*core.table.quarantined] == ["s0", "s7"]
        for _ in range(3):
            await core.writer.write_round()
        refusal = core.table.quarantined.get("s7")
        assert refusal is not None
        assert (refusal.attempts, refusal.why) == (1, "unwritable: TypeError, a bug in callstated")
        assert not core.table.dirty.sessions
        assert await core.writer.flush(None, 5.0) == {"flushed": 0, "unflushed": 2}
        core.clock.advance(RETRY_MAX_S)
        await core.writer.write_round()
        assert refusal.attempts == 2
        assert core.writer.store.status == "up"
    assert [line.partition(" (")[0] for line in refused(caplog)] == [
        "the store refuses session s0", "the store refuses session s7",
    ]  # fmt: skip
    assert all(record.exc_info for record in caplog.records if event_of(record) == "store_refused")
    core.clock.advance(RETRY_MAX_S)
    await core.writer.write_round()
    assert not core.table.quarantined
    assert core.memory.rows.keys() == {f"s{number}" for number in range(SESSIONS)}


async def test_many_that_cannot_be_encoded_are_quarantined_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    core = await dirty(monkeypatch, batches)
    unwritable(monkeypatch, *(f"s{number}" for number in range(SESSIONS)))
    in_a_slice: list[int] = []
    take = core.queue.take

    def counted(*args: Any) -> Any:
        before = len(core.table.dirty.marks)
        found = take(*args)
        in_a_slice.append(before - len(core.table.dirty.marks))
        return found

    monkeypatch.setattr(core.queue, "take", counted)
    await core.writer.write_round()
    assert len(core.table.quarantined) == sum(in_a_slice) == SESSIONS
    assert max(in_a_slice) <= A_SLICE
    assert not core.memory.batches


async def test_one_that_cannot_be_encoded_is_not_in_flight_to_a_part_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core = await dirty(monkeypatch, batches)
    core.memory.away_ids.add("s3")
    await core.writer.write_round()
    assert [*core.table.dirty.in_flight] == ["s3"]
    await core.save("s3")
    with monkeypatch.context() as patched:
        unwritable(patched, "s3")
        await core.writer.write_round()
    assert not core.table.dirty.in_flight
    core.memory.away_ids.clear()
    core.clock.advance(RETRY_MAX_S)
    await core.writer.write_round()
    assert "s3" in core.memory.rows
    assert not core.table.dirty.sessions


async def test_a_deletion_that_cannot_be_encoded_is_quarantined(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    core = await dirty(monkeypatch, batches)
    await core.writer.write_round()
    await core.call("session.delete", session_id="s4")

    def failing(*_: Any) -> Write:
        raise TypeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(core.queue, "_deletion", failing)
        await core.writer.write_round()
    assert [*core.table.quarantined] == ["s4"]
    assert [line.partition(" (")[0] for line in refused(caplog)] == ["the store refuses the deletion of session s4"]
    core.clock.advance(RETRY_MAX_S)
    await core.writer.write_round()
    assert not core.table.quarantined
    assert core.memory.rows["s4"].document is None
