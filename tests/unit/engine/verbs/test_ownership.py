"""Who holds a session and how it changes hands: each rule of the contract, one at a time, over a real core."""

from __future__ import annotations

from typing import Any

import pytest

from callstate_client.engine.liveness import Phase
from callstate_sidecar.config.schema import ReaperConfig
from support.core import TIME, Peer
from support.floor import ENDS, FULL, GRACE_S, RECONNECT_S, RETENTION_S, TIMEOUT_S, Floor

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])  # time is passed in, and processes are pipes


@pytest.fixture
async def w1(floor: Floor) -> Peer:
    peer = await floor.worker("w1")
    floor.told()
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


async def test_a_worker_owns_what_it_creates(floor: Floor, w1: Peer) -> None:
    await floor.save(w1, "a", labels={"app": "x"})
    assert floor.held("a") == ("w1", 0, "")
    assert floor.told() == [event("created", "a", owner="w1", labels={"app": "x"})]
    loaded = await floor.ask(floor.operator, "session.load", session_id="a")
    assert (loaded["owner"], loaded["epoch"]) == ("w1", 0)


async def test_what_nobody_registered_creates_is_nobodys(floor: Floor) -> None:
    await floor.save(floor.operator, "a")
    assert floor.held("a") == ("", 0, "")
    assert "owner" not in await floor.ask(floor.operator, "session.load", session_id="a")


async def test_a_new_session_under_an_old_id_goes_on_from_its_epoch(floor: Floor, w1: Peer, w2: Peer) -> None:
    await floor.save(w1, "a")
    await floor.claim(w2, "a", "w2", steal=True)
    await floor.ask(w2, "session.delete", session_id="a")
    await floor.save(w1, "a")
    assert floor.held("a") == ("w1", 1, "")


@pytest.mark.parametrize("name", [*SIGNS, *LAST_WORDS])
async def test_another_workers_session_is_not_touched(floor: Floor, w1: Peer, w2: Peer, name: str) -> None:
    await floor.save(w1, "a")
    await floor.turn(w1, "a")
    floor.told()
    method, params = (SIGNS | LAST_WORDS)[name]
    if name == "beats":
        assert await floor.ask(w2, method, **params) == {"missing": [], "ended": [], "fenced": ["a"]}
    else:
        data = await floor.refused(w2, method, **params)
        assert (data["kind"], data["epoch"], data["owner"]) == ("fenced", 0, "w1")
    assert floor.told() == [event("fenced", "a", owner="w1", worker_id="w2")]


async def test_being_fenced_is_told_once_an_epoch(floor: Floor, w1: Peer, w2: Peer) -> None:
    await floor.save(w1, "a")
    for _ in range(3):
        await floor.refused(w2, "session.heartbeat", session_id="a")
    await floor.refused(w1, "session.record_interruption", session_id="a", epoch=7)
    await floor.claim(w2, "a", "w2", steal=True)
    for _ in range(3):
        await floor.refused(w1, "session.heartbeat", session_id="a")
    assert [(e["epoch"], e["worker_id"]) for e in floor.told("fenced")] == [(0, "w2"), (1, "w1")]


@pytest.mark.parametrize("name", SIGNS)
async def test_what_the_owner_does_is_life(floor: Floor, w1: Peer, name: str) -> None:
    await floor.save(w1, "a")
    await floor.turn(w1, "a")
    await floor.pass_time(TIMEOUT_S)
    assert floor.phase("a") is Phase.SUSPECT
    floor.told()
    method, params = SIGNS[name]
    await floor.ask(w1, method, **params)
    assert floor.phase("a") is Phase.LIVE
    assert floor.told() == [event("recovered", "a", owner="w1")]
    await floor.pass_time(TIMEOUT_S - 0.001)
    assert floor.phase("a") is Phase.LIVE


@pytest.mark.parametrize("name", SIGNS)
async def test_anybody_speaks_for_what_is_nobodys(floor: Floor, w1: Peer, name: str) -> None:
    await floor.save(floor.operator, "a")
    await floor.turn(floor.operator, "a")
    method, params = SIGNS[name]
    for peer in (w1, floor.operator):
        await floor.pass_time(TIMEOUT_S)
        assert floor.phase("a") is Phase.SUSPECT
        await floor.ask(peer, method, **params)
        assert floor.phase("a") is Phase.LIVE
    assert floor.held("a") == ("", 0, ""), "which does not make them its owner"


@pytest.mark.parametrize("name", MUTATIONS)
async def test_an_operators_change_is_taken_and_is_life_only_with_the_epoch(
    floor: Floor, w1: Peer, name: str
) -> None:
    await floor.save(w1, "a")
    await floor.turn(w1, "a")
    await floor.pass_time(TIMEOUT_S)
    method, params = MUTATIONS[name]
    version = floor.core.entry("a").version
    await floor.ask(floor.operator, method, **params)
    assert floor.core.entry("a").version > version
    assert floor.phase("a") is Phase.SUSPECT
    data = await floor.refused(floor.operator, method, **params, epoch=1)
    assert (data["kind"], data["epoch"]) == ("fenced", 0)
    await floor.ask(floor.operator, method, **params, epoch=0)
    assert floor.phase("a") is Phase.LIVE
    assert floor.held("a") == ("w1", 0, "")


@pytest.mark.parametrize("name", ["beat", "beats"])
async def test_an_operators_beat_is_taken_and_is_life_while_the_owner_is_away(
    floor: Floor, w1: Peer, name: str
) -> None:
    await floor.save(w1, "a")
    await floor.pass_time(TIMEOUT_S)
    method, params = SIGNS[name]
    none_wrong = {} if name == "beat" else {"missing": [], "ended": [], "fenced": []}
    assert await floor.ask(floor.operator, method, **params) == none_wrong
    assert floor.phase("a") is Phase.SUSPECT
    floor.hang_up(w1)
    assert await floor.ask(floor.operator, method, **params) == none_wrong
    assert floor.phase("a") is Phase.LIVE


