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


async def test_a_session_that_cannot_be_encoded_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That is a bug; nothing of it may stay in flight, nor may the store wait for the others."""
    core = await dirty(monkeypatch, batches)
    make = flush_queue.write_of

    def failing(session: Session, host_id: str) -> Write:
        if session.id == "s7":
            raise TypeError("a bug")
        return make(session, host_id)

    with monkeypatch.context() as patched:
        patched.setattr(flush_queue, "write_of", failing)
        for _ in range(3):
            with pytest.raises(TypeError, match="a bug"):
                await core.writer.write_round()
    assert [*core.table.dirty.marks] == ["s7"]
    assert not core.table.dirty.in_flight
    await core.writer.write_round()
    assert not core.table.dirty.sessions
    assert core.memory.rows.keys() == {f"s{number}" for number in range(SESSIONS)}
