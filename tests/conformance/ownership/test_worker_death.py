"""What becomes of the calls of a worker whose process ends, whatever is behind the store."""

from __future__ import annotations

import asyncio

import pytest

from callstate_client import (
    CallStore,
    ConflictError,
    FencedError,
    InvalidParamsError,
    SessionEndedError,
    SessionState,
    StoreClosedError,
)
from callstate_client import protocol as p
from support.owners import Target, a_call, claim, claim_next, event, fenced, held, interrupted, release


async def test_a_killed_workers_calls_are_suspects_at_once(target: Target, w1: CallStore, w2: CallStore) -> None:
    events = await target.watch("worker.left", "suspect", "claimed")
    await w1.save(a_call())
    await target.kill(w1)
    left, suspect = await event(events), await event(events)
    assert (left.type, left.worker_id, left.reason) == ("worker.left", "w1", "exited")
    assert (suspect.type, suspect.reason, suspect.evidence, suspect.owner) == (
        "suspect", "worker_exited", "process_exited", "w1",
    )  # fmt: skip
    assert suspect.deadline is not None
    assert (suspect.deadline - suspect.at).total_seconds() == pytest.approx(target.grace_s)
    assert (await claim(w2, "c1", "w2")).epoch == 1
    assert (await event(events)).reason == "worker_exited"


async def test_a_listing_says_which_calls_are_suspects_and_orphans(
    target: Target, w1: CallStore, w2: CallStore
) -> None:
    await w1.save(a_call("suspected"))
    await w2.save(a_call("given_up"))
    await w2.save(a_call("live"))
    await release(w2, "given_up", (await claim(w2, "given_up", "w2")).epoch)
    events = await target.watch("suspect")
    await target.kill(w1)
    await event(events)
    listed = {record.state.id: record.liveness async for record in w2.sessions()}
    assert listed == {"suspected": "suspect", "given_up": "orphan", "live": None}


async def test_an_end_of_another_epoch_is_fenced_also_where_the_call_has_ended(
    target: Target, w1: CallStore, w2: CallStore
) -> None:
    await w1.save(a_call())
    await claim(w2, "c1", "w2", steal=True)
    version = await w2.end("c1", "transferred")
    for store in (w1, w2):
        with pytest.raises(FencedError) as stale:
            p.decode_version(await store.request("session.end", p.EndParams(session_id="c1", epoch=0)))
        assert (stale.value.epoch, stale.value.owner) == (1, "w2")
        repeat = p.EndParams(session_id="c1", reason="late", epoch=1)
        assert p.decode_version(await store.request("session.end", repeat)).version == version
    assert (await w2.get("c1")).ended_reason == "transferred"


async def test_an_id_in_the_way_says_how_it_stands(target: Target, w1: CallStore) -> None:
    await w1.save(a_call())
    with pytest.raises(ConflictError) as live:
        await w1.save(a_call(), if_version=0)
    assert (live.value.status, live.value.ended_at, live.value.reason) == ("active", None, None)
    await w1.end("c1", "caller_hangup")
    with pytest.raises(ConflictError, match=r"caller_hangup.*replace_ended=True") as ended:
        async with w1.hold(a_call()):
            pytest.fail("it already exists")
    assert (ended.value.status, ended.value.reason) == ("ended", "caller_hangup")
    assert ended.value.ended_at
    assert ended.value.version == (await w1.get("c1")).version


async def test_an_ended_call_is_replaced_whole(target: Target, w1: CallStore, w2: CallStore) -> None:
    before = a_call(recovery_data={"node": "menu"}, call_id="CA1")
    before.add_turn("user", "of the call before", 100)
    before.record_interruption()
    await w1.save(before, labels={"app": "sales"}, heartbeat_timeout_s=77.0, max_duration_s=300000000.0)
    await w1.end("c1", "caller_hangup", {"cause": 16})
    old = await w1.get("c1")
    assert old.ended_detail == {"cause": 16}
    async with w2.hold(a_call(call_id="CA2", status="pending"), replace_ended=True) as call:
        await call.add_turn("agent", "hello", 50)
        record = await w2.get("c1")
        assert [turn.content for turn in record.state.history] == ["hello"]
        assert (record.state.metrics.turn_count, record.state.metrics.interruption_count) == (1, 0)
        assert (record.state.status, record.state.call_id, record.state.recovery_data) == ("pending", "CA2", None)
        assert (record.labels, record.ended_reason, record.ended_detail) == ({}, None, None)
        assert (record.epoch, record.owner) == (old.epoch + 1, "w2")
        assert record.version > old.version
        [listed] = [each async for each in w2.sessions()]
        assert (listed.heartbeat_timeout_s, listed.max_duration_s) == (None, None), "the default, and no limit"
    with pytest.raises(ConflictError):
        async with w1.hold(a_call()):
            pytest.fail("it has ended, and nobody said that it may be replaced")


