"""`recover()`: the calls of workers that are gone, claimed one by one, now and as they come."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from itertools import count, pairwise
from typing import Any

import pytest

from callstate_client import (
    CallHandle,
    Clock,
    FencedError,
    ForbiddenError,
    MemoryStore,
    OverloadedError,
    SessionState,
)
from callstate_client.calls.recovery import retries
from callstate_client.calls.recovery.orphan_events import OrphanEvents
from callstate_client.calls.recovery.recovery import Recovery
from callstate_client.transport.backoff import Delays
from support.flaky import FOR_EVER, FlakyStore, PostingStore

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SALES, HELP = {"app": "sales"}, {"app": "help"}


@pytest.fixture
async def store() -> AsyncIterator[FlakyStore]:
    """The worker that recovers."""
    async with FlakyStore(Clock(START), worker_id="w1") as store:
        yield store


@pytest.fixture
def gone(store: FlakyStore) -> MemoryStore:
    """The worker that had the calls."""
    return store.worker("gone")


async def save(store: MemoryStore, *session_ids: str, labels: dict[str, str] | None = None) -> None:
    for session_id in session_ids:
        await store.save(SessionState(session_id, status="active", created_at=START), labels=labels)


def soon(calls: AsyncGenerator[CallHandle, None]) -> asyncio.Task[CallHandle]:
    return asyncio.ensure_future(anext(calls))  # type: ignore[arg-type]


async def until_it_waits(store: FlakyStore, times: int) -> None:
    """Return when it has asked so often in all, and waits for an event."""
    await store.when_asked("session.claim_next", times)
    for _ in range(3):
        await asyncio.sleep(0)


# -- what there is now ------------------------------------------------------------------------------------------


async def test_an_abandoned_call_comes_with_its_whole_history(store: FlakyStore, gone: MemoryStore) -> None:
    await save(gone, "released", "suspect", "ended", "left")
    await gone.add_turn("released", "user", "hello?")
    await gone.release("released", 0)
    await gone.end("ended")
    gone.kill_worker()
    found = [call async for call in store.recover()]
    assert [(call.id, call.epoch) for call in found] == [("released", 1), ("suspect", 1), ("left", 1)]
    assert [turn.content for turn in found[0].state.history] == ["hello?"]
    async with found[0] as call:
        await call.add_turn("agent", "I am back.")
    record = await store.get("released")
    assert (record.ended_reason, record.owner, record.turn_count) == ("completed", "w1", 2)
    with pytest.raises(ZeroDivisionError):
        async with found[1]:
            raise ZeroDivisionError
    assert (await store.get("suspect")).owner is None, "released again"


async def test_only_what_has_all_the_labels(store: FlakyStore, gone: MemoryStore) -> None:
    await save(gone, "c1", labels=SALES | {"lang": "en"})
    await save(gone, "c2", labels=HELP)
    await save(gone, "c3", labels=SALES)
    gone.kill_worker()
    assert [call.id async for call in store.recover(labels=SALES)] == ["c1", "c3"]
    assert (await store.get("c2")).owner == "gone"


async def test_an_iteration_that_stops_claims_no_more(store: FlakyStore, gone: MemoryStore) -> None:
    await save(gone, "c1", "c2")
    gone.kill_worker()
    async with aclosing(store.recover()) as calls:
        async for call in calls:
            assert call.id == "c1"
            break
    assert (await store.get("c2")).owner == "gone"
    assert [call.id async for call in store.recover()] == ["c2"]


async def test_recovered_calls_get_heartbeats(store: FlakyStore, gone: MemoryStore) -> None:
    await gone.save(SessionState("c1", status="active", created_at=START), heartbeat_timeout_s=0.03)
    gone.kill_worker()
    async for call in store.recover():
        async with call:
            await store.when_asked("session.heartbeat", 3)
    assert set(store.heartbeat_ids) == {"c1"}


async def test_two_workers_get_different_calls(store: FlakyStore, gone: MemoryStore) -> None:
    other = store.worker("w2")
    names = [f"c{n}" for n in range(10)]
    await save(gone, *names)
    gone.kill_worker()
    found: list[CallHandle] = []  # one that is dropped is released, and may be found again

    async def recover(who: MemoryStore) -> None:
        async for call in who.recover():
            found.append(call)
            await asyncio.sleep(0)

    await asyncio.gather(recover(store), recover(other))
    assert sorted(call.id for call in found) == names


# -- what comes -------------------------------------------------------------------------------------------------


async def test_watching_yields_calls_as_they_become_available(store: FlakyStore, gone: MemoryStore) -> None:
    await save(gone, "was-there", "is-released", "falls-silent", "is-left")
    await gone.release("was-there", 0)
    async with aclosing(store.recover(watch=True)) as calls:
        assert (await anext(calls)).id == "was-there"
        for asked, (session_id, happens) in enumerate(
            {
                "is-released": lambda: gone.release("is-released", 0),
                "falls-silent": lambda: in_time(store, gone),
                "is-left": lambda: left(store, gone),
            }.items()
        ):
            call = soon(calls)
            await until_it_waits(store, 2 * (asked + 1))
            assert not call.done()
            await happens()
            async with await call as held:  # and ended, so that nothing else happens to it
                assert held.id == session_id


async def in_time(store: FlakyStore, gone: MemoryStore) -> None:
    await gone.save(SessionState("falls-silent", status="active", created_at=START), heartbeat_timeout_s=5)
    store.clock.advance(6)


async def left(store: FlakyStore, gone: MemoryStore) -> None:
    await gone.close()
    store.clock.advance(6)


async def test_calls_with_other_labels_are_skipped(store: FlakyStore, gone: MemoryStore) -> None:
    await save(gone, "c1", labels=HELP)
    await save(gone, "c2", labels=SALES)
    async with aclosing(store.recover(SALES, watch=True)) as calls:
        call = soon(calls)
        await until_it_waits(store, 1)
        await gone.release("c1", 0)
        await gone.release("c2", 0)
        assert (await call).id == "c2"
        assert store.asked["session.claim_next"] == 2, "not for the other labels"
    assert (await store.get("c1")).owner is None


async def test_watching_ends_with_the_store(store: FlakyStore) -> None:
    calls = store.recover(watch=True)
    call = soon(calls)
    await until_it_waits(store, 1)
    await store.close()
    with pytest.raises(StopAsyncIteration):
        await call


async def test_watching_goes_on_when_the_daemon_is_busy(store: FlakyStore, gone: MemoryStore) -> None:
    await save(gone, "c1")
    await gone.release("c1", 0)
    store.fail("session.claim_next", OverloadedError("not now"), times=2)
    async with aclosing(store.recover(watch=True)) as calls:
        assert (await anext(calls)).id == "c1"
    assert store.asked["session.claim_next"] == 3


@pytest.mark.parametrize("watch", [True, False])
async def test_errors_that_a_retry_can_not_fix_are_raised(store: FlakyStore, watch: bool) -> None:
    store.fail("session.claim_next", ForbiddenError("no"), times=1)
    with pytest.raises(ForbiddenError):
        await anext(store.recover(watch=watch))


async def test_without_watch_a_busy_daemon_is_an_error(store: FlakyStore) -> None:
    store.fail("session.claim_next", OverloadedError("not now"), times=1)
    with pytest.raises(OverloadedError):
        await anext(store.recover())


# -- one's own --------------------------------------------------------------------------------------------------


async def test_ones_own_call_that_was_silent_is_not_given_twice(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1", status="active", created_at=START), beat="manual") as call:
        store.clock.advance(31)
        assert (await store.stats())["suspects"] == 1
        assert [found async for found in store.recover()] == []
        assert (await store.stats())["suspects"] == 0
        assert (call.epoch, call.lost) == (0, None)


async def test_ones_own_call_that_was_an_orphan_goes_on_in_its_new_epoch(store: FlakyStore) -> None:
    """As when the worker was away for longer than its grace: nobody else has claimed what it holds."""
    async with store.hold(SessionState("c1", status="active", created_at=START), beat="manual") as call:
        store.fail("session.add_turn", OverloadedError("not now"), times=FOR_EVER)
        waiting = call.add_turn("user", "said before")
        await store.when_asked("session.add_turn", 1)
        await store.release("c1", 0)
        assert [found async for found in store.recover()] == []
        store.fail("session.add_turn", OverloadedError("not now"), times=0)
        assert (call.epoch, (await store.get("c1")).owner) == (1, "w1")
        await waiting
        await call.update(status="on_hold")
        assert call.lost is None
    record = await store.get("c1")
    assert (record.ended_reason, record.epoch, record.turn_count) == ("completed", 1, 1)


class Away(FlakyStore):
    """The session is an orphan, and claimed again, while a turn is under way."""

    async def request(self, method: str, params: Any = None, **options: Any) -> bytes:
        if method == "session.add_turn" and not self.asked[method]:
            epoch = params.epoch
            await self.release("c1", epoch)
            assert [found async for found in self.recover()] == []
            params.epoch = epoch  # as it was sent
        return await super().request(method, params, **options)


async def test_a_turn_in_flight_is_accepted_in_the_new_epoch(store: FlakyStore) -> None:
    async with Away(Clock(START), worker_id="w1") as away:
        async with away.hold(SessionState("c1", status="active", created_at=START), beat="manual") as call:
            await call.add_turn("user", "said before")
            assert (call.epoch, call.lost) == (1, None)
        assert (away.asked["session.add_turn"], (await away.get("c1")).turn_count) == (2, 1)


class Held(FlakyStore):
    """Whose replies to claims wait."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.claimed, self.gate = asyncio.Event(), asyncio.Event()

    async def request(self, method: str, params: Any = None, **options: Any) -> bytes:
        reply = await super().request(method, params, **options)
        if method == "session.claim_next":
            self.claimed.set()
            await self.gate.wait()
        return reply


