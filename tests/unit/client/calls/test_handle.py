from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import pytest

from callstate_client import (
    CallHandle,
    Clock,
    ConflictError,
    DocumentError,
    InvalidParamsError,
    MemoryStore,
    OverloadedError,
    SessionEndedError,
    SessionNotFoundError,
    SessionState,
    StoreClosedError,
    TooLargeError,
)
from callstate_client.calls.hold_rules import end_reason
from support.flaky import FlakyStore, PostingStore

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LONG = "x" * 65
WIDE = "ä" * 33


class Hangup(Exception):  # noqa: N818 - a worker's own
    def __init__(self, reason: str | None = None) -> None:
        super().__init__()
        if reason:
            self.reason = reason


class CallerHungUpDTMFError(Exception):
    pass


@pytest.fixture(params=[FlakyStore, PostingStore], ids=["awaited", "posted"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[FlakyStore]:
    async with request.param(Clock(START)) as store:
        yield store


async def same(store: MemoryStore, call: CallHandle) -> None:
    kept = await store.load(call.id)
    kept.updated_at = call.state.updated_at  # the store's own
    assert kept == call.state


# -- entering and leaving -------------------------------------------------------------------------------------


async def test_a_call_from_begin_to_end(store: FlakyStore) -> None:
    state = SessionState("c1", provider="sip", created_at=START)
    async with store.hold(state, labels={"app": "sales"}) as call:
        assert call.state == state
        assert (await store.get("c1")).labels == {"app": "sales"}
        call.add_turn("user", "hello", duration_ms=900, extra={"confidence": 0.9})
        call.add_turn("agent", "hi, how are", 500)
        call.amend_last_turn(content="hi", extra={"interrupted": True})
        call.record_interruption()
        version = await call.update(status="active", recovery_data={"node": "menu"}, from_="+1")
        assert call.version == version == (await store.get("c1")).version
        await same(store, call)
        assert [turn.content for turn in call.state.history] == ["hello", "hi"]
        assert call.state.metrics.turn_count == 2
    record = await store.get("c1")
    assert (record.state.status, record.ended_reason) == ("ended", "completed")
    await same(store, call)


async def test_nothing_waits_for_an_acknowledgement_and_turns_are_gathered(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        for n in range(50):
            call.add_turn("user", str(n))
        assert call.unacknowledged == 50
        assert len(call.state.history) == 50
        assert (await store.load("c1")).history == []
    assert [turn.content for turn in (await store.load("c1")).history] == [str(n) for n in range(50)]
    assert store.asked["session.add_turn"] == 1


async def test_an_end_of_ones_own_is_not_ended_again(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        await call.end("caller_hangup", detail={"cause": 16})
        call.add_turn("user", "a late transcript")
    record = await store.get("c1")
    assert (record.ended_reason, record.turn_count) == ("caller_hangup", 1)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Hangup(), "hangup"),
        (Hangup("caller_left"), "caller_left"),
        (CallerHungUpDTMFError(), "caller_hung_up_dtmf_error"),
    ],
)
async def test_an_exception_that_ends_the_call_goes_on(store: FlakyStore, error: Exception, reason: str) -> None:
    with pytest.raises(type(error)):
        async with store.hold(SessionState("c1"), end_on=(Hangup, CallerHungUpDTMFError)) as call:
            call.add_turn("user", "bye")
            raise error
    record = await store.get("c1")
    assert (record.state.status, record.ended_reason, record.turn_count) == ("ended", reason, 1)


def test_an_odd_reason_is_not_used() -> None:
    error = Hangup()
    error.reason = 7  # type: ignore[assignment]
    assert end_reason(error) == "hangup"


async def test_any_other_exception_releases(store: FlakyStore) -> None:
    with pytest.raises(ValueError, match="mine"):
        async with store.hold(SessionState("c1"), end_on=[Hangup]) as call:
            call.add_turn("user", "wait")
            raise ValueError("mine")
    record = await store.get("c1")
    assert (record.state.status, record.turn_count) == ("active", 1)


async def test_cancellation_releases(store: FlakyStore) -> None:
    held = asyncio.Event()

    async def work() -> None:
        async with store.hold(SessionState("c1")) as call:
            call.add_turn("user", "wait")
            held.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    record = await store.get("c1")
    assert (record.state.status, record.turn_count) == ("active", 1)


async def test_a_released_call_is_not_ended_and_takes_no_more(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        call.add_turn("user", "x")
        await call.release()
        for more in (
            lambda: call.add_turn("user", "y"),
            lambda: call.amend_last_turn(content="y"),
            call.record_interruption,
            lambda: call.update(status="y"),
            call.end,
        ):
            with pytest.raises(StoreClosedError):
                more()
        assert [turn.content for turn in call.state.history] == ["x"]
        assert not call.ended
    record = await store.get("c1")
    assert (record.state.status, record.turn_count) == ("active", 1)


async def test_a_session_that_is_there_is_not_created(store: FlakyStore) -> None:
    await store.save(SessionState("c1"))
    with pytest.raises(ConflictError):
        await store.hold(SessionState("c1")).__aenter__()


async def test_an_existing_session_is_continued(store: FlakyStore) -> None:
    await store.save(SessionState("c1", status="active"))
    await store.add_turn("c1", "user", "before")
    async with store.hold("c1") as call:
        assert [turn.content for turn in call.state.history] == ["before"]
        await call.add_turn("agent", "after")
        await same(store, call)
    assert (await store.get("c1")).ended_reason == "completed"


async def test_sessions_that_can_not_be_continued(store: FlakyStore) -> None:
    with pytest.raises(SessionNotFoundError):
        await store.hold("c1").__aenter__()
    await store.save(SessionState("c1"))
    await store.end("c1", "caller_hangup")
    with pytest.raises(SessionEndedError) as caught:
        await store.hold("c1").__aenter__()
    assert caught.value.reason == "caller_hangup"


def test_contradictory_arguments_are_refused() -> None:
    store = MemoryStore()
    for wrong in ({"labels": {}}, {"beat": "sometimes"}, {"watchdog_s": 0}, {"watchdog_s": float("nan")}):
        with pytest.raises(ValueError):  # noqa: PT011 - whichever of the four
            store.hold("c1", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["heartbeat_timeout_s", "max_duration_s"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -1, True, "5", 1e12])
async def test_timeouts_out_of_bounds_are_refused_before_anything_is_sent(
    store: FlakyStore, name: str, value: Any
) -> None:
    """NaN and infinity would be sent as null: no timeout at all."""
    state = SessionState("c1", created_at=START)
    options: dict[str, Any] = {name: value}
    for call in (state, "c1"):
        with pytest.raises(InvalidParamsError, match=name):
            store.hold(call, **options)
    with pytest.raises(InvalidParamsError, match=name):
        await store.save(state, **options)
    assert not store.asked


@pytest.mark.parametrize("labels", [{"a": 1}, {LONG: "a"}, {str(n): "" for n in range(17)}, {"a": "\ud800"}])
async def test_labels_out_of_bounds_are_refused_before_anything_is_sent(store: FlakyStore, labels: Any) -> None:
    with pytest.raises(InvalidParamsError, match="labels"):
        store.hold(SessionState("c1"), labels=labels)
    with pytest.raises(InvalidParamsError, match="labels"):
        await store.save(SessionState("c1"), labels=labels)
    assert not store.asked


# -- what is refused at once, with the local view left as it was -----------------------------------------------


async def test_a_bad_mutation_is_refused_at_once(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1", created_at=START)) as call:
        before = call.state.copy()
        with pytest.raises(ConflictError):
            call.amend_last_turn(content="x")
        with pytest.raises(InvalidParamsError):
            call.update(history=[])  # pyright: ignore[reportCallIssue]
        with pytest.raises(DocumentError):
            call.update(status=7)
        with pytest.raises(DocumentError):
            call.add_turn("user", "x", extra={"odd": float("nan")})
        with pytest.raises(DocumentError):
            call.end(detail={"odd": object()})
        with pytest.raises(DocumentError):
            call.update(extra={5: "x"})
        with pytest.raises(DocumentError):
            call.add_turn("user", "x", extra={"odd": msgspec.Raw(b'{\n"a":1}')})
        itself: dict[str, Any] = {}
        itself["odd"] = itself
        with pytest.raises(DocumentError):
            call.add_turn("user", "x", extra=itself)
        with pytest.raises(TooLargeError):
            call.add_turn("user", "x" * 2_000_000)
        assert call.state == before
        assert call.unacknowledged == 0
        assert not call.ended


async def test_a_full_outbox_says_so_and_still_takes_an_end(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        store.fail("session.add_turn", OverloadedError("not now"), times=1)
        for n in range(1000):
            call.add_turn("user", str(n))
        for more in (lambda: call.add_turn("user", "x"), call.record_interruption, lambda: call.update(status="x")):
            with pytest.raises(OverloadedError, match="1000"):
                more()
        assert len(call.state.history) == 1000
        call.end("done")
    record = await store.get("c1")
    assert (record.turn_count, record.ended_reason) == (1000, "done")


async def test_an_outbox_has_a_bound_in_bytes(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        for _ in range(5):
            call.add_turn("user", "x" * 200_000)
        with pytest.raises(OverloadedError):
            call.add_turn("user", "x" * 200_000)
        await call.update(status="active")  # and all before it
        await call.add_turn("user", "x" * 200_000)
    assert (await store.get("c1")).turn_count == 6


# -- trouble ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("applied", [False, True])
async def test_transient_failures_are_retried_and_take_effect_once(store: FlakyStore, applied: bool) -> None:
    async with store.hold(SessionState("c1")) as call:
        for method in ("session.add_turn", "session.amend_turn", "session.record_interruption", "session.update"):
            store.fail(method, OverloadedError("not now"), times=2, applied=applied)
        call.add_turn("user", "one")
        call.add_turn("user", "two")
        call.amend_last_turn(content="2")
        call.record_interruption()
        await call.update(status="active")
        await call.add_turn("user", "three")
        await same(store, call)
    state = await store.load("c1")
    assert [turn.content for turn in state.history] == ["one", "2", "three"]
    assert state.metrics.interruption_count == 1


async def test_a_bad_turn_does_not_take_others_with_it(store: FlakyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callstate_client.requests.validation.SURELY_A_WORD", 1000)  # less strict than its daemon
    async with store.hold(SessionState("c1")) as call:
        good, bad, also_good = (call.add_turn(role, "x") for role in ("user", "r" * 65, "agent"))
        await good
        with pytest.raises(InvalidParamsError):
            await bad
        await also_good
        assert call.lost is None
    assert [turn.role for turn in (await store.load("c1")).history] == ["user", "agent"]


async def test_a_call_that_was_reaped_is_lost(store: FlakyStore) -> None:
    with pytest.raises(SessionEndedError) as caught:
        async with store.hold(SessionState("c1", created_at=START)) as call:
            store.clock.advance(100)
            first, second = call.add_turn("user", "x"), call.record_interruption()
            for refused in (first, second):
                with pytest.raises(SessionEndedError):
                    await refused
            assert isinstance(call.lost, SessionEndedError)
            call.add_turn("user", "nobody awaits this one")
            call.end()  # of a session that was reaped: a repeat, changes nothing
            await call.record_interruption()
    assert caught.value.reason == "heartbeat_timeout"


async def test_leaving_tells_of_an_end_that_was_refused(store: FlakyStore) -> None:
    with pytest.raises(SessionNotFoundError):
        async with store.hold(SessionState("c1")):
            await store.delete("c1")


async def test_the_blocks_own_error_goes_before(store: FlakyStore) -> None:
    with pytest.raises(Hangup):
        async with store.hold(SessionState("c1"), end_on=(Hangup,)):
            await store.delete("c1")
            raise Hangup


async def test_a_store_closed_under_a_call(store: FlakyStore) -> None:
    with pytest.raises(StoreClosedError):
        async with store.hold(SessionState("c1")) as call:
            await store.close()
            with pytest.raises(StoreClosedError):
                await call.add_turn("user", "x")
            assert isinstance(call.lost, StoreClosedError)


# -- beats --------------------------------------------------------------------------------------------------------


async def test_beats_come_by_themselves(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1", created_at=START), heartbeat_timeout_s=0.03):
        await store.when_asked("session.heartbeat", 3)
        assert await store.list_active() == ["c1"]


async def test_beats_stop_with_the_call(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1"), heartbeat_timeout_s=0.03):
        pass
    async with store.hold(SessionState("c2"), heartbeat_timeout_s=0.03) as call:
        await call.release()
    beats = store.asked["session.heartbeat"]
    async with store.hold(SessionState("c3"), heartbeat_timeout_s=0.03):
        await store.when_asked("session.heartbeat", beats + 4)
    assert set(store.heartbeat_ids[beats:]) == {"c3"}


async def test_a_beat_that_is_refused_loses_the_call(store: FlakyStore) -> None:
    store.fail("session.heartbeat", SessionNotFoundError("gone"), times=1)
    async with store.hold(SessionState("c1"), heartbeat_timeout_s=0.03) as call:
        async with asyncio.timeout(10):
            assert isinstance(await call.wait_lost(), SessionNotFoundError)
        assert store.asked["session.heartbeat"] == 1


async def test_manual_beats(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1", created_at=START), heartbeat_timeout_s=20, beat="manual") as call:
        store.clock.advance(15)
        await call.beat()
        store.clock.advance(15)
        assert (await store.stats())["suspects"] == 0
        store.clock.advance(60)
        with pytest.raises(SessionEndedError):
            await call.beat()
        assert isinstance(call.lost, SessionEndedError)
        assert store.asked["session.heartbeat"] == 2


async def test_a_repr_shows_no_text_of_the_call(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1", from_="+1555")) as call:
        call.add_turn("user", "secret")
        assert "secret" not in repr(call)
        assert "555" not in repr(call)
        assert "c1" in repr(call)


def on_store(store: FlakyStore, name: str, *args: Any, **named: Any) -> Any:
    return getattr(store, name)("c1", *args, **named)


def on_call(call: CallHandle, name: str, *args: Any, **named: Any) -> Any:
    return getattr(call, name)(*args, **named)


async def test_the_handle_sends_the_same_requests_as_the_store(store: FlakyStore) -> None:
    """The same mutations, through a handle and without one, come to the same state."""
    await store.save(SessionState("c1", created_at=START))
    changes: dict[str, Any] = {"status": "on_hold", "recovery_data": {"a": 1}, "extra": {"campaign": 7}}
    async with store.hold(SessionState("c2", created_at=START)) as call:
        for target in (partial(on_store, store), partial(on_call, call)):
            await target("add_turn", "user", "hello", 900, at=START, extra={"x": 1})
            await target("amend_last_turn", content="hell", duration_ms=700)
            await target("record_interruption")
            await target("update", **changes)
        one, two = await store.load("c1"), await store.load("c2")
        two.id = "c1"
        assert one == two


async def test_a_beat_that_may_mend_itself_is_tried_again(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1"), heartbeat_timeout_s=0.03) as call:
        store.fail("session.heartbeat", OverloadedError("not now"), times=2)
        await store.when_asked("session.heartbeat", 4)
        assert call.lost is None


# -- what can't be sent ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda call: call.add_turn(LONG, "hello"), "$.params.turn.role"),
        (lambda call: call.add_turn(WIDE, "hello"), "$.params.turn.role"),
        (lambda call: call.update(status=LONG), "$.params.set.status"),
        (lambda call: call.update(provider=WIDE), "$.params.set.provider"),
        (lambda call: call.update(direction=LONG), "$.params.set.direction"),
        (lambda call: call.update(call_id="x" * 1025), "$.params.set.call_id"),
        (lambda call: call.update(from_="ä" * 513), "$.params.set.from"),
        (lambda call: call.update(to="x" * 1025), "$.params.set.to"),
        (lambda call: call.update(labels={"a": 1}), "$.params.labels.a"),
        (lambda call: call.update(labels={"a": "\ud800"}), "$.params.labels.a"),
        (lambda call: call.update(labels={LONG: "a"}), f"$.params.labels.{LONG}"),
        (lambda call: call.update(labels={"a": "x" * 257}), "$.params.labels.a"),
        (lambda call: call.update(labels={str(n): "" for n in range(17)}), "$.params.labels"),
        (lambda call: call.update(heartbeat_timeout_s=0), "$.params.heartbeat_timeout_s"),
        (lambda call: call.update(heartbeat_timeout_s=float("nan")), "$.params.heartbeat_timeout_s"),
        (lambda call: call.update(max_duration_s=-1), "$.params.max_duration_s"),
        (lambda call: call.update(max_duration_s="60"), "$.params.max_duration_s"),
        (lambda call: call.end(LONG), "$.params.reason"),
        (lambda call: call.end("hangup", "x" * 1023), "$.params.detail"),
    ],
)
async def test_values_out_of_bounds_raise_at_the_call(store: FlakyStore, change: Any, path: str) -> None:
    async with store.hold(SessionState("c1", provider="sip", created_at=START)) as call:
        await call.add_turn("user", "hello")
        before = call.state.to_json()
        with pytest.raises(InvalidParamsError) as refused:
            change(call)  # nobody awaits it
        assert refused.value.data["path"] == path
        assert call.state.to_json() == before
        assert call.unacknowledged == 0
        await call.end("hangup", "x" * 1022)
    assert (await store.get("c1")).ended_detail == "x" * 1022