async def test_ended_sessions_take_late_words_of_their_owner(floor: Floor, w1: Peer, w2: Peer) -> None:
    await floor.save(w1, "a")
    await floor.ask(w1, "session.end", session_id="a", reason="hangup")
    await floor.turn(w1, "a")
    await floor.turn(floor.operator, "a")
    await floor.ask(w1, "session.update", session_id="a", set={"to": "+1"})
    assert (await floor.refused(w2, "session.add_turn", session_id="a", turn={}))["kind"] == "fenced"
    assert (await floor.refused(w1, "session.heartbeat", session_id="a"))["kind"] == "session_ended"
    await floor.save(w1, "a")
    assert floor.held("a") == ("w1", 0, ""), "revived, and still its owner's"
    assert [e["type"] for e in floor.told()] == ["created", "ended", "fenced", "recovered"]


async def test_reaped_sessions_take_nothing(floor: Floor, w1: Peer) -> None:
    await floor.save(w1, "a")
    await floor.turn(w1, "a")
    await floor.pass_time(TIMEOUT_S)
    await floor.pass_time(GRACE_S)
    for name, (method, params) in SIGNS.items():
        if name == "beats":
            assert (await floor.ask(w1, method, **params))["ended"] == ["a"]
        else:
            data = await floor.refused(w1, method, **params)
            assert (data["kind"], data["reason"]) == ("session_ended", "heartbeat_timeout")


# -- claim ---------------------------------------------------------------------------------------------------------


async def make(floor: Floor, w1: Peer, how: str) -> None:
    """Session `a`, w1's where it has an owner, claimable for this reason."""
    await floor.save(floor.operator if how == "unowned" else w1, "a", labels={"app": "x"})
    if how == "released":
        await floor.ask(w1, "session.release", session_id="a", epoch=0)
    elif how == "disconnected":
        floor.hang_up(w1)
        await floor.pass_time(RECONNECT_S)
    elif how in ("heartbeat_timeout", "reaped"):
        await floor.pass_time(TIMEOUT_S)
    elif how == "worker_exited":
        await floor.kill(w1)
    if how == "reaped":
        await floor.pass_time(GRACE_S)
    floor.told()


CLAIMABLE = ["released", "disconnected", "heartbeat_timeout", "worker_exited", "reaped", "unowned", "stolen"]


@pytest.mark.parametrize("how", CLAIMABLE)
async def test_a_claim_says_why_it_could_be(floor: Floor, w1: Peer, w2: Peer, how: str) -> None:
    await make(floor, w1, how)
    version = floor.core.entry("a").version
    await floor.pass_time(1.0)
    claimed = await floor.claim(w2, "a", "w2", steal=how == "stolen")
    assert (claimed["owner"], claimed["epoch"]) == ("w2", 1)
    assert claimed["version"] > version
    assert claimed["session"]["status"] == "active"
    assert "ended_reason" not in claimed
    assert floor.held("a") == ("w2", 1, "")
    assert floor.told() == [event("claimed", "a", owner="w2", epoch=1, reason=how, labels={"app": "x"})]
    assert "a" in floor.core.cache.dirty, "the store hears of it"
    await floor.pass_time(TIMEOUT_S - 0.001)
    assert floor.phase("a") is Phase.LIVE, "a full timeout"
    await floor.pass_time(0.001)
    assert floor.phase("a") is Phase.SUSPECT


@pytest.mark.parametrize("how", CLAIMABLE)
async def test_a_claim_that_was_not_journaled_has_not_been(floor: Floor, w1: Peer, w2: Peer, how: str) -> None:
    """As it was: also a suspect is a suspect, for its process is as dead as before."""
    await make(floor, w1, how)
    phase, suspected = floor.phase("a"), floor.core.entry("a").suspected
    floor.disk.error = FULL
    data = await floor.refused(w2, "session.claim", session_id="a", worker_id="w2", steal=True)
    assert data["kind"] == "not_durable"
    floor.disk.error = None
    assert (floor.phase("a"), floor.core.entry("a").suspected) == (phase, suspected)
    assert floor.told() == [{"type": "journal.full"}]
    floor.check()
    assert (await floor.claim(w2, "a", "w2", steal=True))["epoch"] == 1
    assert [e["type"] for e in floor.told()] == ["claimed", "journal.ok"]


async def test_the_living_are_their_owners_unless_stolen(floor: Floor, w1: Peer, w2: Peer) -> None:
    await floor.save(w1, "a")
    data = await floor.refused(w2, "session.claim", session_id="a", worker_id="w2")
    assert (data["kind"], data["owner"]) == ("conflict", "w1")
    await floor.claim(w2, "a", "w2", steal=True)
    data = await floor.refused(w1, "session.add_turn", session_id="a", turn={})
    assert (data["kind"], data["epoch"], data["owner"]) == ("fenced", 1, "w2")


async def test_a_repeated_claim_is_the_same_claim_and_life(floor: Floor, w1: Peer) -> None:
    await floor.save(floor.operator, "a")
    first = await floor.claim(w1, "a", "w1")
    await floor.pass_time(TIMEOUT_S - 1)
    floor.told()
    again = await floor.claim(w1, "a", "w1")
    assert (again["epoch"], again["version"]) == (first["epoch"], first["version"]) == (1, first["version"])
    assert floor.told() == []
    await floor.pass_time(TIMEOUT_S - 1)
    assert floor.phase("a") is Phase.LIVE


