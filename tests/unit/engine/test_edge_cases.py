"""What comes late, twice, or backwards: each has one documented answer, shown here with time passed in."""

from __future__ import annotations

import pytest

from callstate_client.engine.liveness import Phase
from callstate_client.engine.workers import State
from support.core import Peer
from support.floor import ENDS, FULL, GRACE_S, RECONNECT_S, TICK_S, TIMEOUT_S, Floor

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])  # time is passed in, and processes are pipes

HOUR_US = 3_600_000_000


@pytest.fixture
async def w1(floor: Floor) -> Peer:
    """A worker with session `a`."""
    peer = await floor.worker("w1")
    await floor.save(peer, "a")
    floor.told()
    return peer


async def beats(floor: Floor, peer: Peer, session_id: str) -> tuple[str, dict[str, list[str]]]:
    """What a beat for one session is answered, alone and among several."""
    alone = await floor.refused(peer, "session.heartbeat", session_id=session_id)
    several = await floor.ask(peer, "session.heartbeat", session_ids=[session_id])
    return alone["kind"], {name: ids for name, ids in several.items() if ids}


# -- late beats ----------------------------------------------------------------------------------------------------


async def test_a_beat_for_an_unknown_session(floor: Floor, w1: Peer) -> None:
    assert await beats(floor, w1, "no") == ("not_found", {"missing": ["no"]})
    assert floor.told() == []


async def test_a_beat_for_a_deleted_session(floor: Floor, w1: Peer) -> None:
    await floor.ask(w1, "session.delete", session_id="a")
    assert await beats(floor, w1, "a") == ("not_found", {"missing": ["a"]})
    assert "a" not in floor.core.cache.beaten


async def test_a_beat_for_a_reaped_session(floor: Floor, w1: Peer) -> None:
    await floor.pass_time(TIMEOUT_S)
    await floor.pass_time(GRACE_S)
    assert await beats(floor, w1, "a") == ("session_ended", {"ended": ["a"]})
    assert floor.core.entry("a").reaped
    before = floor.core.entry("a").updated_us
    await floor.pass_time(1.0)
    await beats(floor, w1, "a")
    assert floor.core.entry("a").updated_us == before, "no sign of life of what is over"


async def test_a_beat_for_a_session_that_another_claimed(floor: Floor, w1: Peer, w2: Peer) -> None:
    await floor.claim(w2, "a", "w2", steal=True)
    await floor.pass_time(TIMEOUT_S - 1)
    assert await beats(floor, w1, "a") == ("fenced", {"fenced": ["a"]})
    await floor.pass_time(1.0)
    assert floor.phase("a") is Phase.SUSPECT, "which was no sign of life"


async def test_a_beat_for_a_session_that_was_reaped_in_anothers_hands(floor: Floor, w1: Peer, w2: Peer) -> None:
    await floor.claim(w2, "a", "w2", steal=True)
    await floor.pass_time(TIMEOUT_S)
    await floor.pass_time(GRACE_S)
    assert await beats(floor, w1, "a") == ("fenced", {"fenced": ["a"]})


async def test_a_beat_for_a_session_that_another_created_under_the_old_id(floor: Floor, w1: Peer, w2: Peer) -> None:
    await floor.ask(w1, "session.delete", session_id="a")
    await floor.save(w2, "a")
    assert await beats(floor, w1, "a") == ("fenced", {"fenced": ["a"]})


# -- at once -------------------------------------------------------------------------------------------------------


async def test_a_beat_and_the_end_in_one_tick(floor: Floor, w1: Peer) -> None:
    """Whichever comes first is right: a beat that was read saves, one that was not comes late."""
    await floor.save(w1, "b")
    await floor.pass_time(TIMEOUT_S)
    floor.core.clock.advance(GRACE_S)
    ids = w1.send(("session.heartbeat", {"session_id": "a"}))
    floor.core.reaper.tick(floor.core.clock.live())
    ids += w1.send(("session.heartbeat", {"session_id": "b"}))
    await floor.settle()
    first, second = (w1.replies[one] for one in ids)
    assert first["result"] == {}
    assert second["error"]["data"]["kind"] == "session_ended"
    assert (floor.phase("a"), floor.core.entry("b").reaped) == (Phase.LIVE, True)
    assert [(e["type"], e["session_id"]) for e in floor.told()][-2:] == [("recovered", "a"), ("expired", "b")]


