"""Who holds a session and how it changes hands: each rule of the contract, one at a time, over a real core."""

from __future__ import annotations

from typing import Any

import pytest

from callstate_client.engine.liveness import Phase
from callstate_sidecar.config.schema import ReaperConfig
from support.core import TIME, FakeClient
from support.core_harness import ENDS, FULL, GRACE_S, RECONNECT_S, RETENTION_S, TIMEOUT_S, CoreHarness


@pytest.fixture
async def w1(harness: CoreHarness) -> FakeClient:
    peer = await harness.worker("w1")
    harness.new_events()
    return peer


def event(type_: str, session_id: str, **more: Any) -> dict[str, Any]:
    return {"type": type_, "session_id": session_id, "epoch": 0} | more


SIGNS: dict[str, tuple[str, dict[str, Any]]] = {
    "beat": ("session.heartbeat", {"session_id": "a"}),
    "beats": ("session.heartbeat", {"session_ids": ["a"]}),
    "save": ("session.save", {"session": {"id": "a", "status": "on_hold"}}),
    "turn": ("session.add_turn", {"session_id": "a", "turn": {"content": "x"}}),
    "amend": ("session.amend_turn", {"session_id": "a", "set": {"content": "y"}}),
    "interrupt": ("session.record_interruption", {"session_id": "a"}),
    "update": ("session.update", {"session_id": "a", "set": {"to": "+1"}}),
}
MUTATIONS = {name: sign for name, sign in SIGNS.items() if "beat" not in name}
LAST_WORDS = {
    "end": ("session.end", {"session_id": "a"}),
    "delete": ("session.delete", {"session_id": "a"}),
    "release": ("session.release", {"session_id": "a", "epoch": 0}),
}


# -- owning --------------------------------------------------------------------------------------------------------


