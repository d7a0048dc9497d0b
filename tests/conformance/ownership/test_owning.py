"""Who owns a call, and what others may do with it, whatever is behind the store."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw

from callstate_client import CallStore, ConflictError, FencedError, SessionEndedError, Turn
from callstate_client import protocol as p
from support.owners import (
    Target,
    a_call,
    amended,
    claim,
    event,
    fenced,
    heartbeat_result,
    held,
    interrupted,
    release,
    send_heartbeats,
)

# -- owning -----------------------------------------------------------------------------------------------


async def test_a_worker_owns_what_it_creates_and_an_operator_does_not(w1: CallStore, operator: CallStore) -> None:
    await w1.save(a_call("mine"))
    await operator.save(a_call("nobodys"))
    assert await held(operator, "mine") == ("w1", 0)
    assert await held(operator, "nobodys") == (None, 0)
    assert [record.state.id async for record in operator.sessions(owner="w1")] == ["mine"]


async def test_another_worker_is_fenced(w1: CallStore, w2: CallStore) -> None:
    await w1.save(a_call(history=[Turn("user", "x")]))
    for ask in (
        w2.update_heartbeat("c1"),
        w2.save(a_call()),
        w2.add_turn("c1", "user", "x"),
        w2.amend_last_turn("c1", content="y"),
        w2.record_interruption("c1"),
        w2.update("c1", status="on_hold"),
        w2.end("c1"),
        w2.delete("c1"),
        interrupted(w2, "c1", epoch=0),
    ):
        assert await fenced(ask) == (0, "w1")
    record = await w1.get("c1")
    assert (record.state.status, record.turn_count, record.state.metrics.interruption_count) == ("active", 1, 0)


async def test_beats_of_many_say_which_are_anothers(w1: CallStore, w2: CallStore, operator: CallStore) -> None:
    await w1.save(a_call("mine"))
    await w2.save(a_call("theirs"))
    await operator.save(a_call("nobodys"))
    await w1.save(a_call("over", status="ended"))
    result = await send_heartbeats(w1, "mine", "theirs", "nobodys", "gone", "over")
    assert result == heartbeat_result(fenced=["theirs"], missing=["gone"], ended=["over"])


async def test_a_session_without_owner_is_everybodys_and_stays_so(w1: CallStore, operator: CallStore) -> None:
    await operator.save(a_call())
    await w1.update_heartbeat("c1")
    await w1.add_turn("c1", "user", "x")
    assert await held(w1) == (None, 0)


async def test_an_operator_changes_everything(w1: CallStore, operator: CallStore) -> None:
    await w1.save(a_call())
    await operator.update("c1", status="on_hold")
    assert await held(w1) == ("w1", 0)
    await interrupted(operator, "c1", epoch=0)
    assert await fenced(interrupted(operator, "c1", epoch=1)) == (0, "w1")
    await operator.end("c1", "operator")
    assert (await w1.get("c1")).ended_reason == "operator"


async def test_an_operators_changes_are_life_only_with_the_epoch(
    target: Target, w1: CallStore, operator: CallStore
) -> None:
    events = await target.watch("suspect", "recovered")
    for session_id in ("with", "without"):
        await w1.save(a_call(session_id))
    await target.pass_time(target.timeout_s / 2)
    await interrupted(operator, "with", epoch=0)
    await interrupted(operator, "without")
    await target.pass_time(target.timeout_s * 0.6)
    suspect = await event(events)
    assert (suspect.type, suspect.session_id) == ("suspect", "without")
    await interrupted(operator, "without")
    await w1.update_heartbeat("with")
    await target.pass_time(target.timeout_s * 0.1)
    await interrupted(operator, "without", epoch=0)
    recovered = await event(events)
    assert (recovered.type, recovered.session_id) == ("recovered", "without")


async def test_an_operators_beat_is_taken_and_counts_while_the_owner_is_away(
    target: Target, w1: CallStore, operator: CallStore
) -> None:
    events = await target.watch("worker.left", "recovered")
    await w1.save(a_call())
    await target.pass_time(target.timeout_s * 1.25)
    await operator.update_heartbeat("c1")
    assert await send_heartbeats(operator, "c1") == heartbeat_result()
    await target.kill(w1)
    assert (await event(events)).type == "worker.left"  # not recovered: its owner was here to beat itself
    await operator.update_heartbeat("c1")
    assert (await event(events)).type == "recovered"


async def test_a_timeout_that_an_operator_gives_is_no_sign_of_life(
    target: Target, w1: CallStore, operator: CallStore
) -> None:
    events = await target.watch("suspect", "recovered", "expired")
    await w1.save(a_call())
    await target.pass_time(target.timeout_s * 1.25)
    assert (await event(events)).type == "suspect"
    await operator.save(a_call(), heartbeat_timeout_s=target.timeout_s / 2)
    await target.pass_time(target.grace_s)
    assert (await event(events)).type == "expired"


async def test_an_owner_that_never_connects_is_judged_by_heartbeats_alone(
    target: Target, operator: CallStore
) -> None:
    events = await target.watch("suspect", "recovered")
    await operator.save(a_call())
    await claim(operator, "c1", "script")
    await target.pass_time(target.timeout_s * 1.25)
    assert (await event(events)).owner == "script"
    assert await send_heartbeats(operator, "c1") == heartbeat_result()
    assert (await event(events)).type == "recovered"


async def test_a_call_that_its_worker_ended_takes_late_turns_from_it_alone(w1: CallStore, w2: CallStore) -> None:
    await w1.save(a_call())
    await w1.end("c1")
    await w1.add_turn("c1", "user", "bye")
    await fenced(w2.add_turn("c1", "user", "bye"))
    with pytest.raises(SessionEndedError):
        await w1.update_heartbeat("c1")
    await w1.save(a_call())
    assert await held(w2) == ("w1", 0)


async def test_a_new_session_of_an_old_id_is_its_creators(w1: CallStore, w2: CallStore) -> None:
    await w1.save(a_call())
    first = (await claim(w2, "c1", "w2", steal=True)).epoch
    await w2.delete("c1")
    await w1.save(a_call())
    assert await held(w1) == ("w1", first)


async def test_the_owner_of_an_old_session_is_fenced_off_from_a_new_one_of_its_id(
    target: Target, w1: CallStore, w2: CallStore
) -> None:
    await w1.save(a_call())
    await claim(w2, "c1", "w2", steal=True)
    await w2.delete("c1")
    await target.pass_time(target.timeout_s * 1.25)
    await w2.save(a_call())
    assert await held(w2) == ("w2", 1)
    assert await fenced(interrupted(w1, "c1", epoch=0)) == (1, "w2")


MUTATIONS: dict[str, p.Params] = {
    "session.save": p.SaveParams(session=Raw(b'{"id":"c1"}'), epoch=1),
    "session.add_turn": p.AddTurnParams(session_id="c1", turn=Raw(b'{"content":"late"}'), epoch=1),
    "session.amend_turn": p.AmendTurnParams(session_id="c1", set=Raw(b'{"content":"late"}'), epoch=1),
    "session.record_interruption": p.RecordInterruptionParams(session_id="c1", epoch=1),
    "session.update": p.UpdateParams(session_id="c1", set=Raw(b'{"to":"+1"}'), epoch=1),
    "session.end": p.EndParams(session_id="c1", epoch=1),
    "session.release": p.ReleaseParams(session_id="c1", epoch=1),
    "session.delete": p.DeleteParams(session_id="c1", epoch=1),
}
"""All that changes a session, with the epoch of the first claim."""


async def test_an_epoch_also_fences_off_a_caller_that_is_not_a_worker(target: Target, operator: CallStore) -> None:
    """As a blocking program that claimed the call, hung, and goes on."""
    await operator.save(a_call(history=[Turn("user", "x")]))
    assert (await claim(operator, "c1", "a")).epoch == 1
    assert (await claim(operator, "c1", "b", steal=True)).epoch == 2
    before = await operator.get("c1")
    for method, params in MUTATIONS.items():
        with pytest.raises(FencedError) as caught:
            p.decode_empty(await operator.request(method, params))
        assert (caught.value.epoch, caught.value.owner) == (2, "b")
    assert await operator.get("c1") == before


async def test_a_save_that_revives_a_session_without_an_owner_claims_it(
    w1: CallStore, w2: CallStore, operator: CallStore
) -> None:
    await operator.save(a_call("nobodys", status="ended"))
    await w1.save(a_call("nobodys"))
    assert await held(w2, "nobodys") == ("w1", 1)
    await w1.save(a_call("given-up"))
    await release(w1, "given-up", 0)
    await operator.end("given-up")
    await w2.save(a_call("given-up"))
    assert await held(w2, "given-up") == ("w2", 1)  # no epoch has two owners


@pytest.mark.parametrize("how", ["ended", "reaped"])
@pytest.mark.parametrize("who", ["another", "the same", "an operator"])
async def test_an_id_can_be_reused_by_a_caller_that_knows_its_call_has_ended(
    target: Target, w1: CallStore, w2: CallStore, operator: CallStore, how: str, who: str
) -> None:
    await w1.save(a_call(history=[Turn("user", "x")]), max_duration_s=None if how == "ended" else 0.001)
    if how == "ended":
        await w1.end("c1", "caller_hangup")
    else:
        await target.pass_time(0.1)
    store = {"another": w2, "the same": w1, "an operator": operator}[who]
    with pytest.raises(ConflictError) as caught:
        await store.save(a_call(), if_version=0)
    there = caught.value.data
    reason = "caller_hangup" if how == "ended" else "max_duration"
    assert (there["status"], there["reason"]) == ("ended", reason)
    assert "ended_at" in there
    await store.save(a_call(to="+2"), if_version=there["version"])
    record = await operator.get("c1")
    owner = {"another": "w2", "the same": "w1", "an operator": None}[who]
    assert (record.owner, record.epoch, record.ended_reason) == (owner, 1, None)
    assert (record.state.status, [*record.state.history]) == ("active", [])
    assert await fenced(interrupted(w1, "c1", epoch=0)) == (1, owner)  # a late turn of the call before


async def test_a_conflict_of_a_creation_reports_the_calls_status(w1: CallStore, w2: CallStore) -> None:
    await w1.save(a_call(status="on_hold"))
    with pytest.raises(ConflictError) as caught:
        await w2.save(a_call(), if_version=0)
    assert caught.value.data["status"] == "on_hold"
    assert "ended_at" not in caught.value.data
    with pytest.raises(ConflictError) as caught:
        await w1.save(a_call(), if_version=7)
    assert "status" not in caught.value.data


async def test_an_update_revives_nothing(w1: CallStore, operator: CallStore) -> None:
    await w1.save(a_call())
    await w1.end("c1", "caller_hangup")
    before = await operator.get("c1")
    for store in (w1, operator):
        for changes in ({"status": "active"}, {"status": "active", "labels": {"a": "b"}}, {"status": None}):
            for beside in ({}, {"heartbeat_timeout_s": 9.0}):
                with pytest.raises(SessionEndedError) as caught:
                    await store.update("c1", **changes, **beside)
                assert caught.value.reason == "caller_hangup"
                assert caught.value.ended_at
    assert await operator.get("c1") == before
    await w1.update("c1", status="ended", to="+1")
    await w1.update("c1", to="+2", labels={"a": "b"})
    after = await operator.get("c1")
    assert (after.ended_reason, after.state.to, after.labels, after.epoch) == ("caller_hangup", "+2", {"a": "b"}, 0)


# -- amending ---------------------------------------------------------------------------------------------


async def test_a_turn_is_amended_by_index_or_role(target: Target, w1: CallStore) -> None:
    await w1.save(a_call())
    for role, content in (("agent", "Our opening hours are"), ("user", "Wait."), ("user", "Please.")):
        await w1.add_turn("c1", role, content)
    assert await amended(w1, "c1", {"content": "Our opening"}, role="agent") == 0
    assert await amended(w1, "c1", {"content": "Wait!"}, index=1) == 1
    assert await amended(w1, "c1", {"content": "Please!"}) == 2
    assert await amended(w1, "c1", {"interrupted": True}, index=-3, role="agent") == 0
    history = (await w1.load("c1")).history
    assert [turn.content for turn in history] == ["Our opening", "Wait!", "Please!"]
    assert history[0].extra == {"interrupted": True}


@pytest.mark.parametrize("which", [{"index": 1}, {"index": -2}, {"role": "agent"}, {"index": 0, "role": "agent"}])
async def test_there_must_be_the_turn_that_is_meant(target: Target, w1: CallStore, which: dict[str, Any]) -> None:
    await w1.save(a_call())
    with pytest.raises(ConflictError):
        await amended(w1, "c1", {"content": "x"})
    await w1.add_turn("c1", "user", "Hello?")
    before = await w1.get("c1")
    with pytest.raises(ConflictError):
        await amended(w1, "c1", {"content": "x"}, **which)
    assert await w1.get("c1") == before