# -- instances ---------------------------------------------------------------------------------------------------


async def test_an_epoch_is_one_instances_alone(floor: Floor) -> None:
    program = floor.program()
    one = await floor.worker("w1", program, instance="i1")
    other = await floor.worker("w1", program, instance="i2")
    await floor.save(one, "a")
    assert (await floor.claim(one, "a", "w1"))["epoch"] == 0  # a repeat
    for method, params in SIGNS.values():
        if "session_ids" in params:
            assert (await floor.ask(other, method, **params))["fenced"] == ["a"]
        else:
            assert (await floor.refused(other, method, **params))["kind"] == "fenced"
    # one hangs, and the other takes its call over; then the one goes on
    assert (await floor.claim(other, "a", "w1"))["epoch"] == 1
    floor.check_replay()
    assert (await floor.refused(one, "session.add_turn", session_id="a", turn={}, epoch=0))["kind"] == "fenced"
    assert (await floor.refused(one, "session.heartbeat", session_id="a"))["kind"] == "fenced"
    assert (await floor.ask(one, "session.heartbeat", session_ids=["a"]))["fenced"] == ["a"]
    await floor.turn(other, "a", epoch=1)
    assert (await floor.claim(other, "a", "w1"))["epoch"] == 1


async def test_a_silent_call_is_another_instances_in_an_epoch_of_its_own(floor: Floor) -> None:
    program = floor.program()
    one = await floor.worker("w1", program, instance="i1")
    other = await floor.worker("w1", program, instance="i2")
    await floor.save(one, "a")
    await floor.pass_time(TIMEOUT_S)
    claimed = await floor.ask(other, "session.claim_next", worker_id="w1")
    assert (claimed["session"]["id"], claimed["epoch"]) == ("a", 1)
    assert floor.told("claimed") == [event("claimed", "a", owner="w1", reason="heartbeat_timeout") | {"epoch": 1}]


async def test_an_instance_that_is_gone_keeps_nobody_of_its_worker_out(floor: Floor) -> None:
    program = floor.program()
    one = await floor.worker("w1", program, instance="i1")
    other = await floor.worker("w1", program, instance="i2")
    await floor.save(one, "a")
    await floor.hung_up(one)
    await floor.turn(other, "a")
    await floor.beat(other, "a")
    assert (await floor.claim(other, "a", "w1"))["epoch"] == 1


@pytest.mark.parametrize("instance", ["i1", "i2"])
async def test_an_instance_outlives_the_daemon(floor: Floor, instance: str) -> None:
    program = floor.program()
    await floor.save(await floor.worker("w1", program, instance="i1"), "a")
    await floor.restart()
    again = await floor.worker("w1", program, instance=instance)
    assert (await floor.claim(again, "a", "w1"))["epoch"] == (0 if instance == "i1" else 1)


async def test_an_operators_claim_for_a_worker_leaves_it_its_epoch(floor: Floor) -> None:
    one = await floor.worker("w1", instance="i1")
    await floor.save(one, "a")
    assert (await floor.claim(floor.operator, "a", "w1"))["epoch"] == 0
    await floor.turn(one, "a", epoch=0)


@pytest.mark.parametrize("name", ["instance", "process"])
@pytest.mark.parametrize("bad", ["", "x" * 65, 5])
async def test_a_wrong_word_registers_nobody(floor: Floor, name: str, bad: Any) -> None:
    peer = floor.connect(floor.program())
    data = await floor.refused(peer, "worker.register", worker_id="w1", **{name: bad})
    assert (data["kind"], data["path"]) == ("invalid_params", f"$.params.{name}")
    assert not floor.core.attendance.workers.is_connected("w1")


async def test_who_goes_by_replies_follows_a_default_that_is_lowered(floor: Floor) -> None:
    one = await floor.worker("w1", instance="i1")
    await floor.ask(one, "server.info")
    floor.core.liveness.timeout_s = 6.0
    assert (await floor.save(one, "a"))["heartbeat_timeout_s"] == 6.0


# -- timeouts ------------------------------------------------------------------------------------------------------


async def test_a_claim_says_which_timeouts_are_in_force_and_sets_those_it_gives(floor: Floor, w1: Peer) -> None:
    await floor.save(floor.operator, "a", max_duration_s=900)
    claimed = await floor.claim(w1, "a", "w1")
    assert (claimed["heartbeat_timeout_s"], claimed["max_duration_s"]) == (TIMEOUT_S, 900.0)
    again = await floor.claim(w1, "a", "w1", heartbeat_timeout_s=60, max_duration_s=1000)
    assert (again["heartbeat_timeout_s"], again["max_duration_s"]) == (60.0, 1000.0)
    assert again["epoch"] == claimed["epoch"]
    assert again["version"] > claimed["version"]
    await floor.pass_time(TIMEOUT_S + 1)
    assert floor.phase("a") is Phase.LIVE
    floor.check_replay()
    await floor.pass_time(30)
    assert floor.phase("a") is Phase.SUSPECT


async def test_a_claim_by_another_gives_its_own_timeouts(floor: Floor, w1: Peer, w2: Peer) -> None:
    await floor.save(w1, "a", heartbeat_timeout_s=10)
    claimed = await floor.claim(w2, "a", "w2", steal=True, heartbeat_timeout_s=60, max_duration_s=50)
    assert (claimed["heartbeat_timeout_s"], claimed["max_duration_s"]) == (60.0, 50.0)
    await floor.pass_time(49)
    assert floor.phase("a") is Phase.LIVE
    await floor.pass_time(2)
    assert floor.core.entry("a").ended_reason == "max_duration"
    floor.check_replay()


