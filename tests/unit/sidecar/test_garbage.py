"""Garbage is collected in short pauses, and little of it is made."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from callstate_sidecar import garbage
from callstate_sidecar.garbage import ROUNDS, collecting
from support.core import Core, FakeClient
from support.garbage import errors_in_garbage
from support.stores import down


class Cycle:
    """Garbage, once nothing else refers to it, that only a collection frees."""

    def __init__(self) -> None:
        self.me = self


def grow_old() -> None:
    """All that is there now outlives two collections."""
    gc.collect(0)
    gc.collect(1)


async def collect_all() -> None:
    """Let as many collections of young objects happen as lead to one of everything."""
    for _ in range(ROUNDS):
        gc.collect(1)
    await asyncio.sleep(0)


async def test_old_garbage_is_collected_after_some_collections_of_the_young() -> None:
    with collecting():
        old = weakref.ref(Cycle())
        kept = Cycle()
        kept_old = weakref.ref(kept)
        grow_old()
        del kept
        gc.collect(1)
        assert kept_old() is not None
        await collect_all()
        assert kept_old() is None
        assert old() is None


async def test_many_survivors_are_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "SET_ASIDE", 1)
    with collecting():
        many: list[Any] = [[]]
        assert any(each is many for each in gc.get_objects())
        await collect_all()
        assert not any(each is many for each in gc.get_objects())
        gone = weakref.ref(session := Cycle())
        await collect_all()
        session.__dict__.clear()
        del session
        assert gone() is None, "what is set aside goes with the last reference to it"


async def test_few_survivors_are_looked_at_each_time() -> None:
    with collecting():
        few: list[Any] = [[]]
        await collect_all()
        assert any(each is few for each in gc.get_objects())


async def test_the_collector_is_as_it_was_afterwards() -> None:
    before = gc.get_threshold(), [*gc.callbacks]
    with collecting():
        assert gc.get_threshold() != before[0]
    assert (gc.get_threshold(), [*gc.callbacks]) == before
    assert gc.get_freeze_count() == 0


async def test_refused_requests_are_no_garbage() -> None:
    core = Core()
    client = FakeClient(core)
    with errors_in_garbage() as found:
        ids = client.send(
            ("session.update", {"session_id": "c", "set": {"status": 1}}),
            ("session.save", {"session": {"id": "c", "status": 5}}),
            ("session.update", {"session_id": "c", "unknown": 1}),
            ("session.list", {"limit": -1}),
        )
        while not client.answered(ids):
            await asyncio.sleep(0)
        assert all("error" in client.replies[each] for each in ids)
    assert found == []


@pytest.mark.parametrize("ids", [["c1"], ["c1", "c2", "c3"]])
async def test_a_heartbeat_for_sessions_that_the_store_can_not_say_is_no_garbage(ids: list[str]) -> None:
    core = Core()
    core.backend.failure = down
    client = FakeClient(core)
    with errors_in_garbage() as found:
        (asked,) = client.send(("session.heartbeat", {"session_ids": ids}))
        while not client.answered([asked]):
            await asyncio.sleep(0)
        assert client.replies[asked]["error"]["data"]["kind"] == "store_unavailable"
        await core.read_through.close()
    assert found == []
