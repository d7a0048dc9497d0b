"""What a held call has queued: delivered, taken back, or said to be lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from callstate_client import (
    CallHandle,
    Clock,
    ConflictError,
    ConnectionLostError,
    FencedError,
    InvalidParamsError,
    NoDaemonError,
    RequestTimeoutError,
    SessionEndedError,
    SessionMetrics,
    SessionNotFoundError,
    SessionState,
    StoreClosedError,
    TooLargeError,
    Turn,
    UndeliveredError,
)
from callstate_client.engine.limits import DefaultLimits
from support.flaky import FlakyStore

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
AWAY = NoDaemonError("there is no daemon")
FOR_EVER = 10**9


@pytest.fixture
async def store() -> AsyncIterator[FlakyStore]:
    async with FlakyStore(Clock(START)) as store:
        yield store


async def same(store: FlakyStore, call: CallHandle) -> None:
    kept = await store.load(call.id)
    kept.updated_at = call.state.updated_at  # the store's own
    assert kept == call.state


def said(state: SessionState) -> list[str]:
    return [turn.content for turn in state.history]


def delivering() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("callstate-outbox")]


# -- cancellation --


async def test_what_is_under_way_when_its_task_is_cancelled_happens_once(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        store.fail("session.add_turn", ConnectionLostError("lost"), times=1, applied=True)
        first = call.add_turn("user", "1")
        await store.when_asked("session.add_turn", 1)
        (task,) = delivering()
        task.cancel()
        await asyncio.wait({task})
        assert not first.done()
        await call.add_turn("user", "2")
        assert first.done()
    assert said(await store.load("c1")) == ["1", "2"]


async def test_who_awaits_an_acknowledgement_gets_it_though_the_task_was_cancelled(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        store.fail("session.add_turn", AWAY, times=1)

        async def say() -> int:
            return await call.add_turn("user", "1")

        waits = asyncio.ensure_future(say())
        await store.when_asked("session.add_turn", 1)
        (task,) = delivering()
        task.cancel()
        assert await waits == call.version


async def leave_while_away(store: FlakyStore, left: asyncio.Event) -> None:
    async with store.hold(SessionState("c1")) as call:
        store.fail("session.add_turn", AWAY, times=FOR_EVER)
        call.add_turn("user", "1")
        left.set()


async def test_the_first_cancellation_waits_for_the_delivery(store: FlakyStore) -> None:
    left = asyncio.Event()
    task = asyncio.ensure_future(leave_while_away(store, left))
    await left.wait()
    await store.when_asked("session.add_turn", 1)
    task.cancel()
    await store.when_asked("session.add_turn", 2)
    assert not task.done()
    store.fail("session.add_turn", AWAY, times=0)
    with pytest.raises(asyncio.CancelledError):
        await task
    record = await store.get("c1")
    assert (record.turn_count, record.ended_reason) == (1, "completed")


async def test_the_second_cancellation_does_not_and_delivery_goes_on(
    store: FlakyStore, caplog: pytest.LogCaptureFixture
) -> None:
    left = asyncio.Event()
    task = asyncio.ensure_future(leave_while_away(store, left))
    await left.wait()
    await store.when_asked("session.add_turn", 1)
    for times in (2, 3):
        task.cancel()
        await store.when_asked("session.add_turn", times)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "2 never sent" in caplog.text
    store.fail("session.add_turn", AWAY, times=0)
    await asyncio.wait(delivering())
    record = await store.get("c1")
    assert (record.turn_count, record.ended_reason) == (1, "completed")


# -- not in time --


async def test_what_a_call_left_with_is_delivered_in_the_background(
    store: FlakyStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.close_timeout_s = 0.05
    store.fail("session.add_turn", AWAY, times=FOR_EVER)
    with pytest.raises(UndeliveredError, match="there is no daemon") as caught:
        async with store.hold(SessionState("c1")) as call:
            call.add_turn("user", "1")
            call.add_turn("user", "2")
            call.record_interruption()
    assert (caught.value.unsent, caught.value.unknown, caught.value.going_on) == ({"c1": 4}, {}, True)
    assert len([record for record in caplog.records if "not acknowledged" in record.getMessage()]) == 1
    store.fail("session.add_turn", AWAY, times=0)
    await asyncio.wait(delivering())
    record = await store.get("c1")
    assert (said(record.state), record.ended_reason) == (["1", "2"], "completed")
    assert not store._held.undelivered


@pytest.mark.parametrize(
    ("failure", "unsent", "unknown"),
    [(AWAY, 3, 0), (ConnectionLostError("gone"), 1, 2), (RequestTimeoutError("late"), 1, 2)],
    ids=["never sent", "lost", "late"],
)
async def test_what_is_sent_and_not_answered_is_not_said_to_be_refused(
    caplog: pytest.LogCaptureFixture, failure: Any, unsent: int, unknown: int
) -> None:
    store = FlakyStore(Clock(START))
    store.close_timeout_s = 0.05
    call = await store.hold(SessionState("c1")).__aenter__()
    store.fail("session.add_turn", failure, times=FOR_EVER, applied=failure is not AWAY)
    first, second = call.add_turn("user", "1"), call.add_turn("user", "2")
    call.update(status="active")
    with pytest.raises(UndeliveredError) as caught:
        await store.close()
    assert caught.value.unsent == {"c1": unsent}
    assert caught.value.unknown == ({"c1": unknown} if unknown else {})
    assert "refused" not in caplog.text
    assert ("outcome unknown" in caplog.text) is bool(unknown)
    for queued in (first, second):
        with pytest.raises(UndeliveredError):
            await queued
    assert not delivering()


async def test_closing_delivers_what_all_calls_have_and_releases_them(store: FlakyStore) -> None:
    other = store.worker("worker-2")
    calls = [await store.hold(SessionState(f"c{n}")).__aenter__() for n in range(3)]
    for call in calls:
        call.add_turn("user", "1")
    calls[1].end("hung_up")
    await store.close()
    records = [await other.get(f"c{n}") for n in range(3)]
    assert [record.turn_count for record in records] == [1, 1, 1]
    assert [record.ended_reason for record in records] == [None, "hung_up", None]
    assert {records[0].owner, records[2].owner} == {None}
    assert isinstance(calls[0].lost, StoreClosedError)
    with pytest.raises(StoreClosedError):
        await calls[0].leave(None)
    await calls[1].leave(None)


async def test_closing_tells_of_each_call_once(caplog: pytest.LogCaptureFixture) -> None:
    store = FlakyStore(Clock(START))
    store.close_timeout_s = 0.05
    calls = [await store.hold(SessionState(f"c{n}")).__aenter__() for n in range(3)]
    store.fail("session.add_turn", AWAY, times=FOR_EVER)
    for call in calls:
        for n in range(5):
            call.add_turn("user", str(n))
    with pytest.raises(UndeliveredError, match="3 calls") as caught:
        await store.close()
    assert caught.value.unsent == {"c0": 5, "c1": 5, "c2": 5}
    told = [record.getMessage() for record in caplog.records if "not acknowledged" in record.getMessage()]
    assert len(told) == 3
    assert store.closed


async def test_the_error_of_the_stores_block_goes_before(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="mine"):
        async with FlakyStore(Clock(START)) as store:
            store.close_timeout_s = 0.05
            call = await store.hold(SessionState("c1")).__aenter__()
            store.fail("session.add_turn", AWAY, times=FOR_EVER)
            call.add_turn("user", "1")
            raise ValueError("mine")
    assert "1 never sent" in caplog.text


# -- what is refused is taken back --


async def test_what_was_refused_is_not_in_the_state_and_the_call_goes_on(
    store: FlakyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "callstate_client.requests.validation.SURELY_A_WORD", 1000
    )  # a client that is less strict than its
    monkeypatch.setattr("callstate_client.requests.patches._WORDS", frozenset())  # daemon
    state = SessionState("c1", history=[Turn("agent", "hello")], metrics=SessionMetrics(turn_count=1))
    async with store.hold(state) as call:
        call.add_turn("user", "before", 100)
        bad = call.add_turn("u" * 65, "refused", 100)
        amended = call.amend_last_turn(content="of what was refused")
        call.add_turn("user", "after", 100)
        call.amend_last_turn(content="AFTER")
        wrong = call.update(status="s" * 65, recovery_data={"a": 1})
        call.record_interruption()
        await call.update(direction="inbound")
        for refused in (bad, amended, wrong):
            with pytest.raises(InvalidParamsError):
                await refused
        assert call.lost is None
        assert said(call.state) == ["hello", "before", "AFTER"]
        assert call.state.metrics.user_speech_duration_ms == 200
        assert (call.state.status, call.state.recovery_data) == ("pending", None)
        await same(store, call)
        await call.amend_last_turn(content="again")
        await store.save(call.state)
        await same(store, call)
    assert (await store.get("c1")).ended_reason == "completed"


async def test_a_refused_amendment_is_taken_back(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        turn = call.add_turn("agent", "as it was", extra={"a": 1})
        await turn
        store.fail("session.amend_turn", ConflictError("no such turn"), times=1)
        refused = turn.amend(content="refused", extra={"a": 2})
        after = call.update(status="active")
        with pytest.raises(ConflictError):
            await refused
        await after
        assert (turn.turn.content, turn.turn.extra) == ("as it was", {"a": 1})
        assert call.state.history[0] is turn.turn
        await turn.amend(content="taken")
        await same(store, call)


async def test_a_refused_end_leaves_the_call_held(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1", status="active")) as call:
        store.fail("session.end", InvalidParamsError("not so"), times=1)
        with pytest.raises(InvalidParamsError):
            await call.end("hung_up")
        assert (call.ended, call.state.status) == (False, "active")
        await call.add_turn("user", "still here")
    assert (await store.get("c1")).ended_reason == "completed"


async def test_what_a_lost_call_had_queued_is_taken_back_and_said_once(
    store: FlakyStore, caplog: pytest.LogCaptureFixture
) -> None:
    other = store.worker("worker-2")
    with pytest.raises(FencedError):
        async with store.hold(SessionState("c1")) as call:
            await call.add_turn("user", "mine")
            await other.claim("c1", steal=True)
            with caplog.at_level(logging.WARNING):
                for n in range(100):
                    refused = call.add_turn("user", str(n))
                with pytest.raises(FencedError):
                    await refused
                for n in range(1000):
                    call.add_turn("user", str(n))
                    call.amend_last_turn(content="x")
            assert len(caplog.records) == 2, "what was refused, and that the call is lost"
            assert isinstance(call.lost, FencedError)
            assert said(call.state) == ["mine"]
            assert call.unacknowledged == 0


async def test_an_ended_call_refuses_another_status_and_takes_late_turns(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        await call.end("hung_up")
        store.fail("session.update", SessionEndedError("over", reason="hung_up"), times=1)
        refused = call.update(status="active")
        late = call.add_turn("user", "late")
        with pytest.raises(SessionEndedError):
            await refused
        await late
    assert said(await store.load("c1")) == ["late"]


# -- what becomes one while it waits --


async def test_partials_do_not_fill_the_outbox(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        await call.add_turn("agent", "")
        store.fail("session.amend_turn", AWAY, times=1)
        store.fail("session.update", AWAY, times=1)
        queued = []
        for n in range(3000):
            queued.append(call.amend_last_turn(content=f"word {n}", extra={"n": n}))
            queued.append(call.update(recovery_data={"node": n, f"only {n % 3}": n}))
            if n == 0:
                await store.when_asked("session.amend_turn", 1)
        assert call.unacknowledged <= 4
        versions = [await mutation for mutation in queued]
        for each in (versions[::2], versions[1::2]):
            assert each == sorted(each)
        assert said(call.state) == ["word 2999"]
        assert store.asked["session.amend_turn"] <= 4
        await same(store, call)
        assert call.state.recovery_data == {"node": 2999, "only 0": 2997, "only 1": 2998, "only 2": 2999}


async def test_what_must_stay_apart_does(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1", recovery_data={"old": 1})) as call:
        first, second = call.add_turn("agent", "one"), call.add_turn("agent", "two")
        await second
        store.fail("session.record_interruption", AWAY, times=1)
        call.record_interruption()
        call.amend_last_turn(content="2")
        first.amend(content="1")
        call.amend_last_turn(content="II")
        call.update(recovery_data=None)
        call.update(recovery_data={"new": 1})  # not into the one before: an object would patch what was there
        call.update(metrics={"interruption_count": 5})
        call.record_interruption()
        call.add_turn("agent", "three")
        await call.amend_last_turn(content="3")
        assert said(call.state) == ["1", "II", "3"]
        assert call.state.recovery_data == {"new": 1}
        assert call.state.metrics.interruption_count == 6
        await same(store, call)


async def test_an_update_that_is_an_action_is_not_overtaken_by_a_later_one(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        store.fail("session.add_turn", AWAY, times=1)
        call.add_turn("user", "1")
        call.update(status="first")
        call.update(status="second", labels={"app": "x"})  # takes a read and a write: no patch absorbs it
        await call.update(status="third")
        await same(store, call)
        assert call.state.status == "third"


# -- the store's own mutations, behind what is queued --


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
        assert (call.state.status, said(call.state)) == ("pending", ["1"])
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


# -- a session that is full --


async def test_a_full_session_says_so_once_and_can_be_made_smaller(
    store: FlakyStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store._sessions.engine.ctx, "limits", DefaultLimits(session_bytes=4000))
    told = store.events("session.full", "ended")
    async with store.hold(SessionState("c1")) as call:
        long = call.add_turn("user", "x" * 2000)
        await long
        assert call.full is None
        with caplog.at_level(logging.WARNING):
            for n in range(14_000):
                refused = call.add_turn("user", f"{n:06}" + "y" * 2000)
                if n % 500 == 0 or n == 13_999:  # a timestamp may be shorter than any before, and is worth a try
                    with pytest.raises(TooLargeError):
                        await refused
        messages = [record.getMessage() for record in caplog.records]
        assert ["1 mutations of c1 were refused" in message for message in messages] == [True], messages
        assert isinstance(call.full, TooLargeError)
        assert call.lost is None
        assert len(said(call.state)) == 1
        assert store.asked["session.add_turn"] < 10
        await call.add_turn("user", "a short one still fits")
        await long.amend(content="shorter")
        assert call.full is None
        await call.add_turn("user", "y" * 2000)
        await same(store, call)
    assert [(await anext(told)).type for _ in range(2)] == ["session.full", "ended"]


async def test_a_session_that_is_gone_is_not_waited_for(store: FlakyStore) -> None:
    with pytest.raises(SessionNotFoundError):
        async with store.hold(SessionState("c1")) as call:
            await store.delete("c1")
            call.add_turn("user", "1")
    assert said(call.state) == []