class HeldAndPosting(Held, PostingStore):
    """The same, and requests are posted."""


@pytest.mark.parametrize("kind", [Held, HeldAndPosting])
@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_turn_that_ones_own_claim_has_fenced_waits_for_the_new_epoch(
    kind: type[Held], cancelled: bool
) -> None:
    """The reply to the claim is on its way, or its task has not run yet."""
    async with kind(Clock(START), worker_id="w1") as store:
        async with store.hold(SessionState("c1", status="active", created_at=START), beat="manual") as call:
            await store.release("c1", 0)
            recovering = soon(store.recover())
            await store.claimed.wait()
            waiting = call.add_turn("user", "said meanwhile")
            await store.when_asked("session.add_turn", 1)
            if cancelled:
                recovering.cancel()
            store.gate.set()
            await waiting
            with pytest.raises(asyncio.CancelledError if cancelled else StopAsyncIteration):
                await recovering
            assert (call.epoch, call.lost) == (1, None)
        record = await store.get("c1")
        assert (record.ended_reason, record.turn_count) == ("completed", 1)


@pytest.mark.parametrize("kind", [Held, HeldAndPosting])
async def test_anothers_claim_is_no_claim_of_ones_own(kind: type[Held]) -> None:
    async with kind(Clock(START), worker_id="w1") as store:
        other = store.worker("w2")
        await save(other, "c2")
        await other.release("c2", 0)
        hold = store.hold(SessionState("c1", status="active", created_at=START), beat="manual")
        call = await hold.__aenter__()
        recovering = soon(store.recover())
        await store.claimed.wait()
        await other.claim("c1", steal=True)
        with pytest.raises(FencedError):
            await call.add_turn("user", "too late")
        store.gate.set()
        await (await recovering).release()
        await hold.__aexit__(ValueError, ValueError(), None)