async def test_what_was_over_time_gets_the_limit_that_its_claim_gives(floor: Floor, w1: Peer, w2: Peer) -> None:
    await floor.save(w1, "a", max_duration_s=5)
    await floor.pass_time(6)
    assert (await floor.claim(w2, "a", "w2", max_duration_s=20))["max_duration_s"] == 20.0
    await floor.pass_time(15)
    assert floor.core.entry("a").ended_reason == "max_duration"


@pytest.mark.parametrize("bad", [0, -1, "60"])
@pytest.mark.parametrize("name", ["heartbeat_timeout_s", "max_duration_s"])
async def test_a_claim_with_a_wrong_timeout_takes_nothing(floor: Floor, w1: Peer, name: str, bad: Any) -> None:
    await floor.save(floor.operator, "a")
    data = await floor.refused(w1, "session.claim", session_id="a", worker_id="w1", **{name: bad})
    assert (data["kind"], data["path"]) == ("invalid_params", f"$.params.{name}")


@pytest.mark.parametrize("how", ["reload", "restart"])
async def test_a_default_that_is_changed_is_that_of_new_calls(floor: Floor, w1: Peer, how: str) -> None:
    await floor.save(w1, "created")
    await floor.save(floor.operator, "claimed")
    await floor.claim(w1, "claimed", "w1")
    if how == "restart":
        floor.options = {"reaper": ReaperConfig(heartbeat_timeout_s=6)}
        await floor.restart()
        w1 = await floor.worker("w1", floor.program_of(w1))
    floor.core.liveness.timeout_s = 6.0
    new = await floor.save(floor.operator, "new")
    assert new["heartbeat_timeout_s"] == 6.0
    for _ in range(3):  # by the interval that was learned when the call began
        await floor.pass_time(TIMEOUT_S / 3)
        assert [floor.phase(call) for call in ("created", "claimed")] == [Phase.LIVE] * 2
        await floor.ask(w1, "session.heartbeat", session_ids=["created", "claimed"])
    assert floor.phase("new") is Phase.SUSPECT
    assert (await floor.claim(w1, "claimed", "w1"))["heartbeat_timeout_s"] == TIMEOUT_S
    floor.check_replay()


async def test_who_was_told_a_default_is_not_held_to_a_shorter_one(floor: Floor, w1: Peer) -> None:
    await floor.ask(w1, "server.info")
    floor.core.liveness.timeout_s = 6.0
    assert (await floor.save(w1, "a"))["heartbeat_timeout_s"] == TIMEOUT_S
    await floor.ask(w1, "server.info")
    assert (await floor.save(w1, "b"))["heartbeat_timeout_s"] == 6.0
    floor.core.liveness.timeout_s = 60.0
    assert (await floor.save(w1, "c"))["heartbeat_timeout_s"] == 60.0


async def test_the_silent_owner_claims_its_own_in_the_same_epoch(floor: Floor, w1: Peer) -> None:
    await make(floor, w1, "heartbeat_timeout")
    assert (await floor.claim(w1, "a", "w1"))["epoch"] == 0
    assert floor.told() == [event("recovered", "a", owner="w1", labels={"app": "x"})]


@pytest.mark.parametrize("was", ["live", "silent", "claim_next"])
async def test_a_new_process_under_an_old_id_has_an_epoch_of_its_own(floor: Floor, w1: Peer, was: str) -> None:
    await floor.save(w1, "a")
    if was == "silent":
        await floor.pass_time(TIMEOUT_S)
    await floor.kill(w1)
    again = await floor.worker("w1")
    if was == "claim_next":
        claimed = await floor.ask(again, "session.claim_next", worker_id="w1")
    else:
        claimed = await floor.claim(again, "a", "w1")
    assert claimed["epoch"] == 1


async def test_a_new_process_that_asks_in_one_breath_has_an_epoch_of_its_own(floor: Floor, w1: Peer) -> None:
    """Before the loop came to see to what the old one had; and what it claimed so is no suspect afterwards."""
    for number in range(100):
        await floor.save(w1, f"s{number}")
    program = floor.program()
    new = floor.connect(program)
    floor.exit(floor.program_of(w1))
    await floor.settle()
    floor.told()
    register = ("worker.register", {"worker_id": "w1"})
    claim = ("session.claim", {"session_id": "s99", "worker_id": "w1"})
    replies = await floor.replies(new, register, claim)
    assert replies[1]["result"]["epoch"] == 1
    assert floor.phase("s99") is Phase.LIVE
    told = floor.told()
    assert [e["reason"] for e in told if e.get("session_id") == "s99"] == ["worker_exited"]
    while len(floor.core.liveness.suspects) < 99:
        await floor.settle()
    assert floor.phase("s99") is Phase.LIVE


async def test_what_a_worker_ended_is_nobodys_to_claim(floor: Floor, w1: Peer, w2: Peer) -> None:
    await floor.save(w1, "a")
    await floor.ask(w1, "session.end", session_id="a", reason="hangup")
    for steal in (False, True):
        data = await floor.refused(w2, "session.claim", session_id="a", worker_id="w2", steal=steal)
        assert (data["kind"], data["reason"], data["ended_at"]) == ("session_ended", "hangup", TIME)
    assert (await floor.refused(w1, "session.claim", session_id="a", worker_id="w1"))["kind"] == "session_ended"


async def test_what_was_reaped_is_claimed_within_the_retention_only(floor: Floor, w1: Peer, w2: Peer) -> None:
    await make(floor, w1, "reaped")
    await floor.core.writer._round()
    await floor.pass_time(RETENTION_S)
    assert not floor.core.cache.entries
    data = await floor.refused(w2, "session.claim", session_id="a", worker_id="w2")
    assert (data["kind"], data["reason"]) == ("session_ended", "heartbeat_timeout")


