"""What a held call has queued: merged while it waits, and taken back if it is refused."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import pytest

from callstate_client import (
    ConflictError,
    FencedError,
    InvalidParamsError,
    SessionEndedError,
    SessionMetrics,
    SessionNotFoundError,
    SessionState,
    TooLargeError,
    Turn,
)
from callstate_client.engine.limits import DefaultLimits
from support.flaky import AWAY, FlakyStore, said, same

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

# -- what is refused is taken back --


async def test_a_refused_turn_leaves_the_state_and_the_call_goes_on(
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
        assert (call.state.status, call.state.recovery_data) == ("active", None)
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


async def test_queued_turns_of_a_lost_call_are_withdrawn_and_reported_once(
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


async def test_requests_that_must_not_be_gathered_are_sent_apart(store: FlakyStore) -> None:
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
                refused = call.add_turn("user", f"{n:06}" + "y" * 2000, at=NOON)  # each as long as the others
                if n % 500 == 0 or n == 13_999:
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


async def test_a_turn_with_too_many_values_does_not_make_a_session_full(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        with pytest.raises(TooLargeError, match="objects, arrays and members") as refused:
            await call.add_turn("user", "1", extra={"odd": [{}] * 10_001})
        assert refused.value.path == "$.params.turns"
        assert call.full is None
        await call.add_turn("user", "x" * 100_000)
        await same(store, call)


async def test_a_missing_session_is_not_waited_for(store: FlakyStore) -> None:
    with pytest.raises(SessionNotFoundError):
        async with store.hold(SessionState("c1")) as call:
            await store.delete("c1")
            call.add_turn("user", "1")
    assert said(call.state) == []