async def test_a_lost_call_that_becomes_claimable_is_recovered_again(store: FlakyStore, gone: MemoryStore) -> None:
    hold = store.hold(SessionState("c1", status="active", created_at=START), beat="manual")
    lost = await hold.__aenter__()
    await gone.claim("c1", steal=True)
    with pytest.raises(FencedError):
        await lost.beat()
    gone.kill_worker()
    (call,) = [found async for found in store.recover()]
    assert call is not lost
    async with call:
        await call.add_turn("agent", "again")
    error = ValueError()
    await hold.__aexit__(ValueError, error, None)
    assert (await store.get("c1")).epoch == 2


# -- in tasks of their own ----------------------------------------------------------------------------------------


async def test_handlers_run_at_once_as_many_as_may(store: FlakyStore, gone: MemoryStore) -> None:
    await save(gone, *(f"c{n}" for n in range(5)))
    gone.kill_worker()
    running, most, two = 0, 0, asyncio.Event()

    async def handler(call: CallHandle) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 2:
            two.set()
        await two.wait()
        await call.add_turn("agent", "I am back.")
        running -= 1

    await store.recover(handler, concurrency=2)
    assert most == 2
    for n in range(5):
        record = await store.get(f"c{n}")
        assert (record.ended_reason, record.turn_count) == ("completed", 1)


