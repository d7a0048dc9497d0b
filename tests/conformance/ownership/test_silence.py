"""What becomes of a silent call, and after which timeout, whatever is behind the store."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET

from callstate_client import CallStore, SessionEndedError
from callstate_client import protocol as p
from support.owners import Target, a_call, claim, claim_next, event, fenced, held

# -- silence ----------------------------------------------------------------------------------------------


async def test_a_silent_worker_comes_back_in_its_own_epoch(target: Target, w1: CallStore) -> None:
    events = await target.watch("suspect", "recovered", "claimed")
    await w1.save(a_call("a"))
    await w1.save(a_call("b"))
    await target.pass_time(target.timeout_s * 1.25)
    suspects = [await event(events), await event(events)]
    assert {(each.session_id, each.reason, each.evidence) for each in suspects} == {
        ("a", "heartbeat_timeout", "silence"),
        ("b", "heartbeat_timeout", "silence"),
    }
    assert await claim_next(w1, "w1") == "a"  # the reply to its claim may have been lost
    assert (await claim(w1, "a", "w1")).epoch == (await claim(w1, "b", "w1")).epoch == 0
    assert [((one := await event(events)).type, one.session_id) for _ in range(2)] == [
        ("recovered", "a"),
        ("recovered", "b"),
    ]


async def test_a_silent_worker_that_then_dies_leaves_its_calls_to_its_successor(
    target: Target, w1: CallStore
) -> None:
    await w1.save(a_call())
    await target.pass_time(target.timeout_s * 1.25)
    await target.kill(w1)
    again = await target.make_worker("w1")
    assert await claim_next(again, "w1") == "c1"
    assert await held(again) == ("w1", 1)
    await again.update_heartbeat("c1")


async def test_a_silent_call_whose_worker_then_dies_ends_when_it_would_have_and_for_that(
    target: Target, w1: CallStore
) -> None:
    events = await target.watch("suspect", "expired")
    await w1.save(a_call())
    await target.pass_time(target.timeout_s * 1.25)
    await target.kill(w1)
    await target.pass_time(target.grace_s)
    silent, dead = await event(events), await event(events)
    assert (silent.type, silent.reason) == ("suspect", "heartbeat_timeout")
    assert (dead.type, dead.reason) == ("suspect", "worker_exited")
    moved = abs((dead.deadline - silent.deadline).total_seconds())
    assert moved < target.timeout_s / 20, "reckoned anew by the wall clock, and the same"
    expired = await event(events)
    assert (expired.type, expired.reason) == ("expired", "worker_exited")


async def test_a_deletion_is_the_one_end_of_a_suspect(target: Target, w1: CallStore) -> None:
    events = await target.watch("deleted", "expired", "ended")
    await w1.save(a_call())
    await target.pass_time(target.timeout_s * 1.25)
    await w1.delete("c1")
    await target.pass_time(target.grace_s)
    await w1.save(a_call("c2", status="ended"))
    told = [await event(events), await event(events)]
    assert [(each.session_id, each.type) for each in told] == [("c1", "deleted"), ("c2", "ended")]


async def test_a_worker_thought_dead_can_not_overwrite_its_successor(
    target: Target, w1: CallStore, w2: CallStore
) -> None:
    events = await target.watch("claimed")
    await w1.save(a_call())
    await target.pass_time(target.timeout_s * 1.25)
    assert await claim_next(w2, "w2") == "c1"
    assert (await event(events)).reason == "heartbeat_timeout"
    await w2.update("c1", recovery_data={"by": "w2"})
    await fenced(w1.save(a_call(recovery_data={"by": "w1"})))
    await fenced(w1.end("c1"))
    assert (await w2.load("c1")).recovery_data == {"by": "w2"}


async def test_a_reaped_call_is_revived_by_a_claim_alone(target: Target, w1: CallStore, w2: CallStore) -> None:
    events = await target.watch("expired", "claimed")
    await w1.save(a_call(status="on_hold"))
    await w1.save(a_call("wordless", status=""))
    await target.pass_time(target.timeout_s + target.grace_s * 1.25)
    assert [(await event(events)).reason for _ in range(2)] == ["heartbeat_timeout"] * 2
    for late in (w1.update_heartbeat("c1"), w1.save(a_call()), w1.add_turn("c1", "user", "x")):
        with pytest.raises(SessionEndedError):
            await late
    claimed = await claim(w2, "c1", "w2")
    assert (claimed.owner, claimed.epoch, claimed.ended_reason) == ("w2", 1, None)
    assert (await w2.load("c1")).status == "on_hold"
    assert (await event(events)).reason == "reaped"
    await w2.update_heartbeat("c1")
    await fenced(w1.update_heartbeat("c1"))
    await claim(w2, "wordless", "w2")
    assert (await w2.load("wordless")).status == ""


async def test_a_call_over_time_that_is_claimed_goes_on(target: Target, w1: CallStore, w2: CallStore) -> None:
    await w1.save(a_call(created_at=target.now()), max_duration_s=target.timeout_s / 2)
    await target.pass_time(target.timeout_s * 0.75)
    assert (await w1.get("c1")).ended_reason == "max_duration"
    await claim(w2, "c1", "w2")
    await target.pass_time(target.timeout_s / 2)
    await w2.update_heartbeat("c1")


# -- timeouts ---------------------------------------------------------------------------------------------


async def test_a_claim_says_which_timeouts_are_in_force(target: Target, operator: CallStore, w1: CallStore) -> None:
    await operator.save(a_call())
    claimed = await claim(w1, "c1", "w1")
    assert (claimed.heartbeat_timeout_s, claimed.max_duration_s) == (target.timeout_s, None)
    again = await claim(w1, "c1", "w1", heartbeat_timeout_s=60.0, max_duration_s=300000000.0)
    assert (again.heartbeat_timeout_s, again.max_duration_s, again.epoch) == (60.0, 300000000.0, claimed.epoch)
    assert again.version > claimed.version
    assert (await claim(w1, "c1", "w1")).version == again.version
    [listed] = [record async for record in operator.sessions()]
    assert (listed.heartbeat_timeout_s, listed.max_duration_s) == (60.0, 300000000.0)


async def test_a_call_is_expected_to_beat_as_its_claim_says(target: Target, w1: CallStore, w2: CallStore) -> None:
    events = await target.watch("suspect")
    await w1.save(a_call())
    await w1.save(a_call("c2"))
    await claim(w2, "c1", "w2", steal=True, heartbeat_timeout_s=3 * target.timeout_s)
    await target.pass_time(1.5 * target.timeout_s)
    await target.pass_time(2 * target.timeout_s)
    assert [(await event(events)).session_id for _ in range(2)] == ["c2", "c1"]


@pytest.mark.parametrize("many", [False, True])
async def test_a_heartbeats_reply_has_the_timeout_that_another_caller_set(
    target: Target, w1: CallStore, operator: CallStore, many: bool
) -> None:
    """And is not suspected for not beating by it before."""
    which: dict[str, Any] = {"session_ids": ["c1"]} if many else {"session_id": "c1"}
    beat = p.HeartbeatParams(**which)

    async def told() -> Any:
        return p.decode_heartbeat(await w1.request("session.heartbeat", beat)).timeouts

    events = await target.watch("suspect", "recovered", "ended")
    await w1.save(a_call(), heartbeat_timeout_s=4 * target.timeout_s)
    assert await told() is UNSET
    await operator.save(a_call(), heartbeat_timeout_s=target.timeout_s)
    await w1.add_turn("c1", "user", "hello")
    await target.pass_time(1.5 * target.timeout_s)
    assert await told() == {"c1": target.timeout_s}
    assert await told() is UNSET
    await target.pass_time(1.25 * target.timeout_s)
    await w1.end("c1")
    assert [(await event(events)).type for _ in range(2)] == ["suspect", "ended"], "not before it was told"


async def test_an_owner_that_changes_its_own_timeout_does_not_get_it_again(
    w1: CallStore, operator: CallStore
) -> None:
    beat = p.HeartbeatParams(session_id="c1")
    await w1.save(a_call())
    await w1.save(a_call(), heartbeat_timeout_s=60.0)
    assert p.decode_heartbeat(await w1.request("session.heartbeat", beat)).timeouts is UNSET
    for learn in (w1.save(a_call()), claim(w1, "c1", "w1")):
        await operator.save(a_call(), heartbeat_timeout_s=50.0)
        await learn
        assert p.decode_heartbeat(await w1.request("session.heartbeat", beat)).timeouts is UNSET
