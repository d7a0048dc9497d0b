"""A session that only had a turn is written with few calls: a busy host writes hundreds a second."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from callstate_client.engine.sessions.store_form import write_of
from callstate_client.engine.sessions.writes import Patch
from callstate_sidecar.config.schema import StoreConfig
from callstate_sidecar.stores.redis.layout import Layout
from callstate_sidecar.stores.redis.write_calls import PATCHES_PER_CALL, WriteCalls
from support.core import HOST, Core

pytestmark = pytest.mark.usefixtures("unhurried")

MOST_CALLS = 24
"""From the dirty set to the store and back to clean: a few more than it takes."""

MOST_PACKING_CALLS = 5
"""To make of a patch what Redis is given."""

OF_THE_STORE = {"Patch.meta", "meta_of", "Patch.apply", "takes"}
"""What the store in memory calls."""

FEWER, MORE = 2 * PATCHES_PER_CALL, 4 * PATCHES_PER_CALL


@contextmanager
def counted() -> Iterator[list[str]]:
    """The calls of functions that the daemon consists of."""
    calls: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_qualname
        if event == "call" and frame.f_globals["__name__"].startswith("callstate_") and name not in OF_THE_STORE:
            calls.append(name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(before)


async def a_turn_each(sessions: int) -> Core:
    """Sessions that the store has, each with a turn that it lacks."""
    core = Core(store=StoreConfig(batch_sessions=MORE))
    for number in range(sessions):
        await core.save(f"s{number}")
    await core.writer.write_round()
    for number in range(sessions):
        await core.turn(f"s{number}", op="op-1")
    return core


async def test_from_dirty_to_clean_it_takes_few_calls() -> None:
    each: list[list[str]] = []
    for sessions in (FEWER, MORE):
        core = await a_turn_each(sessions)
        with counted() as calls:
            await core.writer.write_round()
        assert not core.table.dirty.sessions
        assert all(isinstance(write, Patch) for write in core.memory.batches[-1])
        each.append(calls)
    few, many = each
    assert len(many) - len(few) <= MOST_CALLS * (MORE - FEWER), sorted({*many})


async def test_what_redis_is_given_takes_few_calls() -> None:
    each: list[int] = []
    for sessions in (FEWER, MORE):
        core = await a_turn_each(sessions)
        batch = [write_of(session, HOST) for session in core.table.sessions.values()]
        with counted() as calls:
            packed = [*WriteCalls(Layout(), HOST, 1000, clustered=False).of(batch)]
        assert len(packed) == sessions // PATCHES_PER_CALL
        each.append(len(calls))
    few, many = each
    assert many - few <= MOST_PACKING_CALLS * (MORE - FEWER)