async def test_of_two_callers_that_replace_an_ended_call_one_succeeds(
    target: Target, w1: CallStore, w2: CallStore
) -> None:
    await w1.save(a_call())
    await w1.end("c1", "caller_hangup")
    holds = [store.hold(a_call(), replace_ended=True) for store in (w1, w2)]
    entered = await asyncio.gather(*(hold.__aenter__() for hold in holds), return_exceptions=True)
    lost = [result for result in entered if isinstance(result, BaseException)]
    assert [type(each) for each in lost] == [ConflictError], entered
    for hold, result in zip(holds, entered, strict=True):
        if not isinstance(result, BaseException):
            await hold.__aexit__(None, None, None)


async def test_a_live_call_is_not_replaced(target: Target, w1: CallStore, w2: CallStore) -> None:
    await w1.save(a_call())
    with pytest.raises(ConflictError, match="held by worker w1"):
        async with w2.hold(a_call(), replace_ended=True):
            pytest.fail("it is w1's")
    with pytest.raises(ValueError, match="replace_ended"):
        w2.hold("c1", replace_ended=True)


async def test_a_hold_that_resumes_creates_what_is_not_there(target: Target, w1: CallStore) -> None:
    async with w1.hold(a_call(provider="telnyx"), labels={"app": "sales"}, resume=True) as call:
        record = await w1.get("c1")
        assert (record.owner, record.epoch, record.labels) == ("w1", 0, {"app": "sales"})
        assert call.state.provider == "telnyx"
    assert (await w1.get("c1")).ended_reason == "completed"


async def test_a_hold_that_resumes_claims_what_is_there(target: Target, w1: CallStore, w2: CallStore) -> None:
    async with w1.hold(a_call(provider="telnyx"), labels={"app": "sales"}) as first:
        await first.add_turn("user", "hello", 90)
        with pytest.raises(ConflictError, match=r"c1 is held by w1, which is alive.*steal=True") as live:
            async with w2.hold(a_call(), resume=True):
                pytest.fail("it is held by w1, which is alive")
        assert live.value.owner == "w1"
        await first.release()
    async with w2.hold(a_call(provider="sip"), labels={"app": "other"}, resume=True) as call:
        assert (call.state.provider, [turn.content for turn in call.state.history]) == ("telnyx", ["hello"])
        record = await w2.get("c1")
        assert (record.owner, record.epoch, record.labels) == ("w2", 1, {"app": "sales"})
        await call.add_turn("agent", "again", 10)
        await call.release()
    async with w1.hold(a_call(), resume=True, steal=True) as stolen:
        assert len(stolen.state.history) == 2
        await stolen.end("transferred")
    assert (await w1.get("c1")).ended_reason == "transferred"


async def test_a_hold_that_resumes_takes_a_dead_workers_call(target: Target, w1: CallStore, w2: CallStore) -> None:
    events = await target.watch("suspect")
    await w1.save(a_call(provider="telnyx", status="on_hold"), labels={"app": "sales"})
    await w1.add_turn("c1", "user", "hello", 90)
    await target.kill(w1)
    await event(events)
    async with w2.hold(
        a_call(provider="sip"), labels={"app": "other"}, heartbeat_timeout_s=77, resume=True
    ) as call:
        assert (call.state.provider, call.state.status, call.labels) == ("telnyx", "on_hold", {"app": "sales"})
        assert [turn.content for turn in call.state.history] == ["hello"]
        record = await w2.claim("c1")
        assert (record.owner, record.epoch, record.heartbeat_timeout_s) == ("w2", call.epoch, 77)