async def test_a_claim_and_the_end_in_one_tick(floor: Floor, w1: Peer, w2: Peer) -> None:
    """Either way the claimer has it: live as it was, or revived."""
    await floor.save(w1, "b")
    await floor.pass_time(TIMEOUT_S)
    floor.core.clock.advance(GRACE_S)
    floor.told()
    ids = w2.send(("session.claim", {"session_id": "a", "worker_id": "w2"}))
    floor.core.reaper.tick(floor.core.clock.live())
    ids += w2.send(("session.claim", {"session_id": "b", "worker_id": "w2"}))
    await floor.settle()
    assert [w2.replies[one]["result"]["epoch"] for one in ids] == [1, 1]
    assert [floor.held(name) for name in "ab"] == [("w2", 1, "")] * 2
    assert [(e["type"], e["session_id"], e["reason"]) for e in floor.told()] == [
        ("claimed", "a", "heartbeat_timeout"), ("expired", "b", "heartbeat_timeout"), ("claimed", "b", "reaped"),
    ]  # fmt: skip


async def test_a_claim_during_suspicion(floor: Floor, w1: Peer, w2: Peer) -> None:
    """The successor has it; the one that was thought dead is fenced when it comes back."""
    await floor.pass_time(TIMEOUT_S)
    assert (await floor.claim(w2, "a", "w2"))["epoch"] == 1
    for method, more in (
        ("session.heartbeat", {}),
        ("session.add_turn", {"turn": {"content": "late"}}),
        ("session.end", {"reason": "late"}),
    ):
        data = await floor.refused(w1, method, session_id="a", **more)
        assert (data["kind"], data["epoch"], data["owner"]) == ("fenced", 1, "w2")
    await floor.pass_time(TIMEOUT_S - 1)
    assert floor.phase("a") is Phase.LIVE
    assert [e["type"] for e in floor.told()] == ["suspect", "claimed", "fenced"]


@pytest.mark.parametrize("steal", [False, True])
async def test_two_claims_at_once(floor: Floor, w1: Peer, w2: Peer, steal: bool) -> None:
    """In one turn of the loop: one gets it, the other a conflict; or, both stealing, each has its own epoch."""
    w3 = await floor.worker("w3")
    await floor.kill(w1)
    first = w2.send(("session.claim", {"session_id": "a", "worker_id": "w2", "steal": steal}))[0]
    second = w3.send(("session.claim", {"session_id": "a", "worker_id": "w3", "steal": steal}))[0]
    await floor.settle()
    assert w2.replies[first]["result"]["epoch"] == 1
    if steal:
        assert w3.replies[second]["result"]["epoch"] == 2
        assert (await floor.refused(w2, "session.heartbeat", session_id="a"))["kind"] == "fenced"
    else:
        assert w3.replies[second]["error"]["data"]["owner"] == "w2"


async def test_a_deletion_while_suspect(floor: Floor, w1: Peer) -> None:
    await floor.pass_time(TIMEOUT_S)
    floor.told()
    await floor.ask(w1, "session.delete", session_id="a")
    for _ in range(3):
        await floor.pass_time(GRACE_S)
    assert [e["type"] for e in floor.told() if e["type"] in ENDS] == ["deleted"]
    assert (len(floor.core.liveness), len(floor.core.cache.index.orphans)) == (0, 0)


async def test_a_deletion_while_its_owners_death_is_seen_to(floor: Floor, w1: Peer) -> None:
    floor.exit(floor.program_of(w1))
    await floor.settle()
    floor.hang_up(w1)
    floor.operator.send(
        ("session.delete", {"session_id": "a"}), ("session.save", {"session": {"id": "a", "status": "active"}})
    )
    await floor.settle()
    assert (floor.phase("a"), floor.held("a")) == (Phase.LIVE, ("", 0, ""))
    assert [e["type"] for e in floor.told()] == ["worker.left", "deleted", "created"]


