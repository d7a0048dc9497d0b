"""The circuit: the state of the store is never an old opinion, and changes that don't last are not told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from callstate_client.engine.sessions.stored import StoreDownError, StoreError
from callstate_sidecar.config.schema import StoreConfig
from callstate_sidecar.write_behind.store_state import SETTLE_S
from callstate_sidecar.write_behind.store_watch import PING_DOWN_S, PING_S
from support.core import Core, FakeClient
from support.stores import down, refusing


async def listening(core: Core) -> FakeClient:
    peer = FakeClient(core)
    peer.send(("events.subscribe", {}))
    core.commit()
    return peer


async def told(peer: FakeClient) -> list[tuple[str, str]]:
    await asyncio.sleep(0)  # what is queued leaves at the turn's end
    return [(event["type"], event.get("error", "")) for event in peer.events]


async def test_an_idle_store_is_pinged_and_what_is_said_of_it_is_never_old() -> None:
    core = Core()
    watch = core.writer._watch
    await watch.tick()
    assert core.memory.pings == 0, "it was used just now"
    core.clock.advance(PING_S)
    await watch.tick()
    assert core.memory.pings == 1
    core.memory.failure = down
    core.clock.advance(PING_S - 0.1)
    await watch.tick()
    assert core.writer.store.status == "up"
    core.clock.advance(0.1)
    await watch.tick()
    assert (core.writer.store.status, core.writer.store.error) == ("down", "connection refused")
    assert core.writer._wake.is_set(), "write-behind tries it again, by backoff"


async def test_a_store_in_use_is_not_pinged() -> None:
    core = Core()
    for number in range(10):
        core.clock.advance(1.0)
        await core.save(f"s{number}")
        await core.writer.write_round()
        await core.writer._watch.tick()
    assert core.memory.pings == 0


async def test_a_ping_that_is_not_answered_in_time_is_a_store_that_is_down() -> None:
    """Such as an SQLite file on a disk that hangs: the writer hangs with it, and could not tell."""
    core = Core(store=StoreConfig(timeout_s=0.05))
    core.memory.hold()
    core.clock.advance(PING_S)
    await core.writer._watch.tick()
    assert core.writer.store.status == "down"
    core.memory.let_go()
    core.clock.advance(PING_DOWN_S)
    await core.writer._watch.tick()
    assert core.writer.store.status == "up"


async def test_a_ping_that_is_refused_is_a_store_that_refuses() -> None:
    core = Core()
    core.memory.failure = refusing
    core.clock.advance(PING_S)
    await core.writer._watch.tick()
    assert core.writer.store.status == "refusing"
    core.memory.failure = None
    core.clock.advance(PING_DOWN_S)
    await core.writer._watch.tick()
    assert core.writer.store.status == "refusing", "it answers, but who knows whether it takes writes"
    await core.writer.write_round()
    assert core.writer.store.status == "up"


@pytest.mark.parametrize("fault", [down, refusing])
async def test_a_lasting_change_is_logged_once(fault: Callable[[], StoreError]) -> None:
    core = Core()
    peer = await listening(core)
    state, watch = core.writer.store, core.writer._watch
    state.failed(fault())
    assert state.status != "up"
    await watch.tick()
    assert await told(peer) == []
    for _ in range(3):
        core.clock.advance(SETTLE_S)
        state.failed(fault())
        await watch.tick()
    assert await told(peer) == [("store.down", str(fault()))]
    state.succeeded()
    for _ in range(3):
        core.clock.advance(SETTLE_S)
        await watch.tick()
    assert await told(peer) == [("store.down", str(fault())), ("store.up", "")]


async def test_changes_that_do_not_last_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    core = Core()
    peer = await listening(core)
    state, watch = core.writer.store, core.writer._watch
    for _ in range(20):
        state.failed(down())
        core.clock.advance(0.9 * SETTLE_S)
        await watch.tick()
        state.succeeded()
        core.clock.advance(0.9 * SETTLE_S)
        await watch.tick()
    core.clock.advance(SETTLE_S)
    await watch.tick()
    assert await told(peer) == []
    assert "the store is" not in caplog.text


async def test_a_store_that_is_first_down_and_then_refuses_is_logged_twice() -> None:
    """Such as one that is started again and loads its data."""
    core = Core()
    peer = await listening(core)
    for error in (down(), refusing()):
        core.writer.store.failed(error)
        core.clock.advance(SETTLE_S)
        await core.writer._watch.tick()
    assert await told(peer) == [("store.down", str(down())), ("store.down", str(refusing()))]


async def test_pings_go_on_by_themselves_and_end_with_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callstate_sidecar.write_behind.store_watch.TICK_S", 0.001)
    core = Core()
    core.memory.hold()
    core.clock.advance(PING_S)
    core.writer.start()
    await core.memory.called.wait()
    assert core.memory.pings == 1
    core.memory.let_go()
    await core.writer.stop()


# -- stopping -------------------------------------------------------------------------------------------------


async def test_a_stop_does_not_wait_for_a_store_that_is_down() -> None:
    core = Core()
    await core.save("s0")
    core.writer.store.failed(down())
    core.memory.hold()  # whoever asks it waits for ever
    core.writer.start()
    async with asyncio.timeout(5):
        assert await core.writer.flush_before_stop(1000.0) == 1
    await core.writer.stop()
    assert list(core.table.dirty.marks) == ["s0"]


async def test_a_stop_waits_no_longer_once_the_store_turns_out_to_be_down() -> None:
    core = Core()
    await core.save("s0")
    core.memory.hold()
    core.writer.start()
    stopping = asyncio.ensure_future(core.writer.flush_before_stop(1000.0))
    await core.memory.called.wait()
    assert not stopping.done()
    core.writer.store.unanswered(StoreDownError("no answer to a ping"))
    async with asyncio.timeout(5):
        assert await stopping == 1
    await core.writer.stop()


async def test_a_stop_waits_for_a_store_that_is_up() -> None:
    core = Core()
    await core.save("s0")
    core.writer.start()
    assert await core.writer.flush_before_stop(20.0) == 0
    await core.writer.stop()
    assert core.memory.versions().keys() == {"s0"}


async def test_a_stop_counts_no_copy_of_a_session_that_another_host_has() -> None:
    core = Core()
    await core.save("s0")
    await core.writer.write_round()
    core.tx.set_aside(core.table.sessions["s0"], "other", 1)
    core.commit()
    core.writer.start()
    assert await core.writer.flush_before_stop(20.0) == 0
    await core.writer.stop()
    assert len(core.table.set_aside) == 1