async def test_a_hold_that_resumes_takes_what_is_its_own_or_nobodys(
    target: Target, w1: CallStore, operator: CallStore
) -> None:
    await w1.save(a_call())
    await operator.save(a_call("c2"))
    for session_id in ("c1", "c2"):
        async with w1.hold(a_call(session_id), resume=True) as call:
            assert (await w1.get(session_id)).owner == "w1"
            await call.add_turn("user", "hello")
        assert (await w1.get(session_id)).ended_reason == "completed"


async def test_a_later_block_takes_a_call_over_from_an_earlier_one(target: Target, w1: CallStore) -> None:
    async with w1.hold(a_call()) as earlier:
        unacknowledged = earlier.add_turn("user", "hello")
        async with w1.hold(a_call(), resume=True) as later:
            assert [turn.content for turn in later.state.history] == ["hello"]
            assert isinstance(earlier.lost, FencedError)
            assert unacknowledged.done()
            with pytest.raises(StoreClosedError):
                earlier.add_turn("user", "too late")
            await earlier.close()  # does not end it
            await later.add_turn("agent", "again")
    record = await w1.get("c1")
    assert (record.ended_reason, record.turn_count) == ("completed", 2)


async def test_a_new_call_is_active_unless_its_status_is_given(target: Target, w1: CallStore) -> None:
    async with w1.hold(SessionState("c1"), labels={"app": "sales"}) as call:
        assert (call.state.status, (await w1.load("c1")).status) == ("active", "active")
        assert call.labels == {"app": "sales"}
        await call.update(labels={"app": "support"})
        assert call.labels == {"app": "support"}
    async with w1.hold(SessionState("c2", status="pending")) as ringing:
        assert (ringing.state.status, (await w1.load("c2")).status) == ("pending", "pending")
        await ringing.release()
    async with w1.hold("c2") as claimed:
        assert (claimed.state.status, claimed.labels) == ("pending", {})


async def test_a_hold_that_resumes_takes_no_call_that_is_over(target: Target, w1: CallStore) -> None:
    await w1.save(a_call())
    await w1.end("c1", "caller_hangup")
    with pytest.raises(ConflictError, match=r"c1 has ended at \S+ \(caller_hangup\).*replace_ended=True") as ended:
        async with w1.hold(a_call(), resume=True):
            pytest.fail("it is over")
    assert (ended.value.status, ended.value.reason) == ("ended", "caller_hangup")
    with pytest.raises(SessionEndedError, match=r"c1 has ended at \S+ \(caller_hangup\).*replace_ended=True"):
        async with w1.hold("c1"):
            pytest.fail("it is over")
    async with w1.hold(a_call(provider="sip"), resume=True, replace_ended=True) as call:
        assert call.state.provider == "sip"
        assert (await w1.get("c1")).ended_reason is None


async def test_ended_missing_and_live_sessions_can_not_be_held(target: Target, w1: CallStore) -> None:
    with pytest.raises(ValueError, match="resume"):
        w1.hold("c1", resume=True)
    with pytest.raises(TypeError, match="int"):
        w1.hold(5)  # type: ignore[arg-type]


async def test_sessions_are_listed_by_their_state(target: Target, w1: CallStore) -> None:
    async def found(state: str) -> list[str]:
        return [record.state.id async for record in w1.sessions(state=state)]

    await w1.save(a_call())
    await w1.save(a_call("c2"))
    await w1.save(a_call("c3", status="ended"))
    await release(w1, "c2", (await w1.get("c2")).epoch)
    listed = {state: await found(state) for state in ("live", "orphan", "suspect", "restored")}
    assert listed == {"live": ["c1"], "orphan": ["c2"], "suspect": [], "restored": []}
    with pytest.raises(InvalidParamsError, match="live, suspect, orphan, restored"):
        await found("ended")


async def test_the_active_sessions_of_every_host(target: Target, w1: CallStore) -> None:
    await w1.save(a_call())
    await w1.save(a_call("c2", status="ended"))
    assert await w1.list_active(scope="all") == await w1.list_active() == ["c1"]
    with pytest.raises(InvalidParamsError):
        await w1.list_active("nowhere")


async def test_a_restarted_worker_claims_its_own_calls_again(target: Target, w1: CallStore) -> None:
    await w1.save(a_call("a"))
    await w1.save(a_call("b"))
    await target.kill(w1)
    again = await target.make_worker("w1")
    assert (await claim(again, "a", "w1")).epoch == 1
    assert await claim_next(again, "w1") == "b"