# -- processes -----------------------------------------------------------------------------------------------------


async def test_a_pid_that_is_another_process_by_now(floor: Floor, w1: Peer) -> None:
    """Start time and inode tell them apart: the newcomer is no conflict, and the old one has exited."""
    old = floor.program_of(w1)
    assert old.process is not None
    await floor.hung_up(w1)
    floor.told()
    new = await floor.worker("w1", floor.program(old.process.pid))
    assert [(e["type"], e.get("reason")) for e in floor.told()] == [
        ("worker.left", "exited"), ("worker.joined", None), ("suspect", "worker_exited"),
    ]  # fmt: skip
    floor.exit(old)
    await floor.settle()
    assert floor.core.attendance.workers.state("w1") is State.CONNECTED, (
        "what it is told of the old one is nothing new"
    )
    assert (await floor.claim(new, "a", "w1"))["epoch"] == 1


async def test_a_pid_that_is_another_process_at_a_restart(floor: Floor, w1: Peer) -> None:
    old = floor.program_of(w1)
    assert old.process is not None
    floor.exit(old)
    floor.program(old.process.pid)
    await floor.restart()
    assert floor.core.entry("a").suspected == "worker_exited"


async def test_a_worker_that_reconnects_with_its_old_id_in_time(floor: Floor, w1: Peer) -> None:
    await floor.hung_up(w1)
    await floor.pass_time(RECONNECT_S - 1)
    again = await floor.worker("w1", floor.program_of(w1))
    await floor.turn(again, "a", epoch=0)
    assert floor.told() == []
    assert floor.held("a") == ("w1", 0, "")


async def test_a_worker_that_reconnects_with_its_old_id_too_late(floor: Floor, w1: Peer, w2: Peer) -> None:
    await floor.save(w1, "b")
    await floor.hung_up(w1)
    await floor.pass_time(RECONNECT_S)
    assert (await floor.ask(w2, "session.claim_next", worker_id="w2"))["session"]["id"] == "a"
    again = await floor.worker("w1", floor.program_of(w1))
    assert (await floor.refused(again, "session.add_turn", session_id="a", turn={}))["kind"] == "fenced"
    assert (await floor.refused(again, "session.add_turn", session_id="b", turn={}, epoch=7))["kind"] == "fenced"
    await floor.turn(again, "b", epoch=0)  # nobody's: everybody may
    assert floor.held("b") == ("", 0, "disconnected")
    assert (await floor.claim(again, "b", "w1"))["epoch"] == 1


async def test_two_processes_with_one_id(floor: Floor, w1: Peer) -> None:
    """The first has it as long as it lives, the second is told whose it is, and may come when the first is gone."""
    second = floor.connect(floor.program())
    data = await floor.refused(second, "worker.register", worker_id="w1")
    assert (data["kind"], data["owner"], data["retryable"]) == ("conflict", "w1", False)
    await floor.turn(w1, "a")
    await floor.kill(w1)
    await floor.ask(second, "worker.register", worker_id="w1")
    assert (await floor.claim(second, "a", "w1"))["epoch"] == 1


async def test_two_processes_with_one_id_at_a_restart(floor: Floor, w1: Peer) -> None:
    """The first has not come back yet; while it lives it is the one."""
    await floor.restart()
    second = floor.connect(floor.program())
    data = await floor.refused(second, "worker.register", worker_id="w1")
    assert (data["kind"], data["owner"]) == ("conflict", "w1")
    floor.exit(floor.program_of(w1))
    await floor.settle()
    await floor.ask(second, "worker.register", worker_id="w1")
    assert (await floor.claim(second, "a", "w1"))["epoch"] == 1


async def test_a_peer_with_pid_0(floor: Floor) -> None:
    """Of another PID namespace: its connection and its beats are all there is."""
    peer = await floor.worker("w1", floor.program(visible=False))
    await floor.save(peer, "a")
    assert (await floor.ask(floor.operator, "server.stats"))["workers_unwatched"] == 1
    await floor.hung_up(peer)
    await floor.pass_time(RECONNECT_S)
    assert floor.held("a") == ("", 0, "disconnected")
    await floor.restart()
    await floor.pass_time(TIMEOUT_S)
    assert floor.core.entry("a").suspected == "heartbeat_timeout"