async def test_no_more_is_claimed_than_can_be_handled(store: FlakyStore, gone: MemoryStore) -> None:
    await save(gone, "c1", "c2")
    gone.kill_worker()
    begun = asyncio.Event()

    async def handler(call: CallHandle) -> None:
        begun.set()
        await asyncio.Event().wait()

    recovering = asyncio.ensure_future(store.recover(handler, concurrency=1, watch=True))
    await begun.wait()
    assert [(await store.get(name)).owner for name in ("c1", "c2")] == ["w1", "gone"]
    recovering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await recovering
    assert (await store.get("c1")).owner is None, "cancelled, it is for another worker"


@pytest.mark.parametrize("closes", [False, True])
async def test_a_run_that_is_at_its_limit_ends_when_the_worker_leaves(
    store: FlakyStore, gone: MemoryStore, monkeypatch: pytest.MonkeyPatch, closes: bool
) -> None:
    """It waits for a handler to end, with a claim that has succeeded behind it."""
    await save(gone, "c1", "c2")
    gone.kill_worker()
    claimable, runs = Recovery._claimable, count(1)

    def counted(recovery: Recovery, orphans: OrphanEvents | None) -> AsyncGenerator[CallHandle, None]:
        assert next(runs) < 10, "it claims for ever, without waiting for anything"
        return claimable(recovery, orphans)

    monkeypatch.setattr(Recovery, "_claimable", counted)
    begun = asyncio.Event()

    async def handler(call: CallHandle) -> None:
        begun.set()
        await call.wait_lost()

    recovering = asyncio.ensure_future(store.recover(handler, concurrency=1, watch=True))
    await begun.wait()
    if closes:
        await store.close()
    else:
        await store.leave(0)
    await recovering


class Hangup(Exception):  # noqa: N818 - as a program would call it
    pass


async def test_a_handler_ends_its_call_by_the_rules_of_hold(store: FlakyStore, gone: MemoryStore) -> None:
    await save(gone, "c1")
    gone.kill_worker()

    async def handler(call: CallHandle) -> None:
        raise Hangup

    await store.recover(handler, end_on=Hangup)
    assert (await store.get("c1")).ended_reason == "hangup"
    with pytest.raises(ValueError, match="concurrency"):
        await store.recover(handler, concurrency=0)


async def test_a_call_whose_handler_raises_is_tried_seldom_and_not_for_ever(
    store: FlakyStore, gone: MemoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retries, "HOLD_BACK", Delays(0.01, 30.0))
    await save(gone, "c1")
    gone.kill_worker()
    loop = asyncio.get_running_loop()
    tried: list[float] = []

    async def handler(call: CallHandle) -> None:
        if call.id == "c1":
            tried.append(loop.time())
        raise ZeroDivisionError

    async with store.events("claimed") as claimed, store.events("released") as released:
        task = asyncio.ensure_future(store.recover(handler, watch=True, max_attempts=4))
        assert [(await anext(released)).session_id for _ in range(4)] == ["c1"] * 4
        assert "c1 is left to other workers: 4 attempts" in caplog.text
        other = store.worker("other")
        await save(other, "c2")  # is taken all the same, until that is left to others as well
        await other.release("c2", 0)
        assert [(await anext(released)).session_id for _ in range(5)] == ["c2"] * 5
        assert [(await anext(claimed)).session_id for _ in range(8)] == ["c1"] * 4 + ["c2"] * 4
        assert claimed.take() is None
    task.cancel()
    await asyncio.wait((task,))
    assert (await store.get("c1")).state.is_active
    record = await other.claim_next()
    assert record is not None
    assert record.state.id == "c1"
    pauses = [later - before for before, later in pairwise(tried)]
    assert len(pauses) == 3
    assert all(pause >= least for pause, least in zip(pauses, (0.01, 0.02, 0.04), strict=True))
    assert "ZeroDivisionError" in caplog.text


