"""`server.*`: ping, info, flush and drain."""

from __future__ import annotations

from callstate_client.engine.verbs.table import VERBS
from callstate_client.model.times import parse_us
from callstate_sidecar.config.schema import ReaperConfig
from support.clock import START_US
from support.core import Core, FakeClient
from support.core_harness import CoreHarness
from support.stores import down


async def test_ping_info_and_the_table() -> None:
    core = Core(reaper=ReaperConfig(grace_s=1.0))
    assert await core.call("server.ping") == {}
    info = await core.call("server.info")
    assert info["name"] == "callstated"
    assert info["store"] == "memory"
    assert parse_us(info["started_at"]) > START_US / 2
    assert {name.partition(".")[0] for name in VERBS} == {
        "session",
        "worker",
        "events",
        "quarantine",
        "server",
    }


async def test_a_flush_waits_for_what_is_dirty(core: Core) -> None:
    for name in "abc":
        await core.save(name)
    core.writer.start()
    assert await core.call("server.flush", session_ids=["a"]) == {"flushed": 1, "unflushed": 0}
    assert await core.call("server.flush") == {"flushed": 0, "unflushed": 0}
    assert core.memory.versions().keys() == {"a", "b", "c"}
    core.memory.failure = down
    await core.turn("a")
    assert await core.call("server.flush", timeout_s=0.01) == {"flushed": 0, "unflushed": 1}
    await core.writer.stop()


async def test_while_draining_only_new_calls_are_refused(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.save(w1, "a")
    await harness.save(w1, "over", "ended")
    harness.new_events()
    for _ in range(2):
        assert await harness.request(harness.operator, "server.drain", on=True) == {"drain": True, "sessions": 1}
    assert harness.new_events() == [{"type": "server.drain", "drain": True}]
    for peer in (w1, harness.operator):
        data = await harness.refused(peer, "session.save", session={"id": "new", "status": "active"})
        assert data["kind"] == "shutting_down"
    await harness.save(w1, "a", "on_hold")
    await harness.add_turn(w1, "a")
    await harness.release(w1, "a")
    w2 = harness.connect(harness.process())
    assert (await harness.request(w2, "worker.register", worker_id="w2"))["drain"] is True
    await harness.claim(w2, "a", "w2")
    await harness.end(w2, "a")
    assert await harness.request(harness.operator, "server.drain", on=True) == {"drain": True, "sessions": 0}
    harness.new_events()
    assert (await harness.request(harness.operator, "server.drain", on=False))["drain"] is False
    assert harness.new_events() == [{"type": "server.drain", "drain": False}]
    await harness.save(w1, "new")