async def test_a_fork_that_holds_its_parents_connection(floor: Floor, w1: Peer) -> None:
    """The parent's death is known, and counts when the child lets go, or by silence."""
    floor.exit(floor.program_of(w1))
    await floor.settle()
    assert floor.told() == []
    await floor.pass_time(TIMEOUT_S)
    assert floor.told("suspect")[0]["reason"] == "heartbeat_timeout"
    await floor.hung_up(w1)
    left, suspect = floor.told()
    assert left == {"type": "worker.left", "worker_id": "w1", "reason": "exited"}
    assert (suspect["type"], suspect["reason"], suspect["evidence"]) == (
        "suspect",
        "worker_exited",
        "process_exited",
    )
    assert floor.core.entry("a").suspected == "worker_exited"


async def test_a_fork_under_its_parents_id_is_another_process(floor: Floor, w1: Peer) -> None:
    child = floor.connect(floor.program())
    assert (await floor.refused(child, "worker.register", worker_id="w1"))["kind"] == "conflict"


# -- restarts and clocks -------------------------------------------------------------------------------------------


async def test_a_restored_session_that_never_beats(floor: Floor, w1: Peer) -> None:
    """A full timeout and a full grace from the start on, and then it is over like any other."""
    await floor.pass_time(TIMEOUT_S - 1)
    await floor.restart()
    await floor.pass_time(TIMEOUT_S - 0.001)
    assert (floor.phase("a"), floor.core.entry("a").restored) == (Phase.LIVE, True)
    await floor.pass_time(0.001)
    assert floor.phase("a") is Phase.SUSPECT
    await floor.pass_time(GRACE_S)
    assert floor.core.entry("a").ended_reason == "heartbeat_timeout"


async def test_a_clock_that_goes_back_an_hour(floor: Floor, w1: Peer, w2: Peer) -> None:
    """Deadlines are of the steady clock; versions only rise; `updated_at` does not go back for a beat."""
    version = floor.core.entry("a").version
    updated = floor.core.entry("a").updated_us
    floor.core.clock.at_us -= HOUR_US
    await floor.beat(w1, "a")
    assert floor.core.entry("a").updated_us == updated
    assert (await floor.turn(w1, "a"))["version"] == version + 1
    await floor.pass_time(TIMEOUT_S - 0.001)
    assert floor.phase("a") is Phase.LIVE
    await floor.pass_time(0.001)
    assert floor.phase("a") is Phase.SUSPECT
    claimed = await floor.claim(w2, "a", "w2")
    assert (claimed["epoch"], claimed["version"]) == (1, version + 2)
    await floor.restart()
    assert floor.held("a") == ("w2", 1, "")


async def test_a_clock_that_goes_forth_an_hour(floor: Floor, w1: Peer) -> None:
    floor.core.clock.at_us += HOUR_US
    await floor.pass_time(1.0)
    assert floor.phase("a") is Phase.LIVE


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_call_with_a_limit_and_a_clock_that_is_set(floor: Floor, w1: Peer, w2: Peer, hours: int) -> None:
    """However old the call seems to be by the new time, its limit is where it was."""
    await floor.save(w1, "a", max_duration_s=2 * TIMEOUT_S)
    await floor.pass_time(TIMEOUT_S / 2)
    floor.core.clock.at_us += hours * HOUR_US
    await floor.claim(w2, "a", "w2", steal=True)  # whatever gives it its full time again
    await floor.pass_time(TIMEOUT_S - 1)
    assert floor.phase("a") is Phase.LIVE
    await floor.beat(w2, "a")
    await floor.pass_time(TIMEOUT_S / 2)
    assert floor.phase("a") is Phase.LIVE
    await floor.pass_time(1.0)
    assert floor.core.entry("a").ended_reason == "max_duration"


# -- a full disk, operators, old ids -------------------------------------------------------------------------------


