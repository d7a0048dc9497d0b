"""The store's own mutations of a call that it holds, in their place among the call's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from callstate_client import ConflictError, FencedError, RequestTimeoutError, SessionState, Turn
from support.flaky import AWAY, FOR_EVER, FlakyStore, said, same


@pytest.mark.parametrize(
    ("mutate", "shows"),
    [
        (lambda store: store.add_turn("c1", "agent", "2"), lambda state: said(state) == ["1", "2", "3"]),
        (lambda store: store.amend_turn("c1", 0, content="one"), lambda state: said(state) == ["one", "3"]),
        (lambda store: store.amend_last_turn("c1", content="one"), lambda state: said(state) == ["one", "3"]),
        (lambda store: store.record_interruption("c1"), lambda state: state.metrics.interruption_count == 1),
        (lambda store: store.update("c1", status="second"), lambda state: state.status == "second"),
        (lambda store: store.update("c1", status="second", labels={}), lambda state: state.status == "second"),
        (lambda store: store.end("c1", "done"), lambda state: said(state) == ["1", "3"]),
    ],
    ids=["add_turn", "amend_turn", "amend_last_turn", "record_interruption", "update", "update labels", "end"],
)
async def test_a_mutation_of_the_store_keeps_its_place_among_those_of_the_call(
    store: FlakyStore, mutate: Callable[[FlakyStore], Awaitable[int]], shows: Callable[[SessionState], bool]
) -> None:
    async with store.hold(SessionState("c1")) as call:
        store.fail("session.add_turn", AWAY, times=1)
        call.update(status="first")
        before = call.add_turn("user", "1")
        mutation = asyncio.ensure_future(mutate(store))
        await asyncio.sleep(0)
        after = call.add_turn("user", "3")
        version = await mutation
        assert (await before) < version
        assert version < (await after)
        assert shows(await store.load("c1"))


async def test_the_version_that_a_mutation_requires_is_that_of_its_place(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        call.add_turn("user", "1")
        assert await store.update("c1", call.version, status="active") == call.version
        call.add_turn("user", "2")
        assert await store.update("c1", call.version, status="on_hold", labels={"app": "x"}) == call.version
        call.add_turn("user", "3")
        with pytest.raises(ConflictError):
            await store.update("c1", call.version + 7, status="active")
        assert call.lost is None
    assert said(await store.load("c1")) == ["1", "2", "3"]


async def test_a_mutation_of_the_store_that_is_not_in_time_does_not_happen_later(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        store.fail("session.add_turn", AWAY, times=FOR_EVER)
        call.add_turn("user", "1")
        with pytest.raises(RequestTimeoutError, match="not sent"):
            await store.record_interruption("c1", timeout_s=0.02)
        cancelled = asyncio.ensure_future(store.end("c1"))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        store.fail("session.add_turn", AWAY, times=0)
        await call.add_turn("user", "2")
        await same(store, call)
    assert (store.asked["session.record_interruption"], store.asked["session.end"]) == (0, 1), "the block's own end"


async def test_a_mutation_of_the_store_in_the_calls_epoch_gets_the_one_of_a_new_claim(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        store.fail("session.add_turn", AWAY, times=1)
        call.add_turn("user", "1")
        turn = asyncio.ensure_future(store.add_turn("c1", "user", "2", epoch=call.epoch))
        await store.when_asked("session.add_turn", 1)
        assert call.epoch is not None
        await store.release("c1", call.epoch)
        call.reclaimed((await store.claim("c1")).epoch)
        await turn
        assert call.lost is None
    assert said(await store.load("c1")) == ["1", "2"]


async def test_a_mutation_in_another_epoch_does_not_wait(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        store.fail("session.add_turn", AWAY, times=FOR_EVER)
        call.add_turn("user", "1")
        assert call.epoch is not None
        with pytest.raises(FencedError):
            await store.end("c1", epoch=call.epoch - 1)
        assert call.lost is None
        store.fail("session.add_turn", AWAY, times=0)


# -- a state saved behind what is queued --


async def test_a_state_that_is_saved_has_its_queued_turns_once(store: FlakyStore) -> None:
    state = SessionState("c1")
    async with store.hold(state) as call:
        call.add_turn("user", "1")
        state.recovery_data = {"node": "menu"}
        version = await store.save(state)
        assert version == call.version
        store.fail("session.add_turn", AWAY, times=1)
        call.add_turn("user", "2")
        saved = asyncio.ensure_future(store.save(call.state, if_version=call.version))
        await store.when_asked("session.add_turn", 2)
        call.add_turn("user", "3")  # behind the save, so not in it, and not undone by it
        await saved
        await call.update(status="active")
        await same(store, call)
    record = await store.get("c1")
    assert said(record.state) == ["1", "2", "3"]
    assert (record.state.metrics.turn_count, record.state.recovery_data) == (3, {"node": "menu"})


async def test_another_state_that_is_saved_becomes_the_calls(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        call.add_turn("user", "1")
        other = SessionState("c1", status="active", history=[Turn("user", "other")])
        await store.save(other)
        assert said(call.state) == ["other"]
        await call.add_turn("user", "2")
        await same(store, call)
        with pytest.raises(ConflictError):
            await store.save(SessionState("c1"), if_version=7)
        assert said(call.state) == ["other", "2"]
        await same(store, call)


async def test_a_save_that_is_not_in_time_does_not_happen_later(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        store.fail("session.add_turn", AWAY, times=FOR_EVER)
        call.add_turn("user", "1")
        with pytest.raises(RequestTimeoutError, match="not saved"):
            await store.save(SessionState("c1", status="late"), timeout_s=0.02)
        cancelled = asyncio.ensure_future(store.save(SessionState("c1", status="late")))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert (call.state.status, said(call.state)) == ("active", ["1"])
        store.fail("session.add_turn", AWAY, times=0)
        await call.record_interruption()
        await same(store, call)
    assert store.asked["session.save"] == 1, "the one that created it"


async def test_a_save_carries_the_epoch(store: FlakyStore) -> None:
    other = store.worker("worker-2")
    with pytest.raises(FencedError):
        async with store.hold(SessionState("c1")) as call:
            await other.claim("c1", steal=True)
            with pytest.raises(FencedError):
                await store.save(call.state)
            assert isinstance(call.lost, FencedError)