@pytest.mark.parametrize("status", ["pending", "on_hold"])
async def test_a_revived_call_has_the_status_it_had(floor: Floor, w1: Peer, w2: Peer, status: str) -> None:
    await floor.save(w1, "a", status)
    await floor.pass_time(TIMEOUT_S)
    await floor.pass_time(GRACE_S)
    claimed = await floor.claim(w2, "a", "w2")
    assert claimed["session"]["status"] == status
    entry = floor.core.entry("a")
    assert (entry.reaped, entry.ended_reason, entry.ended_us, entry.status_before) == (False, "", 0, "")


async def test_what_was_over_time_goes_on_without_the_limit(floor: Floor, w1: Peer, w2: Peer) -> None:
    await floor.ask(
        w1, "session.save", session={"id": "a", "status": "active", "created_at": TIME}, max_duration_s=10.0
    )
    await floor.pass_time(10.0)
    assert floor.core.entry("a").ended_reason == "max_duration"
    await floor.claim(w2, "a", "w2")
    await floor.pass_time(TIMEOUT_S - 1)
    assert floor.phase("a") is Phase.LIVE


async def test_a_claim_of_a_call_with_a_limit_leaves_the_limit(floor: Floor, w1: Peer, w2: Peer) -> None:
    await floor.ask(
        w1, "session.save", session={"id": "a", "status": "active", "created_at": TIME}, max_duration_s=20.0
    )
    await floor.pass_time(15.0)
    await floor.claim(w2, "a", "w2", steal=True)
    await floor.pass_time(5.0)
    assert floor.core.entry("a").ended_reason == "max_duration"


async def test_a_worker_claims_for_itself_and_an_operator_for_anybody(floor: Floor, w1: Peer) -> None:
    await floor.save(floor.operator, "a")
    for method, more in (("session.claim", {"session_id": "a"}), ("session.claim_next", {})):
        assert (await floor.refused(w1, method, worker_id="w2", **more))["kind"] == "forbidden"
    assert (await floor.claim(floor.operator, "a", "script"))["owner"] == "script"
    await floor.pass_time(TIMEOUT_S)
    await floor.beat(floor.operator, "a")
    assert floor.phase("a") is Phase.LIVE, "which has beats only"


@pytest.mark.parametrize("bad", ["", "x" * 65, "a b", "é", "a\n", "\x7f", "\t"])
async def test_worker_ids_that_are_none(floor: Floor, bad: str) -> None:
    await floor.save(floor.operator, "a")
    for method, more in (
        ("session.claim", {"session_id": "a"}),
        ("session.claim_next", {}),
        ("worker.register", {}),
    ):
        data = await floor.refused(floor.operator, method, worker_id=bad, **more)
        assert (data["kind"], data["path"]) == ("invalid_params", "$.params.worker_id")


async def test_the_longest_worker_id(floor: Floor) -> None:
    await floor.save(floor.operator, "a")
    assert (await floor.claim(floor.operator, "a", "~" * 64))["owner"] == "~" * 64


async def test_a_claim_of_what_is_not_there(floor: Floor, w1: Peer) -> None:
    assert (await floor.refused(w1, "session.claim", session_id="no", worker_id="w1"))["kind"] == "not_found"


async def test_a_wrong_history_takes_nothing(floor: Floor, w1: Peer, w2: Peer) -> None:
    await make(floor, w1, "released")
    for method, more in (("session.claim", {"session_id": "a"}), ("session.claim_next", {})):
        data = await floor.refused(w2, method, worker_id="w2", history="some", **more)
        assert (data["kind"], data["path"]) == ("invalid_params", "$.params.history")


async def test_of_two_claims_at_once_one_is_taken(floor: Floor, w1: Peer, w2: Peer) -> None:
    w3 = await floor.worker("w3")
    await make(floor, w1, "released")
    claims = ((w2, "w2"), (w3, "w3"))
    asked = [(w, w.send(("session.claim", {"session_id": "a", "worker_id": i}))) for w, i in claims]
    await floor.settle()
    first, second = (w.replies[ids[0]] for w, ids in asked)
    assert first["result"]["epoch"] == 1
    assert second["error"]["data"] | {"kind": "conflict", "owner": "w2"} == second["error"]["data"]


# -- claim_next ----------------------------------------------------------------------------------------------------


async def test_orphans_come_before_suspects_and_the_oldest_first(floor: Floor, w1: Peer, w2: Peer) -> None:
    w3 = await floor.worker("w3")
    for name in "abcd":
        await floor.save(w1, name)
    await floor.save(floor.operator, "nobodys")
    await floor.save(w3, "lost", heartbeat_timeout_s=100.0)
    await floor.ask(w1, "session.release", session_id="c", epoch=0)
    await floor.ask(w1, "session.release", session_id="a", epoch=0)
    await floor.pass_time(TIMEOUT_S - 1)
    await floor.beat(w2, "c")
    await floor.beat(w2, "a")
    await floor.pass_time(1.0)
    assert {*floor.core.liveness.suspects} == {"b", "d", "nobodys"}
    await floor.kill(w3)
    taken = [await floor.ask(w2, "session.claim_next", worker_id="w2", history="none") for _ in range(6)]
    assert [each and each["session"]["id"] for each in taken] == ["c", "a", "b", "d", "nobodys", "lost"]
    assert await floor.ask(w2, "session.claim_next", worker_id="w2", history="none") is None
    assert [(e["session_id"], e["reason"]) for e in floor.told("claimed")] == [
        ("c", "released"), ("a", "released"), ("b", "heartbeat_timeout"), ("d", "heartbeat_timeout"),
        ("nobodys", "heartbeat_timeout"), ("lost", "worker_exited"),
    ]  # fmt: skip