async def test_a_process_that_could_not_be_noted_is_not_taken_for_the_one_before(floor: Floor, w1: Peer) -> None:
    """The journal knows the old process of that name, which is dead, and not the new one, which lives."""
    await floor.kill(w1)
    program = floor.program()
    floor.disk.error = FULL
    again = floor.connect(program)
    await floor.replies(again, ("worker.register", {"worker_id": "w1"}))
    floor.disk.error = None
    await floor.claim(again, "a", "w1")
    floor.told()
    await floor.restart()
    assert floor.told() == []
    assert (floor.phase("a"), floor.held("a")) == (Phase.LIVE, ("w1", 1, ""))


async def test_a_timeout_that_an_operator_gives_is_no_sign_of_life(floor: Floor, w1: Peer) -> None:
    """A suspect stays one, and who is silent has been silent before."""
    await floor.pass_time(TIMEOUT_S)
    floor.told()
    await floor.save(floor.operator, "a", heartbeat_timeout_s=TIMEOUT_S)
    assert floor.phase("a") is Phase.SUSPECT
    await floor.pass_time(GRACE_S)
    assert [e["type"] for e in floor.told()] == ["expired"]


async def test_a_timeout_that_an_operator_gives_counts_from_the_last_sign_of_life(floor: Floor, w1: Peer) -> None:
    for _ in range(3):
        await floor.pass_time(TIMEOUT_S / 4)
        await floor.save(floor.operator, "a", heartbeat_timeout_s=TIMEOUT_S)
    await floor.pass_time(TIMEOUT_S / 4)
    assert floor.phase("a") is Phase.SUSPECT


async def test_a_session_made_anew_later_goes_on_from_the_epoch_of_the_old_one(
    floor: Floor, w1: Peer, w2: Peer
) -> None:
    """Also of one that the store never had, and when nobody would ask it any more: whoever held it stays out."""
    await floor.claim(w2, "a", "w2", steal=True)
    await floor.ask(w2, "session.delete", session_id="a")
    await floor.pass_time(2.0)
    await floor.save(w2, "a")
    assert floor.held("a")[1] == 1


async def test_a_call_that_recovered_is_no_suspect_again_when_a_change_is_undone(floor: Floor, w1: Peer) -> None:
    """Its worker's death was seen to long ago, in no group of its own."""
    await floor.kill(w1)
    assert floor.phase("a") is Phase.SUSPECT
    await floor.beat(floor.operator, "a")
    floor.told()
    floor.disk.error = FULL
    await floor.refused(floor.operator, "session.update", session_id="a", set={"status": "on_hold"})
    floor.disk.error = None
    await floor.pass_time(TICK_S)
    assert floor.phase("a") is Phase.LIVE
    assert not floor.told("suspect")


async def test_whoever_gets_a_dead_workers_name_later_is_not_taken_for_it(floor: Floor, w1: Peer) -> None:
    await floor.ask(w1, "session.delete", session_id="a")
    await floor.kill(w1)
    await floor.pass_time(TICK_S)
    await floor.save(floor.operator, "b")
    await floor.claim(floor.operator, "b", "w1")  # for one that never registers
    floor.told()
    await floor.restart()
    assert floor.phase("b") is Phase.LIVE
    assert floor.told() == []


async def test_who_is_fenced_off_by_a_claim_that_is_undone_was_not(floor: Floor, w1: Peer, w2: Peer) -> None:
    stale = ("session.add_turn", {"session_id": "a", "turn": {"content": "x"}, "epoch": 0})
    floor.disk.error = FULL
    claimed = w2.send(("session.claim", {"session_id": "a", "worker_id": "w2", "steal": True}))
    late = w1.send(stale)
    while not (w2.answered(claimed) and w1.answered(late)):
        await floor.settle()
    assert not floor.told("fenced", "claimed")
    floor.disk.error = None
    await floor.claim(w2, "a", "w2", steal=True)
    assert (await floor.refused(w1, *stale[:1], **stale[1]))["kind"] == "fenced"
    assert [e["epoch"] for e in floor.told("fenced")] == [1], "told when it is so"