async def test_a_worker_owns_what_it_creates(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.save(w1, "a", labels={"app": "x"})
    assert harness.ownership("a") == ("w1", 0, "")
    assert harness.new_events() == [event("created", "a", owner="w1", labels={"app": "x"})]
    loaded = await harness.request(harness.operator, "session.load", session_id="a")
    assert (loaded["owner"], loaded["epoch"]) == ("w1", 0)


async def test_what_nobody_registered_creates_is_nobodys(harness: CoreHarness) -> None:
    await harness.save(harness.operator, "a")
    assert harness.ownership("a") == ("", 0, "")
    assert "owner" not in await harness.request(harness.operator, "session.load", session_id="a")


async def test_a_new_session_under_an_old_id_goes_on_from_its_epoch(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.save(w1, "a")
    await harness.claim(w2, "a", "w2", steal=True)
    await harness.request(w2, "session.delete", session_id="a")
    await harness.save(w1, "a")
    assert harness.ownership("a") == ("w1", 1, "")


@pytest.mark.parametrize("name", [*SIGNS, *LAST_WORDS])
async def test_another_workers_session_is_not_touched(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient, name: str
) -> None:
    await harness.save(w1, "a")
    await harness.add_turn(w1, "a")
    harness.new_events()
    method, params = (SIGNS | LAST_WORDS)[name]
    if name == "beats":
        assert await harness.request(w2, method, **params) == {"missing": [], "ended": [], "fenced": ["a"]}
    else:
        data = await harness.refused(w2, method, **params)
        assert (data["kind"], data["epoch"], data["owner"]) == ("fenced", 0, "w1")
    assert harness.new_events() == [event("fenced", "a", owner="w1", worker_id="w2")]


async def test_being_fenced_is_told_once_an_epoch(harness: CoreHarness, w1: FakeClient, w2: FakeClient) -> None:
    await harness.save(w1, "a")
    for _ in range(3):
        await harness.refused(w2, "session.heartbeat", session_id="a")
    await harness.refused(w1, "session.record_interruption", session_id="a", epoch=7)
    await harness.claim(w2, "a", "w2", steal=True)
    for _ in range(3):
        await harness.refused(w1, "session.heartbeat", session_id="a")
    assert [(e["epoch"], e["worker_id"]) for e in harness.new_events("fenced")] == [(0, "w2"), (1, "w1")]


@pytest.mark.parametrize("name", SIGNS)
async def test_what_the_owner_does_is_life(harness: CoreHarness, w1: FakeClient, name: str) -> None:
    await harness.save(w1, "a")
    await harness.add_turn(w1, "a")
    await harness.advance(TIMEOUT_S)
    assert harness.phase("a") is Phase.SUSPECT
    harness.new_events()
    method, params = SIGNS[name]
    await harness.request(w1, method, **params)
    assert harness.phase("a") is Phase.LIVE
    assert harness.new_events() == [event("recovered", "a", owner="w1")]
    await harness.advance(TIMEOUT_S - 0.001)
    assert harness.phase("a") is Phase.LIVE


@pytest.mark.parametrize("name", SIGNS)
async def test_anybody_speaks_for_what_is_nobodys(harness: CoreHarness, w1: FakeClient, name: str) -> None:
    await harness.save(harness.operator, "a")
    await harness.add_turn(harness.operator, "a")
    method, params = SIGNS[name]
    for peer in (w1, harness.operator):
        await harness.advance(TIMEOUT_S)
        assert harness.phase("a") is Phase.SUSPECT
        await harness.request(peer, method, **params)
        assert harness.phase("a") is Phase.LIVE
    assert harness.ownership("a") == ("", 0, ""), "which does not make them its owner"


@pytest.mark.parametrize("name", MUTATIONS)
async def test_an_operators_change_is_taken_and_is_life_only_with_the_epoch(
    harness: CoreHarness, w1: FakeClient, name: str
) -> None:
    await harness.save(w1, "a")
    await harness.add_turn(w1, "a")
    await harness.advance(TIMEOUT_S)
    method, params = MUTATIONS[name]
    version = harness.core.session("a").version
    await harness.request(harness.operator, method, **params)
    assert harness.core.session("a").version > version
    assert harness.phase("a") is Phase.SUSPECT
    data = await harness.refused(harness.operator, method, **params, epoch=1)
    assert (data["kind"], data["epoch"]) == ("fenced", 0)
    await harness.request(harness.operator, method, **params, epoch=0)
    assert harness.phase("a") is Phase.LIVE
    assert harness.ownership("a") == ("w1", 0, "")


@pytest.mark.parametrize("name", ["beat", "beats"])
async def test_an_operators_beat_is_taken_and_is_life_while_the_owner_is_away(
    harness: CoreHarness, w1: FakeClient, name: str
) -> None:
    await harness.save(w1, "a")
    await harness.advance(TIMEOUT_S)
    method, params = SIGNS[name]
    none_wrong = {} if name == "beat" else {"missing": [], "ended": [], "fenced": []}
    assert await harness.request(harness.operator, method, **params) == none_wrong
    assert harness.phase("a") is Phase.SUSPECT
    harness.drop_connection(w1)
    assert await harness.request(harness.operator, method, **params) == none_wrong
    assert harness.phase("a") is Phase.LIVE


async def test_ended_sessions_take_late_words_of_their_owner(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.save(w1, "a")
    await harness.request(w1, "session.end", session_id="a", reason="hangup")
    await harness.add_turn(w1, "a")
    await harness.add_turn(harness.operator, "a")
    await harness.request(w1, "session.update", session_id="a", set={"to": "+1"})
    assert (await harness.refused(w2, "session.add_turn", session_id="a", turn={}))["kind"] == "fenced"
    assert (await harness.refused(w1, "session.heartbeat", session_id="a"))["kind"] == "session_ended"
    await harness.save(w1, "a")
    assert harness.ownership("a") == ("w1", 0, ""), "revived, and still its owner's"
    assert [e["type"] for e in harness.new_events()] == ["created", "ended", "fenced", "recovered"]


async def test_reaped_sessions_take_nothing(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.save(w1, "a")
    await harness.add_turn(w1, "a")
    await harness.advance(TIMEOUT_S)
    await harness.advance(GRACE_S)
    for name, (method, params) in SIGNS.items():
        if name == "beats":
            assert (await harness.request(w1, method, **params))["ended"] == ["a"]
        else:
            data = await harness.refused(w1, method, **params)
            assert (data["kind"], data["reason"]) == ("session_ended", "heartbeat_timeout")


# -- claim ---------------------------------------------------------------------------------------------------------


async def make(harness: CoreHarness, w1: FakeClient, how: str) -> None:
    """Session `a`, w1's where it has an owner, claimable for this reason."""
    await harness.save(harness.operator if how == "unowned" else w1, "a", labels={"app": "x"})
    if how == "released":
        await harness.request(w1, "session.release", session_id="a", epoch=0)
    elif how == "disconnected":
        harness.drop_connection(w1)
        await harness.advance(RECONNECT_S)
    elif how in ("heartbeat_timeout", "reaped"):
        await harness.advance(TIMEOUT_S)
    elif how == "worker_exited":
        await harness.kill(w1)
    if how == "reaped":
        await harness.advance(GRACE_S)
    harness.new_events()


CLAIMABLE = ["released", "disconnected", "heartbeat_timeout", "worker_exited", "reaped", "unowned", "stolen"]


@pytest.mark.parametrize("how", CLAIMABLE)
async def test_a_claim_says_why_it_could_be(harness: CoreHarness, w1: FakeClient, w2: FakeClient, how: str) -> None:
    await make(harness, w1, how)
    version = harness.core.session("a").version
    await harness.advance(1.0)
    claimed = await harness.claim(w2, "a", "w2", steal=how == "stolen")
    assert (claimed["owner"], claimed["epoch"]) == ("w2", 1)
    assert claimed["version"] > version
    assert claimed["session"]["status"] == "active"
    assert "ended_reason" not in claimed
    assert harness.ownership("a") == ("w2", 1, "")
    assert harness.new_events() == [event("claimed", "a", owner="w2", epoch=1, reason=how, labels={"app": "x"})]
    assert "a" in harness.core.table.dirty.marks, "the store hears of it"
    await harness.advance(TIMEOUT_S - 0.001)
    assert harness.phase("a") is Phase.LIVE, "a full timeout"
    await harness.advance(0.001)
    assert harness.phase("a") is Phase.SUSPECT


@pytest.mark.parametrize("how", CLAIMABLE)
async def test_a_claim_that_was_not_journaled_has_not_been(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient, how: str
) -> None:
    """As it was: also a suspect is a suspect, for its process is as dead as before."""
    await make(harness, w1, how)
    phase, suspected = harness.phase("a"), harness.core.session("a").suspected
    harness.disk.error = FULL
    data = await harness.refused(w2, "session.claim", session_id="a", worker_id="w2", steal=True)
    assert data["kind"] == "not_durable"
    harness.disk.error = None
    assert (harness.phase("a"), harness.core.session("a").suspected) == (phase, suspected)
    assert harness.new_events() == [{"type": "journal.full"}]
    harness.check_consistency()
    assert (await harness.claim(w2, "a", "w2", steal=True))["epoch"] == 1
    assert [e["type"] for e in harness.new_events()] == ["claimed", "journal.ok"]


async def test_the_living_are_their_owners_unless_stolen(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.save(w1, "a")
    data = await harness.refused(w2, "session.claim", session_id="a", worker_id="w2")
    assert (data["kind"], data["owner"]) == ("conflict", "w1")
    await harness.claim(w2, "a", "w2", steal=True)
    data = await harness.refused(w1, "session.add_turn", session_id="a", turn={})
    assert (data["kind"], data["epoch"], data["owner"]) == ("fenced", 1, "w2")


async def test_a_repeated_claim_is_the_same_claim_and_life(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.save(harness.operator, "a")
    first = await harness.claim(w1, "a", "w1")
    await harness.advance(TIMEOUT_S - 1)
    harness.new_events()
    again = await harness.claim(w1, "a", "w1")
    assert (again["epoch"], again["version"]) == (first["epoch"], first["version"]) == (1, first["version"])
    assert harness.new_events() == []
    await harness.advance(TIMEOUT_S - 1)
    assert harness.phase("a") is Phase.LIVE


# -- instances ---------------------------------------------------------------------------------------------------


async def test_an_epoch_is_one_instances_alone(harness: CoreHarness) -> None:
    program = harness.process()
    one = await harness.worker("w1", program, instance="i1")
    other = await harness.worker("w1", program, instance="i2")
    await harness.save(one, "a")
    assert (await harness.claim(one, "a", "w1"))["epoch"] == 0  # a repeat
    for method, params in SIGNS.values():
        if "session_ids" in params:
            assert (await harness.request(other, method, **params))["fenced"] == ["a"]
        else:
            assert (await harness.refused(other, method, **params))["kind"] == "fenced"
    # one hangs, and the other takes its call over; then the one goes on
    assert (await harness.claim(other, "a", "w1"))["epoch"] == 1
    harness.check_replay()
    assert (await harness.refused(one, "session.add_turn", session_id="a", turn={}, epoch=0))["kind"] == "fenced"
    assert (await harness.refused(one, "session.heartbeat", session_id="a"))["kind"] == "fenced"
    assert (await harness.request(one, "session.heartbeat", session_ids=["a"]))["fenced"] == ["a"]
    await harness.add_turn(other, "a", epoch=1)
    assert (await harness.claim(other, "a", "w1"))["epoch"] == 1


async def test_a_silent_call_is_another_instances_in_an_epoch_of_its_own(harness: CoreHarness) -> None:
    program = harness.process()
    one = await harness.worker("w1", program, instance="i1")
    other = await harness.worker("w1", program, instance="i2")
    await harness.save(one, "a")
    await harness.advance(TIMEOUT_S)
    claimed = await harness.request(other, "session.claim_next", worker_id="w1")
    assert (claimed["session"]["id"], claimed["epoch"]) == ("a", 1)
    assert harness.new_events("claimed") == [
        event("claimed", "a", owner="w1", reason="heartbeat_timeout") | {"epoch": 1}
    ]


async def test_an_instance_that_is_gone_keeps_nobody_of_its_worker_out(harness: CoreHarness) -> None:
    program = harness.process()
    one = await harness.worker("w1", program, instance="i1")
    other = await harness.worker("w1", program, instance="i2")
    await harness.save(one, "a")
    await harness.disconnect(one)
    await harness.add_turn(other, "a")
    await harness.heartbeat(other, "a")
    assert (await harness.claim(other, "a", "w1"))["epoch"] == 1


@pytest.mark.parametrize("instance", ["i1", "i2"])
async def test_an_instance_outlives_the_daemon(harness: CoreHarness, instance: str) -> None:
    program = harness.process()
    await harness.save(await harness.worker("w1", program, instance="i1"), "a")
    await harness.restart()
    again = await harness.worker("w1", program, instance=instance)
    assert (await harness.claim(again, "a", "w1"))["epoch"] == (0 if instance == "i1" else 1)


async def test_an_operators_claim_for_a_worker_leaves_it_its_epoch(harness: CoreHarness) -> None:
    one = await harness.worker("w1", instance="i1")
    await harness.save(one, "a")
    assert (await harness.claim(harness.operator, "a", "w1"))["epoch"] == 0
    await harness.add_turn(one, "a", epoch=0)


@pytest.mark.parametrize("name", ["instance", "process"])
@pytest.mark.parametrize("bad", ["", "x" * 65, 5])
async def test_a_wrong_word_registers_nobody(harness: CoreHarness, name: str, bad: Any) -> None:
    peer = harness.connect(harness.process())
    data = await harness.refused(peer, "worker.register", worker_id="w1", **{name: bad})
    assert (data["kind"], data["path"]) == ("invalid_params", f"$.params.{name}")
    assert not harness.core.engine.registry.workers.is_connected("w1")


async def test_who_goes_by_replies_follows_a_default_that_is_lowered(harness: CoreHarness) -> None:
    one = await harness.worker("w1", instance="i1")
    await harness.request(one, "server.info")
    harness.core.liveness.timeout_s = 6.0
    assert (await harness.save(one, "a"))["heartbeat_timeout_s"] == 6.0


# -- timeouts ------------------------------------------------------------------------------------------------------


async def test_a_claim_says_which_timeouts_are_in_force_and_sets_those_it_gives(
    harness: CoreHarness, w1: FakeClient
) -> None:
    await harness.save(harness.operator, "a", max_duration_s=900)
    claimed = await harness.claim(w1, "a", "w1")
    assert (claimed["heartbeat_timeout_s"], claimed["max_duration_s"]) == (TIMEOUT_S, 900.0)
    again = await harness.claim(w1, "a", "w1", heartbeat_timeout_s=60, max_duration_s=1000)
    assert (again["heartbeat_timeout_s"], again["max_duration_s"]) == (60.0, 1000.0)
    assert again["epoch"] == claimed["epoch"]
    assert again["version"] > claimed["version"]
    await harness.advance(TIMEOUT_S + 1)
    assert harness.phase("a") is Phase.LIVE
    harness.check_replay()
    await harness.advance(30)
    assert harness.phase("a") is Phase.SUSPECT


async def test_a_claim_by_another_gives_its_own_timeouts(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.save(w1, "a", heartbeat_timeout_s=10)
    claimed = await harness.claim(w2, "a", "w2", steal=True, heartbeat_timeout_s=60, max_duration_s=50)
    assert (claimed["heartbeat_timeout_s"], claimed["max_duration_s"]) == (60.0, 50.0)
    await harness.advance(49)
    assert harness.phase("a") is Phase.LIVE
    await harness.advance(2)
    assert harness.core.session("a").facts.ended_reason == "max_duration"
    harness.check_replay()


async def test_what_was_over_time_gets_the_limit_that_its_claim_gives(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.save(w1, "a", max_duration_s=5)
    await harness.advance(6)
    assert (await harness.claim(w2, "a", "w2", max_duration_s=20))["max_duration_s"] == 20.0
    await harness.advance(15)
    assert harness.core.session("a").facts.ended_reason == "max_duration"


@pytest.mark.parametrize("bad", [0, -1, "60"])
@pytest.mark.parametrize("name", ["heartbeat_timeout_s", "max_duration_s"])
async def test_a_claim_with_a_wrong_timeout_takes_nothing(
    harness: CoreHarness, w1: FakeClient, name: str, bad: Any
) -> None:
    await harness.save(harness.operator, "a")
    data = await harness.refused(w1, "session.claim", session_id="a", worker_id="w1", **{name: bad})
    assert (data["kind"], data["path"]) == ("invalid_params", f"$.params.{name}")


@pytest.mark.parametrize("how", ["reload", "restart"])
async def test_a_default_that_is_changed_is_that_of_new_calls(
    harness: CoreHarness, w1: FakeClient, how: str
) -> None:
    await harness.save(w1, "created")
    await harness.save(harness.operator, "claimed")
    await harness.claim(w1, "claimed", "w1")
    if how == "restart":
        harness.options = {"reaper": ReaperConfig(heartbeat_timeout_s=6)}
        await harness.restart()
        w1 = await harness.worker("w1", harness.process_of(w1))
    harness.core.liveness.timeout_s = 6.0
    new = await harness.save(harness.operator, "new")
    assert new["heartbeat_timeout_s"] == 6.0
    for _ in range(3):  # by the interval that was learned when the call began
        await harness.advance(TIMEOUT_S / 3)
        assert [harness.phase(call) for call in ("created", "claimed")] == [Phase.LIVE] * 2
        await harness.request(w1, "session.heartbeat", session_ids=["created", "claimed"])
    assert harness.phase("new") is Phase.SUSPECT
    assert (await harness.claim(w1, "claimed", "w1"))["heartbeat_timeout_s"] == TIMEOUT_S
    harness.check_replay()


async def test_who_was_told_a_default_is_not_held_to_a_shorter_one(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.request(w1, "server.info")
    harness.core.liveness.timeout_s = 6.0
    assert (await harness.save(w1, "a"))["heartbeat_timeout_s"] == TIMEOUT_S
    await harness.request(w1, "server.info")
    assert (await harness.save(w1, "b"))["heartbeat_timeout_s"] == 6.0
    harness.core.liveness.timeout_s = 60.0
    assert (await harness.save(w1, "c"))["heartbeat_timeout_s"] == 60.0


async def test_the_silent_owner_claims_its_own_in_the_same_epoch(harness: CoreHarness, w1: FakeClient) -> None:
    await make(harness, w1, "heartbeat_timeout")
    assert (await harness.claim(w1, "a", "w1"))["epoch"] == 0
    assert harness.new_events() == [event("recovered", "a", owner="w1", labels={"app": "x"})]


@pytest.mark.parametrize("was", ["live", "silent", "claim_next"])
async def test_a_new_process_under_an_old_id_has_an_epoch_of_its_own(
    harness: CoreHarness, w1: FakeClient, was: str
) -> None:
    await harness.save(w1, "a")
    if was == "silent":
        await harness.advance(TIMEOUT_S)
    await harness.kill(w1)
    again = await harness.worker("w1")
    if was == "claim_next":
        claimed = await harness.request(again, "session.claim_next", worker_id="w1")
    else:
        claimed = await harness.claim(again, "a", "w1")
    assert claimed["epoch"] == 1


async def test_a_new_process_that_asks_in_one_breath_has_an_epoch_of_its_own(
    harness: CoreHarness, w1: FakeClient
) -> None:
    """Before the loop came to see to what the old one had; and what it claimed so is no suspect afterwards."""
    for number in range(100):
        await harness.save(w1, f"s{number}")
    program = harness.process()
    new = harness.connect(program)
    harness.exit(harness.process_of(w1))
    await harness.settle()
    harness.new_events()
    register = ("worker.register", {"worker_id": "w1"})
    claim = ("session.claim", {"session_id": "s99", "worker_id": "w1"})
    replies = await harness.replies(new, register, claim)
    assert replies[1]["result"]["epoch"] == 1
    assert harness.phase("s99") is Phase.LIVE
    told = harness.new_events()
    assert [e["reason"] for e in told if e.get("session_id") == "s99"] == ["worker_exited"]
    while len(harness.core.liveness.suspects) < 99:
        await harness.settle()
    assert harness.phase("s99") is Phase.LIVE


async def test_what_a_worker_ended_is_nobodys_to_claim(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.save(w1, "a")
    await harness.request(w1, "session.end", session_id="a", reason="hangup")
    for steal in (False, True):
        data = await harness.refused(w2, "session.claim", session_id="a", worker_id="w2", steal=steal)
        assert (data["kind"], data["reason"], data["ended_at"]) == ("session_ended", "hangup", TIME)
    assert (await harness.refused(w1, "session.claim", session_id="a", worker_id="w1"))["kind"] == "session_ended"


async def test_what_was_reaped_is_claimed_within_the_retention_only(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await make(harness, w1, "reaped")
    await harness.core.writer.write_round()
    await harness.advance(RETENTION_S)
    assert not harness.core.table.sessions
    data = await harness.refused(w2, "session.claim", session_id="a", worker_id="w2")
    assert (data["kind"], data["reason"]) == ("session_ended", "heartbeat_timeout")


@pytest.mark.parametrize("status", ["pending", "on_hold"])
async def test_a_revived_call_has_the_status_it_had(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient, status: str
) -> None:
    await harness.save(w1, "a", status)
    await harness.advance(TIMEOUT_S)
    await harness.advance(GRACE_S)
    claimed = await harness.claim(w2, "a", "w2")
    assert claimed["session"]["status"] == status
    entry = harness.core.session("a")
    assert (entry.facts.reaped, entry.facts.ended_reason, entry.facts.ended_us, entry.facts.status_before) == (
        False,
        "",
        0,
        "",
    )


async def test_what_was_over_time_goes_on_without_the_limit(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.request(
        w1, "session.save", session={"id": "a", "status": "active", "created_at": TIME}, max_duration_s=10.0
    )
    await harness.advance(10.0)
    assert harness.core.session("a").facts.ended_reason == "max_duration"
    await harness.claim(w2, "a", "w2")
    await harness.advance(TIMEOUT_S - 1)
    assert harness.phase("a") is Phase.LIVE


async def test_a_claim_of_a_call_with_a_limit_leaves_the_limit(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.request(
        w1, "session.save", session={"id": "a", "status": "active", "created_at": TIME}, max_duration_s=20.0
    )
    await harness.advance(15.0)
    await harness.claim(w2, "a", "w2", steal=True)
    await harness.advance(5.0)
    assert harness.core.session("a").facts.ended_reason == "max_duration"


async def test_a_worker_claims_for_itself_and_an_operator_for_anybody(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.save(harness.operator, "a")
    for method, more in (("session.claim", {"session_id": "a"}), ("session.claim_next", {})):
        assert (await harness.refused(w1, method, worker_id="w2", **more))["kind"] == "forbidden"
    assert (await harness.claim(harness.operator, "a", "script"))["owner"] == "script"
    await harness.advance(TIMEOUT_S)
    await harness.heartbeat(harness.operator, "a")
    assert harness.phase("a") is Phase.LIVE, "which has beats only"


@pytest.mark.parametrize("bad", ["", "x" * 65, "a b", "é", "a\n", "\x7f", "\t"])
async def test_worker_ids_that_are_none(harness: CoreHarness, bad: str) -> None:
    await harness.save(harness.operator, "a")
    for method, more in (
        ("session.claim", {"session_id": "a"}),
        ("session.claim_next", {}),
        ("worker.register", {}),
    ):
        data = await harness.refused(harness.operator, method, worker_id=bad, **more)
        assert (data["kind"], data["path"]) == ("invalid_params", "$.params.worker_id")


async def test_the_longest_worker_id(harness: CoreHarness) -> None:
    await harness.save(harness.operator, "a")
    assert (await harness.claim(harness.operator, "a", "~" * 64))["owner"] == "~" * 64


async def test_a_claim_of_what_is_not_there(harness: CoreHarness, w1: FakeClient) -> None:
    assert (await harness.refused(w1, "session.claim", session_id="no", worker_id="w1"))["kind"] == "not_found"


async def test_a_wrong_history_takes_nothing(harness: CoreHarness, w1: FakeClient, w2: FakeClient) -> None:
    await make(harness, w1, "released")
    for method, more in (("session.claim", {"session_id": "a"}), ("session.claim_next", {})):
        data = await harness.refused(w2, method, worker_id="w2", history="some", **more)
        assert (data["kind"], data["path"]) == ("invalid_params", "$.params.history")


async def test_of_two_claims_at_once_one_is_taken(harness: CoreHarness, w1: FakeClient, w2: FakeClient) -> None:
    w3 = await harness.worker("w3")
    await make(harness, w1, "released")
    claims = ((w2, "w2"), (w3, "w3"))
    asked = [(w, w.send(("session.claim", {"session_id": "a", "worker_id": i}))) for w, i in claims]
    await harness.settle()
    first, second = (w.replies[ids[0]] for w, ids in asked)
    assert first["result"]["epoch"] == 1
    assert second["error"]["data"] | {"kind": "conflict", "owner": "w2"} == second["error"]["data"]


# -- claim_next ----------------------------------------------------------------------------------------------------


async def test_orphans_come_before_suspects_and_the_oldest_first(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    w3 = await harness.worker("w3")
    for name in "abcd":
        await harness.save(w1, name)
    await harness.save(harness.operator, "nobodys")
    await harness.save(w3, "lost", heartbeat_timeout_s=100.0)
    await harness.request(w1, "session.release", session_id="c", epoch=0)
    await harness.request(w1, "session.release", session_id="a", epoch=0)
    await harness.advance(TIMEOUT_S - 1)
    await harness.heartbeat(w2, "c")
    await harness.heartbeat(w2, "a")
    await harness.advance(1.0)
    assert {*harness.core.liveness.suspects} == {"b", "d", "nobodys"}
    await harness.kill(w3)
    taken = [await harness.request(w2, "session.claim_next", worker_id="w2", history="none") for _ in range(6)]
    assert [each and each["session"]["id"] for each in taken] == ["c", "a", "b", "d", "nobodys", "lost"]
    assert await harness.request(w2, "session.claim_next", worker_id="w2", history="none") is None
    assert [(e["session_id"], e["reason"]) for e in harness.new_events("claimed")] == [
        ("c", "released"), ("a", "released"), ("b", "heartbeat_timeout"), ("d", "heartbeat_timeout"),
        ("nobodys", "heartbeat_timeout"), ("lost", "worker_exited"),
    ]  # fmt: skip


async def test_a_suspected_orphan_is_still_an_orphan(harness: CoreHarness, w1: FakeClient, w2: FakeClient) -> None:
    await make(harness, w1, "released")
    await harness.advance(TIMEOUT_S)
    assert harness.phase("a") is Phase.SUSPECT
    assert (await harness.request(w2, "session.claim_next", worker_id="w2"))["session"]["id"] == "a"
    assert harness.new_events("claimed")[0]["reason"] == "heartbeat_timeout"


async def test_labels_choose(harness: CoreHarness, w1: FakeClient, w2: FakeClient) -> None:
    for number, labels in enumerate([{"app": "x"}, {"app": "y", "lang": "de"}, {"app": "y"}]):
        await harness.save(w1, f"s{number}", labels=labels)
        await harness.request(w1, "session.release", session_id=f"s{number}", epoch=0)

    async def next_of(labels: dict[str, str]) -> str | None:
        claimed = await harness.request(w2, "session.claim_next", worker_id="w2", labels=labels)
        return claimed and claimed["session"]["id"]  # type: ignore[no-any-return]

    assert await next_of({"app": "z"}) is None
    assert await next_of({"app": "y", "lang": "en"}) is None
    assert await next_of({"app": "y"}) == "s1"
    assert await next_of({"app": "y"}) == "s2"
    assert await next_of({}) == "s0"


async def test_labels_choose_among_suspects_too_as_they_are_now(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    for number, labels in enumerate([{"app": "x"}, {"app": "y", "lang": "de"}, {"app": "y"}, {}]):
        await harness.save(w1, f"s{number}", labels=labels)
    await harness.save(harness.operator, "nobodys", labels={"app": "x"})
    await harness.advance(TIMEOUT_S)
    await harness.save(harness.operator, "s3", labels={"app": "z"})
    harness.check_consistency()

    async def next_of(labels: dict[str, str]) -> str | None:
        claimed = await harness.request(w2, "session.claim_next", worker_id="w2", labels=labels)
        return claimed and claimed["session"]["id"]  # type: ignore[no-any-return]

    assert await next_of({"app": "y", "lang": "en"}) is None
    assert await next_of({"app": "y"}) == "s1"
    assert await next_of({"app": "z"}) == "s3"
    assert [await next_of({"app": "x"}) for _ in range(3)] == ["s0", "nobodys", None]
    assert await next_of({}) == "s2"
    harness.check_consistency()


async def test_what_is_no_candidate(harness: CoreHarness, w1: FakeClient, w2: FakeClient) -> None:
    await harness.save(w1, "live")
    await harness.save(harness.operator, "never-owned")
    await harness.save(w1, "over")
    await harness.request(w1, "session.end", session_id="over")
    await harness.save(w1, "reaped", heartbeat_timeout_s=1.0)
    await harness.advance(1.0)
    await harness.advance(GRACE_S - 2)
    await harness.heartbeat(w1, "live")
    await harness.heartbeat(w1, "never-owned")
    await harness.advance(2.0)
    assert harness.core.session("reaped").facts.reaped
    assert harness.phase("never-owned") is Phase.LIVE
    assert await harness.request(w2, "session.claim_next", worker_id="w2") is None


async def test_its_own_silent_sessions_are_given_again_in_the_same_epoch(
    harness: CoreHarness, w1: FakeClient
) -> None:
    """It asks for it, so it does not know it: the reply to its claim was lost. Nobody else may get it instead."""
    await make(harness, w1, "heartbeat_timeout")
    claimed = await harness.request(w1, "session.claim_next", worker_id="w1")
    assert (claimed["session"]["id"], claimed["epoch"]) == ("a", 0)
    assert [e["type"] for e in harness.new_events()] == ["recovered"]
    assert await harness.request(w1, "session.claim_next", worker_id="w1") is None


async def test_a_thousand_that_ask_at_once_get_one_each(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    w3 = await harness.worker("w3")
    for number in range(40):
        await harness.save(w1, f"s{number}")
    await harness.kill(w1)
    harness.new_events()
    asked = [
        (w, w.send(*[("session.claim_next", {"worker_id": i, "history": "none"})] * 25))
        for w, i in ((w2, "w2"), (w3, "w3"))
    ]
    while not all(w.answered(ids) for w, ids in asked):
        await harness.settle()
    results = [w.replies[one]["result"] for w, ids in asked for one in ids]
    names = [each["session"]["id"] for each in results if each is not None]
    assert sorted(names) == sorted(f"s{number}" for number in range(40))
    assert len(harness.new_events("claimed")) == 40


async def test_a_claim_next_that_was_not_journaled_has_not_been(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await make(harness, w1, "released")
    harness.disk.error = FULL
    data = await harness.refused(w2, "session.claim_next", worker_id="w2")
    assert data["kind"] == "not_durable"
    harness.disk.error = None
    assert harness.ownership("a") == ("", 0, "released")
    assert (await harness.request(w2, "session.claim_next", worker_id="w2"))["epoch"] == 1


# -- release -------------------------------------------------------------------------------------------------------


async def test_a_released_call_is_an_orphan_with_a_full_timeout(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.save(w1, "a")
    await harness.advance(TIMEOUT_S - 1)
    harness.new_events()
    version = harness.core.session("a").version
    assert await harness.request(w1, "session.release", session_id="a", epoch=0) == {}
    assert harness.ownership("a") == ("", 0, "released")
    assert harness.core.session("a").version > version
    assert harness.new_events() == [event("released", "a", owner="w1", reason="released")]
    await harness.advance(TIMEOUT_S - 0.001)
    assert harness.phase("a") is Phase.LIVE


async def test_a_repeated_release_changes_nothing(harness: CoreHarness, w1: FakeClient) -> None:
    await make(harness, w1, "released")
    before = harness.durable_state()
    for peer in (w1, harness.operator):
        assert await harness.request(peer, "session.release", session_id="a", epoch=0) == {}
    assert harness.durable_state() == before
    assert harness.new_events() == []


async def test_a_suspect_that_is_released_lives_on(harness: CoreHarness, w1: FakeClient) -> None:
    await make(harness, w1, "heartbeat_timeout")
    await harness.request(w1, "session.release", session_id="a", epoch=0)
    assert harness.phase("a") is Phase.LIVE
    assert harness.ownership("a") == ("", 0, "released")
    assert [e["type"] for e in harness.new_events()] == ["released"]


async def test_a_release_needs_epoch_and_ownership(harness: CoreHarness, w1: FakeClient, w2: FakeClient) -> None:
    await harness.save(w1, "a")
    for peer, epoch in ((w1, 1), (w2, 0), (harness.operator, 1)):
        assert (await harness.refused(peer, "session.release", session_id="a", epoch=epoch))["kind"] == "fenced"
    assert (await harness.refused(w1, "session.release", session_id="a"))["kind"] == "invalid_params"
    assert (await harness.refused(w1, "session.release", session_id="no", epoch=0))["kind"] == "not_found"
    await harness.request(harness.operator, "session.release", session_id="a", epoch=0)
    assert harness.ownership("a") == ("", 0, "released")


async def test_a_late_release_of_what_was_claimed_since_is_fenced(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.save(w1, "a")
    await harness.claim(w2, "a", "w2", steal=True)
    assert (await harness.refused(w1, "session.release", session_id="a", epoch=0))["kind"] == "fenced"


async def test_what_has_ended_is_not_released(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.save(w1, "a")
    await harness.request(w1, "session.end", session_id="a")
    assert (await harness.refused(w1, "session.release", session_id="a", epoch=0))["kind"] == "session_ended"


@pytest.mark.parametrize("was", ["live", "heartbeat_timeout"])
async def test_a_release_that_was_not_journaled_has_not_been(
    harness: CoreHarness, w1: FakeClient, was: str
) -> None:
    await make(harness, w1, was)
    phase = harness.phase("a")
    harness.disk.error = FULL
    assert (await harness.refused(w1, "session.release", session_id="a", epoch=0))["kind"] == "not_durable"
    harness.disk.error = None
    assert harness.ownership("a") == ("w1", 0, "")
    assert harness.phase("a") is phase
    assert harness.new_events() == [{"type": "journal.full"}]
    await harness.request(w1, "session.release", session_id="a", epoch=0)


async def test_a_creation_that_was_not_journaled_leaves_no_owner(harness: CoreHarness, w1: FakeClient) -> None:
    harness.disk.error = FULL
    data = await harness.refused(w1, "session.save", session={"id": "a", "status": "active"})
    assert data["kind"] == "not_durable"
    harness.disk.error = None
    assert not harness.core.table.index.owned
    assert harness.new_events() == [{"type": "journal.full"}]
    assert await harness.request(w1, "session.claim_next", worker_id="w1") is None
    await harness.save(w1, "a")
    assert harness.ownership("a") == ("w1", 0, "")


# -- register and drain --------------------------------------------------------------------------------------------


async def test_a_registration_said_again(harness: CoreHarness) -> None:
    peer = harness.connect(harness.process())
    for _ in range(2):
        assert await harness.request(peer, "worker.register", worker_id="w1") == {"worker_id": "w1", "drain": False}
    assert harness.new_events() == [{"type": "worker.joined", "worker_id": "w1"}]
    assert (await harness.refused(peer, "worker.register", worker_id="w2"))["kind"] == "forbidden"
    await harness.save(peer, "a")
    assert harness.ownership("a") == ("w1", 0, "")


async def test_connections_of_one_process_are_one_worker(harness: CoreHarness, w1: FakeClient) -> None:
    beats = await harness.worker("w1", harness.process_of(w1))
    await harness.save(w1, "a")
    await harness.advance(TIMEOUT_S)
    await harness.heartbeat(beats, "a")
    assert harness.phase("a") is Phase.LIVE
    harness.drop_connection(w1)
    await harness.advance(2 * RECONNECT_S)
    assert harness.ownership("a") == ("w1", 0, "")
    assert harness.new_events("worker.joined", "worker.left") == []


async def test_a_second_process_under_one_id(harness: CoreHarness, w1: FakeClient) -> None:
    other = harness.connect(harness.process())
    data = await harness.refused(other, "worker.register", worker_id="w1")
    assert (data["kind"], data["owner"]) == ("conflict", "w1")
    harness.drop_connection(w1)
    data = await harness.refused(other, "worker.register", worker_id="w1")
    assert data["kind"] == "conflict", "it may come back"
    await harness.save(other, "a")
    assert harness.ownership("a") == ("", 0, ""), "it is nobody's connection"


async def test_while_it_drains_all_goes_on_but_new_calls(harness: CoreHarness, w1: FakeClient) -> None:
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
    await harness.request(w1, "session.release", session_id="a", epoch=0)
    w2 = harness.connect(harness.process())
    assert (await harness.request(w2, "worker.register", worker_id="w2"))["drain"] is True
    await harness.claim(w2, "a", "w2")
    await harness.request(w2, "session.end", session_id="a")
    assert await harness.request(harness.operator, "server.drain", on=True) == {"drain": True, "sessions": 0}
    harness.new_events()
    assert (await harness.request(harness.operator, "server.drain", on=False))["drain"] is False
    assert harness.new_events() == [{"type": "server.drain", "drain": False}]
    await harness.save(w1, "new")


# -- what is told --------------------------------------------------------------------------------------------------


async def test_a_suspicion_is_told_with_what_it_rests_on_and_when_it_ends(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.save(w1, "silent")
    await harness.advance(TIMEOUT_S - 1)
    await harness.save(w2, "dead")
    harness.new_events()
    await harness.advance(1.0)
    await harness.kill(w2)
    deadline = "2026-01-01T00:01:00Z"
    assert harness.new_events() == [
        event(
            "suspect", "silent", owner="w1", reason="heartbeat_timeout", evidence="silence", deadline=deadline
        ),
        {"type": "worker.left", "worker_id": "w2", "reason": "exited"},
        event(
            "suspect", "dead", owner="w2", reason="worker_exited", evidence="process_exited", deadline=deadline
        ),
    ]  # fmt: skip
    await harness.advance(GRACE_S - 0.001)
    assert harness.new_events() == []
    await harness.advance(0.001)
    assert harness.new_events() == [
        event("expired", "silent", owner="w1", reason="heartbeat_timeout"),
        event("expired", "dead", owner="w2", reason="worker_exited"),
    ]
    for name, reason in (("silent", "heartbeat_timeout"), ("dead", "worker_exited")):
        loaded = await harness.request(harness.operator, "session.load", session_id=name)
        assert (loaded["session"]["status"], loaded["ended_reason"]) == ("ended", reason)


ENDINGS: dict[str, tuple[str, str, str]] = {
    "end": ("ended", "hangup", "hangup"),
    "end unsaid": ("ended", "completed", "completed"),
    "save": ("ended", "completed", "completed"),
    "save new": ("ended", "completed", "completed"),
    "update": ("ended", "completed", "completed"),
    "silence": ("expired", "heartbeat_timeout", "heartbeat_timeout"),
    "exit": ("expired", "worker_exited", "worker_exited"),
    "overtime": ("expired", "max_duration", "max_duration"),
    "overtime suspect": ("expired", "max_duration", "max_duration"),
    "delete": ("deleted", "deleted", ""),
    "delete suspect": ("deleted", "deleted", ""),
    "end suspect": ("ended", "hangup", "hangup"),
}


@pytest.mark.parametrize("how", ENDINGS)
async def test_every_end_has_one_reason_and_one_event(harness: CoreHarness, w1: FakeClient, how: str) -> None:
    session = {"id": "a", "status": "ended" if how == "save new" else "active", "created_at": TIME}
    limit = {"overtime": 10.0, "overtime suspect": 40.0}.get(how)
    await harness.request(w1, "session.save", session=session, **({"max_duration_s": limit} if limit else {}))
    if how.endswith("suspect"):
        await harness.advance(TIMEOUT_S)
        assert harness.phase("a") is Phase.SUSPECT
    if how.startswith("end"):
        said = {} if how == "end unsaid" else {"reason": "hangup"}
        for _ in range(2):
            await harness.request(w1, "session.end", session_id="a", **said)
    elif how == "save":
        for _ in range(2):
            await harness.save(w1, "a", "ended")
    elif how == "update":
        for _ in range(2):
            await harness.request(w1, "session.update", session_id="a", set={"status": "ended"})
    elif how == "exit":
        await harness.kill(w1)
    elif how.startswith("delete"):
        for _ in range(2):
            await harness.request(w1, "session.delete", session_id="a", op="deletion")
        assert (await harness.refused(w1, "session.delete", session_id="a"))["kind"] == "not_found"
    for _ in range(5):
        await harness.advance(TIMEOUT_S)
    type_, reason, recorded = ENDINGS[how]
    ends = [e for e in harness.new_events() if e["type"] in ENDS]
    assert ends == [event(type_, "a", owner="w1", reason=reason)]
    if recorded:
        loaded = await harness.request(harness.operator, "session.load", session_id="a")
        assert loaded["ended_reason"] == recorded


async def test_an_end_that_was_not_journaled_is_told_by_nobody(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.save(w1, "a")
    await harness.save(w1, "b")
    await harness.advance(TIMEOUT_S)
    harness.new_events()
    harness.disk.error = FULL
    assert (await harness.refused(w1, "session.end", session_id="a"))["kind"] == "not_durable"
    await harness.advance(GRACE_S)
    harness.disk.error = None
    assert [e["type"] for e in harness.new_events()] == ["journal.full"]
    harness.check_consistency()
    await harness.advance(TIMEOUT_S + GRACE_S)
    await harness.advance(GRACE_S)
    ends = [(e["session_id"], e["type"]) for e in harness.new_events() if e["type"] in ENDS]
    assert sorted(ends) == [("a", "expired"), ("b", "expired")]


async def test_a_revival_that_was_not_journaled_is_told_by_nobody(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.save(w1, "a", "ended")
    harness.new_events()
    harness.disk.error = FULL
    data = await harness.refused(w1, "session.save", session={"id": "a", "status": "active"})
    assert data["kind"] == "not_durable"
    harness.disk.error = None
    assert harness.new_events() == [{"type": "journal.full"}]


async def test_an_ended_orphan_is_revived_in_an_epoch_of_its_own(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await make(harness, w1, "released")
    await harness.request(harness.operator, "session.end", session_id="a")
    await harness.save(w2, "a")
    assert harness.ownership("a") == ("w2", 1, "")
    assert (await harness.refused(w1, "session.record_interruption", session_id="a", epoch=0))["kind"] == "fenced"
    assert await harness.request(w1, "session.claim_next", worker_id="w1") is None
