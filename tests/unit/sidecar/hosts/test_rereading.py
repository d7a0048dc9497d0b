"""A daemon that is alone with its store finds there what its journal does not have."""

from __future__ import annotations

import pytest

from callstate_client.engine.phases import Phase
from callstate_client.engine.sessions.stored import StoredMeta
from callstate_sidecar.config.schema import LimitsConfig
from callstate_sidecar.hosts import rereading
from callstate_sidecar.hosts.doubts import Doubts
from callstate_sidecar.hosts.rereading import Rereading
from support.core import HOST, Core
from support.stores import down

LIVE = b'{"id":"a","status":"active","history":[{"role":"user"}]}'
OURS = StoredMeta(host=HOST, version=6, epoch=2, owner="w1", heartbeat_timeout_s=10.0)


def begin(core: Core) -> Rereading:
    return Rereading(core.writer.reads, core.table, Doubts(core.ctx, core.read_through, core.commit), core.metrics)


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rereading, "PAUSE_S", 0.0)


async def test_a_call_that_only_the_store_has_is_reaped() -> None:
    core = Core()
    core.memory.put("a", LIVE, OURS)
    assert await begin(core).go_on()
    assert core.session("a").restored
    assert core.phase("a") is Phase.LIVE
    core.advance(10.0)
    assert core.phase("a") is Phase.SUSPECT
    core.advance(30.0)
    assert core.session("a").facts.ended_reason == "heartbeat_timeout"


async def test_what_is_hot_or_deleted_or_not_ours_stays_as_it_is() -> None:
    core = Core()
    core.memory.put("b", LIVE.replace(b'"a"', b'"b"'), StoredMeta(host="host-2", version=3))
    core.memory.put("c", LIVE.replace(b'"a"', b'"c"'), None)
    core.memory.put("d", LIVE.replace(b'"a"', b'"d"'), OURS)
    await core.save("a")
    await core.writer.write_round()
    await core.call("session.delete", session_id="d")
    core.memory.joint_reads.clear()
    assert await begin(core).go_on()
    assert core.table.sessions.keys() == {"a"}
    assert [sorted(ids) for ids in core.memory.joint_reads] == [["b", "c"]]


async def test_it_goes_on_where_the_store_failed() -> None:
    core = Core()
    core.memory.put("a", LIVE, OURS)
    task = begin(core)
    core.memory.failure = down
    assert not await task.go_on()
    core.memory.failure = None
    core.writer.store.succeeded()
    assert await task.go_on()
    assert "a" in core.table.sessions


async def test_without_room_it_waits_for_some() -> None:
    core = Core(limits=LimitsConfig(hot_bytes=1 << 20))
    core.memory.put("a", LIVE, OURS)
    core.table.hot.total += 1 << 20
    task = begin(core)
    assert not await task.go_on()
    core.table.hot.total -= 1 << 20
    assert await task.go_on()
    assert "a" in core.table.sessions