async def test_a_suspected_orphan_is_still_an_orphan(floor: Floor, w1: Peer, w2: Peer) -> None:
    await make(floor, w1, "released")
    await floor.pass_time(TIMEOUT_S)
    assert floor.phase("a") is Phase.SUSPECT
    assert (await floor.ask(w2, "session.claim_next", worker_id="w2"))["session"]["id"] == "a"
    assert floor.told("claimed")[0]["reason"] == "heartbeat_timeout"


async def test_labels_choose(floor: Floor, w1: Peer, w2: Peer) -> None:
    for number, labels in enumerate([{"app": "x"}, {"app": "y", "lang": "de"}, {"app": "y"}]):
        await floor.save(w1, f"s{number}", labels=labels)
        await floor.ask(w1, "session.release", session_id=f"s{number}", epoch=0)

    async def next_of(labels: dict[str, str]) -> str | None:
        claimed = await floor.ask(w2, "session.claim_next", worker_id="w2", labels=labels)
        return claimed and claimed["session"]["id"]  # type: ignore[no-any-return]

    assert await next_of({"app": "z"}) is None
    assert await next_of({"app": "y", "lang": "en"}) is None
    assert await next_of({"app": "y"}) == "s1"
    assert await next_of({"app": "y"}) == "s2"
    assert await next_of({}) == "s0"


async def test_labels_choose_among_suspects_too_as_they_are_now(floor: Floor, w1: Peer, w2: Peer) -> None:
    for number, labels in enumerate([{"app": "x"}, {"app": "y", "lang": "de"}, {"app": "y"}, {}]):
        await floor.save(w1, f"s{number}", labels=labels)
    await floor.save(floor.operator, "nobodys", labels={"app": "x"})
    await floor.pass_time(TIMEOUT_S)
    await floor.save(floor.operator, "s3", labels={"app": "z"})
    floor.check()

    async def next_of(labels: dict[str, str]) -> str | None:
        claimed = await floor.ask(w2, "session.claim_next", worker_id="w2", labels=labels)
        return claimed and claimed["session"]["id"]  # type: ignore[no-any-return]

    assert await next_of({"app": "y", "lang": "en"}) is None
    assert await next_of({"app": "y"}) == "s1"
    assert await next_of({"app": "z"}) == "s3"
    assert [await next_of({"app": "x"}) for _ in range(3)] == ["s0", "nobodys", None]
    assert await next_of({}) == "s2"
    floor.check()


async def test_what_is_no_candidate(floor: Floor, w1: Peer, w2: Peer) -> None:
    await floor.save(w1, "live")
    await floor.save(floor.operator, "never-owned")
    await floor.save(w1, "over")
    await floor.ask(w1, "session.end", session_id="over")
    await floor.save(w1, "reaped", heartbeat_timeout_s=1.0)
    await floor.pass_time(1.0)
    await floor.pass_time(GRACE_S - 2)
    await floor.beat(w1, "live")
    await floor.beat(w1, "never-owned")
    await floor.pass_time(2.0)
    assert floor.core.entry("reaped").reaped
    assert floor.phase("never-owned") is Phase.LIVE
    assert await floor.ask(w2, "session.claim_next", worker_id="w2") is None


async def test_its_own_silent_sessions_are_given_again_in_the_same_epoch(floor: Floor, w1: Peer) -> None:
    """It asks for it, so it does not know it: the reply to its claim was lost. Nobody else may get it instead."""
    await make(floor, w1, "heartbeat_timeout")
    claimed = await floor.ask(w1, "session.claim_next", worker_id="w1")
    assert (claimed["session"]["id"], claimed["epoch"]) == ("a", 0)
    assert [e["type"] for e in floor.told()] == ["recovered"]
    assert await floor.ask(w1, "session.claim_next", worker_id="w1") is None


async def test_a_thousand_that_ask_at_once_get_one_each(floor: Floor, w1: Peer, w2: Peer) -> None:
    w3 = await floor.worker("w3")
    for number in range(40):
        await floor.save(w1, f"s{number}")
    await floor.kill(w1)
    floor.told()
    asked = [
        (w, w.send(*[("session.claim_next", {"worker_id": i, "history": "none"})] * 25))
        for w, i in ((w2, "w2"), (w3, "w3"))
    ]
    while not all(w.answered(ids) for w, ids in asked):
        await floor.settle()
    results = [w.replies[one]["result"] for w, ids in asked for one in ids]
    names = [each["session"]["id"] for each in results if each is not None]
    assert sorted(names) == sorted(f"s{number}" for number in range(40))
    assert len(floor.told("claimed")) == 40


async def test_a_claim_next_that_was_not_journaled_has_not_been(floor: Floor, w1: Peer, w2: Peer) -> None:
    await make(floor, w1, "released")
    floor.disk.error = FULL
    data = await floor.refused(w2, "session.claim_next", worker_id="w2")
    assert data["kind"] == "not_durable"
    floor.disk.error = None
    assert floor.held("a") == ("", 0, "released")
    assert (await floor.ask(w2, "session.claim_next", worker_id="w2"))["epoch"] == 1


# -- release -------------------------------------------------------------------------------------------------------


async def test_a_released_call_is_an_orphan_with_a_full_timeout(floor: Floor, w1: Peer) -> None:
    await floor.save(w1, "a")
    await floor.pass_time(TIMEOUT_S - 1)
    floor.told()
    version = floor.core.entry("a").version
    assert await floor.ask(w1, "session.release", session_id="a", epoch=0) == {}
    assert floor.held("a") == ("", 0, "released")
    assert floor.core.entry("a").version > version
    assert floor.told() == [event("released", "a", owner="w1", reason="released")]
    await floor.pass_time(TIMEOUT_S - 0.001)
    assert floor.phase("a") is Phase.LIVE