async def test_unclaimed_calls_of_a_dead_worker_are_reaped(target: Target, w1: CallStore) -> None:
    events = await target.watch("expired")
    other = await target.make_worker("other")
    await w1.save(a_call())
    await target.kill(w1)
    await target.pass_time(target.grace_s * 1.25)
    expired = await event(events)
    assert (expired.session_id, expired.reason, expired.owner) == ("c1", "worker_exited", "w1")
    assert (await other.get("c1")).ended_reason == "worker_exited"
    assert await claim_next(other, "other") is None


async def test_a_worker_that_lost_its_connection_may_come_back(target: Target, w1: CallStore) -> None:
    events = await target.watch("worker.left", "orphaned", "worker.joined")
    await w1.save(a_call())
    await w1.close()
    await target.pass_time(target.reconnect_grace_s / 2)
    again = await target.make_worker("w1")
    await target.pass_time(target.reconnect_grace_s * 1.25)
    await again.add_turn("c1", "user", "x")
    assert await held(again) == ("w1", 0)
    await target.make_worker("w3")
    joined = await event(events)
    assert (joined.type, joined.worker_id) == ("worker.joined", "w3")


async def test_the_calls_of_one_that_does_not_are_orphans(target: Target, w1: CallStore, w2: CallStore) -> None:
    events = await target.watch("worker.left", "orphaned", "claimed")
    await w1.save(a_call())
    await w1.close()
    await target.pass_time(target.reconnect_grace_s * 1.25)
    left, orphaned = await event(events), await event(events)
    assert (left.type, left.worker_id, left.reason) == ("worker.left", "w1", "disconnected")
    assert (orphaned.type, orphaned.reason, orphaned.owner) == ("orphaned", "disconnected", "w1")
    assert await held(w2) == (None, 0)
    assert (await w2.stats())["orphans"] == 1
    assert await claim_next(w2, "w2") == "c1"
    assert (await w2.stats())["orphans"] == 0
    assert (await event(events)).reason == "disconnected"
    late = await target.make_worker("w1")
    assert await fenced(late.update_heartbeat("c1")) == (1, "w2")


async def test_a_late_worker_finds_its_unclaimed_calls_orphaned(target: Target, w1: CallStore) -> None:
    await w1.save(a_call())
    await w1.close()
    await target.pass_time(target.reconnect_grace_s * 1.25)
    late = await target.make_worker("w1")
    await interrupted(late, "c1", epoch=0)
    assert await held(late) == (None, 0)
    assert (await claim(late, "c1", "w1")).epoch == 1


async def test_one_that_dies_while_it_is_away_has_died(target: Target, w1: CallStore) -> None:
    events = await target.watch("worker.left", "orphaned", "suspect")
    await w1.save(a_call())
    await w1.close()
    await target.kill(w1)
    left, suspect = await event(events), await event(events)
    assert (left.type, left.reason) == ("worker.left", "exited")
    assert (suspect.type, suspect.reason, suspect.owner) == ("suspect", "worker_exited", "w1")
    again = await target.make_worker("w1")
    assert (await claim(again, "c1", "w1")).epoch == 1


async def test_a_worker_is_there_while_it_has_a_connection(target: Target, w1: CallStore, w2: CallStore) -> None:
    events = await target.watch("worker.left", "orphaned")
    second = await target.make_worker("w1")
    await w1.save(a_call(), heartbeat_timeout_s=target.timeout_s * 2)
    await w1.close()
    await target.pass_time(target.reconnect_grace_s * 1.25)
    assert await held(second) == ("w1", 0)
    with pytest.raises(ConflictError):
        await claim(w2, "c1", "w2")
    await second.close()
    await target.pass_time(target.reconnect_grace_s * 1.25)
    assert [(await event(events)).type for _ in range(2)] == ["worker.left", "orphaned"]


async def test_ended_calls_of_a_worker_that_left_stay_ended(target: Target, w1: CallStore, w2: CallStore) -> None:
    await w1.save(a_call())
    await w1.end("c1", "hangup")
    await target.kill(w1)
    record = await w2.get("c1")
    assert (record.owner, record.ended_reason) == ("w1", "hangup")