async def test_an_older_daemon_gets_back_what_was_given_up(
    store: FlakyStore, gone: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def features() -> frozenset[str]:
        return frozenset({"ownership"})

    monkeypatch.setattr(store, "features", features)
    await save(gone, "c1")
    gone.kill_worker()
    tried: list[str] = []

    async def handler(call: CallHandle) -> None:
        tried.append(call.id)
        raise ZeroDivisionError

    await store.recover(handler, max_attempts=1)
    assert tried == ["c1"]
    record = await store.worker("other").claim_next()
    assert record is not None
    assert record.state.is_active


async def test_without_watch_a_released_call_is_not_recovered_twice(store: FlakyStore, gone: MemoryStore) -> None:
    await save(gone, "c1", "c2")
    gone.kill_worker()
    found: list[str] = []

    async def handler(call: CallHandle) -> None:
        found.append(call.id)
        raise ZeroDivisionError

    await store.recover(handler, concurrency=1)
    assert sorted(found) == ["c1", "c2"]
    assert [(await store.get(name)).owner for name in ("c1", "c2")] == [None, None]


async def test_a_call_that_failed_elsewhere_is_delayed_too(
    store: FlakyStore, gone: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "HOLD_BACK", Delays(0.01, 30.0))
    await save(gone, "c1")
    other = store.worker("w2")
    for _ in range(4):
        record = await other.claim("c1", steal=True)
        await other.release("c1", record.epoch)
    began = asyncio.get_running_loop().time()
    async with aclosing(store.recover(watch=True)) as calls, await anext(calls) as call:
        assert call.handovers == 4
    assert asyncio.get_running_loop().time() - began >= 0.035  # a loop counts in milliseconds


# -- how much is asked --------------------------------------------------------------------------------------------


async def test_many_recoverers_of_many_calls_ask_little_more_than_once_a_call(
    store: FlakyStore, gone: MemoryStore
) -> None:
    """Of ten that take these calls, and ten that take others."""
    calls, recoverers = 200, 10
    await save(gone, *(f"c{n}" for n in range(calls)), labels=SALES)
    left = asyncio.Event()
    found: list[str] = []

    async def handler(call: CallHandle) -> None:
        found.append(call.id)
        if len(found) == calls:
            left.set()

    tasks = [
        asyncio.ensure_future(store.recover(handler, labels=labels, watch=True))
        for labels in (SALES, HELP)
        for _ in range(recoverers)
    ]
    await store.when_asked("session.claim_next", 2 * recoverers)
    for n in range(calls):
        await gone.release(f"c{n}", 0)
    await left.wait()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert sorted(found) == sorted(f"c{n}" for n in range(calls))
    assert store.asked["session.claim_next"] <= calls + 10 * recoverers


# -- cancelled, forgotten -----------------------------------------------------------------------------------------


async def test_a_call_claimed_for_a_cancelled_iteration_is_released() -> None:
    async with Held(Clock(START), worker_id="w1") as store:
        gone = store.worker("gone")
        await save(gone, "c1")
        gone.kill_worker()
        call = soon(store.recover())
        await store.claimed.wait()
        assert (await store.get("c1")).owner == "w1"
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        async with store.events("released") as events:
            store.gate.set()
            assert (await anext(events)).session_id == "c1"
        assert (await store.get("c1")).owner is None


async def test_breaking_off_an_iteration_releases_its_current_call(
    store: FlakyStore, gone: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    await gone.save(SessionState("c1", status="active", created_at=START), heartbeat_timeout_s=0.03)
    gone.kill_worker()

    async def first() -> str:
        async with aclosing(store.recover()) as calls:
            async for call in calls:
                return call.id
        return ""

    async with store.events("released") as events:
        assert await first() == "c1"
        gc.collect()
        assert (await anext(events)).session_id == "c1"
    assert "without being left or closed" in caplog.text