async def test_a_repeated_release_changes_nothing(floor: Floor, w1: Peer) -> None:
    await make(floor, w1, "released")
    before = floor.kept()
    for peer in (w1, floor.operator):
        assert await floor.ask(peer, "session.release", session_id="a", epoch=0) == {}
    assert floor.kept() == before
    assert floor.told() == []


async def test_a_suspect_that_is_released_lives_on(floor: Floor, w1: Peer) -> None:
    await make(floor, w1, "heartbeat_timeout")
    await floor.ask(w1, "session.release", session_id="a", epoch=0)
    assert floor.phase("a") is Phase.LIVE
    assert floor.held("a") == ("", 0, "released")
    assert [e["type"] for e in floor.told()] == ["released"]


async def test_a_release_needs_epoch_and_ownership(floor: Floor, w1: Peer, w2: Peer) -> None:
    await floor.save(w1, "a")
    for peer, epoch in ((w1, 1), (w2, 0), (floor.operator, 1)):
        assert (await floor.refused(peer, "session.release", session_id="a", epoch=epoch))["kind"] == "fenced"
    assert (await floor.refused(w1, "session.release", session_id="a"))["kind"] == "invalid_params"
    assert (await floor.refused(w1, "session.release", session_id="no", epoch=0))["kind"] == "not_found"
    await floor.ask(floor.operator, "session.release", session_id="a", epoch=0)
    assert floor.held("a") == ("", 0, "released")


async def test_a_late_release_of_what_was_claimed_since_is_fenced(floor: Floor, w1: Peer, w2: Peer) -> None:
    await floor.save(w1, "a")
    await floor.claim(w2, "a", "w2", steal=True)
    assert (await floor.refused(w1, "session.release", session_id="a", epoch=0))["kind"] == "fenced"


async def test_what_has_ended_is_not_released(floor: Floor, w1: Peer) -> None:
    await floor.save(w1, "a")
    await floor.ask(w1, "session.end", session_id="a")
    assert (await floor.refused(w1, "session.release", session_id="a", epoch=0))["kind"] == "session_ended"


@pytest.mark.parametrize("was", ["live", "heartbeat_timeout"])
async def test_a_release_that_was_not_journaled_has_not_been(floor: Floor, w1: Peer, was: str) -> None:
    await make(floor, w1, was)
    phase = floor.phase("a")
    floor.disk.error = FULL
    assert (await floor.refused(w1, "session.release", session_id="a", epoch=0))["kind"] == "not_durable"
    floor.disk.error = None
    assert floor.held("a") == ("w1", 0, "")
    assert floor.phase("a") is phase
    assert floor.told() == [{"type": "journal.full"}]
    await floor.ask(w1, "session.release", session_id="a", epoch=0)


async def test_a_creation_that_was_not_journaled_leaves_no_owner(floor: Floor, w1: Peer) -> None:
    floor.disk.error = FULL
    data = await floor.refused(w1, "session.save", session={"id": "a", "status": "active"})
    assert data["kind"] == "not_durable"
    floor.disk.error = None
    assert not floor.core.cache.index.owned
    assert floor.told() == [{"type": "journal.full"}]
    assert await floor.ask(w1, "session.claim_next", worker_id="w1") is None
    await floor.save(w1, "a")
    assert floor.held("a") == ("w1", 0, "")


# -- register and drain --------------------------------------------------------------------------------------------


async def test_a_registration_said_again(floor: Floor) -> None:
    peer = floor.connect(floor.program())
    for _ in range(2):
        assert await floor.ask(peer, "worker.register", worker_id="w1") == {"worker_id": "w1", "drain": False}
    assert floor.told() == [{"type": "worker.joined", "worker_id": "w1"}]
    assert (await floor.refused(peer, "worker.register", worker_id="w2"))["kind"] == "forbidden"
    await floor.save(peer, "a")
    assert floor.held("a") == ("w1", 0, "")


async def test_connections_of_one_process_are_one_worker(floor: Floor, w1: Peer) -> None:
    beats = await floor.worker("w1", floor.program_of(w1))
    await floor.save(w1, "a")
    await floor.pass_time(TIMEOUT_S)
    await floor.beat(beats, "a")
    assert floor.phase("a") is Phase.LIVE
    floor.hang_up(w1)
    await floor.pass_time(2 * RECONNECT_S)
    assert floor.held("a") == ("w1", 0, "")
    assert floor.told("worker.joined", "worker.left") == []


async def test_a_second_process_under_one_id(floor: Floor, w1: Peer) -> None:
    other = floor.connect(floor.program())
    data = await floor.refused(other, "worker.register", worker_id="w1")
    assert (data["kind"], data["owner"]) == ("conflict", "w1")
    floor.hang_up(w1)
    data = await floor.refused(other, "worker.register", worker_id="w1")
    assert data["kind"] == "conflict", "it may come back"
    await floor.save(other, "a")
    assert floor.held("a") == ("", 0, ""), "it is nobody's connection"


async def test_while_it_drains_all_goes_on_but_new_calls(floor: Floor, w1: Peer) -> None:
    await floor.save(w1, "a")
    await floor.save(w1, "over", "ended")
    floor.told()
    for _ in range(2):
        assert await floor.ask(floor.operator, "server.drain", on=True) == {"drain": True, "sessions": 1}
    assert floor.told() == [{"type": "server.drain", "drain": True}]
    for peer in (w1, floor.operator):
        data = await floor.refused(peer, "session.save", session={"id": "new", "status": "active"})
        assert data["kind"] == "shutting_down"
    await floor.save(w1, "a", "on_hold")
    await floor.turn(w1, "a")
    await floor.ask(w1, "session.release", session_id="a", epoch=0)
    w2 = floor.connect(floor.program())
    assert (await floor.ask(w2, "worker.register", worker_id="w2"))["drain"] is True
    await floor.claim(w2, "a", "w2")
    await floor.ask(w2, "session.end", session_id="a")
    assert await floor.ask(floor.operator, "server.drain", on=True) == {"drain": True, "sessions": 0}
    floor.told()
    assert (await floor.ask(floor.operator, "server.drain", on=False))["drain"] is False
    assert floor.told() == [{"type": "server.drain", "drain": False}]
    await floor.save(w1, "new")


# -- what is told --------------------------------------------------------------------------------------------------


async def test_a_suspicion_is_told_with_what_it_rests_on_and_when_it_ends(floor: Floor, w1: Peer, w2: Peer) -> None:
    await floor.save(w1, "silent")
    await floor.pass_time(TIMEOUT_S - 1)
    await floor.save(w2, "dead")
    floor.told()
    await floor.pass_time(1.0)
    await floor.kill(w2)
    deadline = "2026-01-01T00:01:00Z"
    assert floor.told() == [
        event(
            "suspect", "silent", owner="w1", reason="heartbeat_timeout", evidence="silence", deadline=deadline
        ),
        {"type": "worker.left", "worker_id": "w2", "reason": "exited"},
        event(
            "suspect", "dead", owner="w2", reason="worker_exited", evidence="process_exited", deadline=deadline
        ),
    ]  # fmt: skip
    await floor.pass_time(GRACE_S - 0.001)
    assert floor.told() == []
    await floor.pass_time(0.001)
    assert floor.told() == [
        event("expired", "silent", owner="w1", reason="heartbeat_timeout"),
        event("expired", "dead", owner="w2", reason="worker_exited"),
    ]
    for name, reason in (("silent", "heartbeat_timeout"), ("dead", "worker_exited")):
        loaded = await floor.ask(floor.operator, "session.load", session_id=name)
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
async def test_every_end_has_one_reason_and_one_event(floor: Floor, w1: Peer, how: str) -> None:
    session = {"id": "a", "status": "ended" if how == "save new" else "active", "created_at": TIME}
    limit = {"overtime": 10.0, "overtime suspect": 40.0}.get(how)
    await floor.ask(w1, "session.save", session=session, **({"max_duration_s": limit} if limit else {}))
    if how.endswith("suspect"):
        await floor.pass_time(TIMEOUT_S)
        assert floor.phase("a") is Phase.SUSPECT
    if how.startswith("end"):
        said = {} if how == "end unsaid" else {"reason": "hangup"}
        for _ in range(2):
            await floor.ask(w1, "session.end", session_id="a", **said)
    elif how == "save":
        for _ in range(2):
            await floor.save(w1, "a", "ended")
    elif how == "update":
        for _ in range(2):
            await floor.ask(w1, "session.update", session_id="a", set={"status": "ended"})
    elif how == "exit":
        await floor.kill(w1)
    elif how.startswith("delete"):
        for _ in range(2):
            await floor.ask(w1, "session.delete", session_id="a", op="deletion")
        assert (await floor.refused(w1, "session.delete", session_id="a"))["kind"] == "not_found"
    for _ in range(5):
        await floor.pass_time(TIMEOUT_S)
    type_, reason, recorded = ENDINGS[how]
    ends = [e for e in floor.told() if e["type"] in ENDS]
    assert ends == [event(type_, "a", owner="w1", reason=reason)]
    if recorded:
        loaded = await floor.ask(floor.operator, "session.load", session_id="a")
        assert loaded["ended_reason"] == recorded


async def test_an_end_that_was_not_journaled_is_told_by_nobody(floor: Floor, w1: Peer) -> None:
    await floor.save(w1, "a")
    await floor.save(w1, "b")
    await floor.pass_time(TIMEOUT_S)
    floor.told()
    floor.disk.error = FULL
    assert (await floor.refused(w1, "session.end", session_id="a"))["kind"] == "not_durable"
    await floor.pass_time(GRACE_S)
    floor.disk.error = None
    assert [e["type"] for e in floor.told()] == ["journal.full"]
    floor.check()
    await floor.pass_time(TIMEOUT_S + GRACE_S)
    await floor.pass_time(GRACE_S)
    ends = [(e["session_id"], e["type"]) for e in floor.told() if e["type"] in ENDS]
    assert sorted(ends) == [("a", "expired"), ("b", "expired")]


async def test_a_revival_that_was_not_journaled_is_told_by_nobody(floor: Floor, w1: Peer) -> None:
    await floor.save(w1, "a", "ended")
    floor.told()
    floor.disk.error = FULL
    data = await floor.refused(w1, "session.save", session={"id": "a", "status": "active"})
    assert data["kind"] == "not_durable"
    floor.disk.error = None
    assert floor.told() == [{"type": "journal.full"}]


async def test_an_ended_orphan_is_revived_in_an_epoch_of_its_own(floor: Floor, w1: Peer, w2: Peer) -> None:
    await make(floor, w1, "released")
    await floor.ask(floor.operator, "session.end", session_id="a")
    await floor.save(w2, "a")
    assert floor.held("a") == ("w2", 1, "")
    assert (await floor.refused(w1, "session.record_interruption", session_id="a", epoch=0))["kind"] == "fenced"
    assert await floor.ask(w1, "session.claim_next", worker_id="w1") is None
