"""What comes late, twice, or backwards: each has one documented answer, shown here with time passed in."""

from __future__ import annotations

import pytest

from callstate_client.engine.phases import Phase
from callstate_client.engine.workers.states import WorkerState
from support.core import FakeClient
from support.core_harness import ENDS, FULL, GRACE_S, RECONNECT_S, TICK_S, TIMEOUT_S, CoreHarness

HOUR_US = 3_600_000_000


@pytest.fixture
async def w1(harness: CoreHarness) -> FakeClient:
    """A worker with session `a`."""
    peer = await harness.worker("w1")
    await harness.save(peer, "a")
    harness.new_events()
    return peer


async def beats(harness: CoreHarness, peer: FakeClient, session_id: str) -> tuple[str, dict[str, list[str]]]:
    """What a beat for one session is answered, alone and among several."""
    alone = await harness.refused(peer, "session.heartbeat", session_id=session_id)
    several = await harness.request(peer, "session.heartbeat", session_ids=[session_id])
    return alone["kind"], {name: ids for name, ids in several.items() if ids}


# -- late beats ----------------------------------------------------------------------------------------------------


async def test_a_beat_for_an_unknown_session(harness: CoreHarness, w1: FakeClient) -> None:
    assert await beats(harness, w1, "no") == ("not_found", {"missing": ["no"]})
    assert harness.new_events() == []


async def test_a_beat_for_a_deleted_session(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.request(w1, "session.delete", session_id="a")
    assert await beats(harness, w1, "a") == ("not_found", {"missing": ["a"]})
    assert "a" not in harness.core.table.unflushed_beats


async def test_a_beat_for_a_reaped_session(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.advance(TIMEOUT_S)
    await harness.advance(GRACE_S)
    assert await beats(harness, w1, "a") == ("session_ended", {"ended": ["a"]})
    assert harness.core.session("a").facts.reaped
    before = harness.core.session("a").updated_us
    await harness.advance(1.0)
    await beats(harness, w1, "a")
    assert harness.core.session("a").updated_us == before, "no sign of life of what is over"


async def test_a_beat_for_a_session_that_another_claimed(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.claim(w2, "a", "w2", steal=True)
    await harness.advance(TIMEOUT_S - 1)
    assert await beats(harness, w1, "a") == ("fenced", {"fenced": ["a"]})
    await harness.advance(1.0)
    assert harness.phase("a") is Phase.SUSPECT, "which was no sign of life"


async def test_a_beat_for_a_session_that_was_reaped_in_anothers_hands(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.claim(w2, "a", "w2", steal=True)
    await harness.advance(TIMEOUT_S)
    await harness.advance(GRACE_S)
    assert await beats(harness, w1, "a") == ("fenced", {"fenced": ["a"]})


async def test_a_beat_for_a_session_that_another_created_under_the_old_id(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.request(w1, "session.delete", session_id="a")
    await harness.save(w2, "a")
    assert await beats(harness, w1, "a") == ("fenced", {"fenced": ["a"]})


# -- at once -------------------------------------------------------------------------------------------------------


async def test_a_beat_and_the_end_in_one_tick(harness: CoreHarness, w1: FakeClient) -> None:
    """Whichever comes first is right: a beat that was read saves, one that was not comes late."""
    await harness.save(w1, "b")
    await harness.advance(TIMEOUT_S)
    harness.core.clock.advance(GRACE_S)
    ids = w1.send(("session.heartbeat", {"session_id": "a"}))
    harness.core.reaper.tick(harness.core.clock.live())
    ids += w1.send(("session.heartbeat", {"session_id": "b"}))
    await harness.settle()
    first, second = (w1.replies[one] for one in ids)
    assert first["result"] == {}
    assert second["error"]["data"]["kind"] == "session_ended"
    assert (harness.phase("a"), harness.core.session("b").facts.reaped) == (Phase.LIVE, True)
    assert [(e["type"], e["session_id"]) for e in harness.new_events()][-2:] == [
        ("recovered", "a"),
        ("expired", "b"),
    ]


async def test_a_claim_and_the_end_in_one_tick(harness: CoreHarness, w1: FakeClient, w2: FakeClient) -> None:
    """Either way the claimer has it: live as it was, or revived."""
    await harness.save(w1, "b")
    await harness.advance(TIMEOUT_S)
    harness.core.clock.advance(GRACE_S)
    harness.new_events()
    ids = w2.send(("session.claim", {"session_id": "a", "worker_id": "w2"}))
    harness.core.reaper.tick(harness.core.clock.live())
    ids += w2.send(("session.claim", {"session_id": "b", "worker_id": "w2"}))
    await harness.settle()
    assert [w2.replies[one]["result"]["epoch"] for one in ids] == [1, 1]
    assert [harness.ownership(name) for name in "ab"] == [("w2", 1, "")] * 2
    assert [(e["type"], e["session_id"], e["reason"]) for e in harness.new_events()] == [
        ("claimed", "a", "heartbeat_timeout"), ("expired", "b", "heartbeat_timeout"), ("claimed", "b", "reaped"),
    ]  # fmt: skip


async def test_a_claim_during_suspicion(harness: CoreHarness, w1: FakeClient, w2: FakeClient) -> None:
    """The successor has it; the one that was thought dead is fenced when it comes back."""
    await harness.advance(TIMEOUT_S)
    assert (await harness.claim(w2, "a", "w2"))["epoch"] == 1
    for method, more in (
        ("session.heartbeat", {}),
        ("session.add_turn", {"turn": {"content": "late"}}),
        ("session.end", {"reason": "late"}),
    ):
        data = await harness.refused(w1, method, session_id="a", **more)
        assert (data["kind"], data["epoch"], data["owner"]) == ("fenced", 1, "w2")
    await harness.advance(TIMEOUT_S - 1)
    assert harness.phase("a") is Phase.LIVE
    assert [e["type"] for e in harness.new_events()] == ["suspect", "claimed", "fenced"]


@pytest.mark.parametrize("steal", [False, True])
async def test_two_claims_at_once(harness: CoreHarness, w1: FakeClient, w2: FakeClient, steal: bool) -> None:
    """In one turn of the loop: one gets it, the other a conflict; or, both stealing, each has its own epoch."""
    w3 = await harness.worker("w3")
    await harness.kill(w1)
    first = w2.send(("session.claim", {"session_id": "a", "worker_id": "w2", "steal": steal}))[0]
    second = w3.send(("session.claim", {"session_id": "a", "worker_id": "w3", "steal": steal}))[0]
    await harness.settle()
    assert w2.replies[first]["result"]["epoch"] == 1
    if steal:
        assert w3.replies[second]["result"]["epoch"] == 2
        assert (await harness.refused(w2, "session.heartbeat", session_id="a"))["kind"] == "fenced"
    else:
        assert w3.replies[second]["error"]["data"]["owner"] == "w2"


async def test_a_deletion_while_suspect(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.advance(TIMEOUT_S)
    harness.new_events()
    await harness.request(w1, "session.delete", session_id="a")
    for _ in range(3):
        await harness.advance(GRACE_S)
    assert [e["type"] for e in harness.new_events() if e["type"] in ENDS] == ["deleted"]
    assert (len(harness.core.liveness), len(harness.core.table.index.orphans)) == (0, 0)


async def test_a_deletion_while_its_owners_death_is_handled(harness: CoreHarness, w1: FakeClient) -> None:
    harness.exit(harness.process_of(w1))
    await harness.settle()
    harness.drop_connection(w1)
    harness.operator.send(
        ("session.delete", {"session_id": "a"}), ("session.save", {"session": {"id": "a", "status": "active"}})
    )
    await harness.settle()
    assert (harness.phase("a"), harness.ownership("a")) == (Phase.LIVE, ("", 0, ""))
    assert [e["type"] for e in harness.new_events()] == ["worker.left", "deleted", "created"]


# -- processes -----------------------------------------------------------------------------------------------------


async def test_a_pid_that_is_another_process_by_now(harness: CoreHarness, w1: FakeClient) -> None:
    """Start time and inode tell them apart: the newcomer is no conflict, and the old one has exited."""
    old = harness.process_of(w1)
    assert old.process is not None
    await harness.disconnect(w1)
    harness.new_events()
    new = await harness.worker("w1", harness.process(old.process.pid))
    assert [(e["type"], e.get("reason")) for e in harness.new_events()] == [
        ("worker.left", "exited"), ("worker.joined", None), ("suspect", "worker_exited"),
    ]  # fmt: skip
    harness.exit(old)
    await harness.settle()
    assert harness.core.engine.registry.workers.state("w1") is WorkerState.CONNECTED, (
        "what it is told of the old one is nothing new"
    )
    assert (await harness.claim(new, "a", "w1"))["epoch"] == 1


async def test_a_pid_that_is_another_process_at_a_restart(harness: CoreHarness, w1: FakeClient) -> None:
    old = harness.process_of(w1)
    assert old.process is not None
    harness.exit(old)
    harness.process(old.process.pid)
    await harness.restart()
    assert harness.core.session("a").suspected == "worker_exited"


async def test_a_worker_that_reconnects_with_its_old_id_in_time(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.disconnect(w1)
    await harness.advance(RECONNECT_S - 1)
    again = await harness.worker("w1", harness.process_of(w1))
    await harness.add_turn(again, "a", epoch=0)
    assert harness.new_events() == []
    assert harness.ownership("a") == ("w1", 0, "")


async def test_a_worker_that_reconnects_with_its_old_id_too_late(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.save(w1, "b")
    await harness.disconnect(w1)
    await harness.advance(RECONNECT_S)
    assert (await harness.request(w2, "session.claim_next", worker_id="w2"))["session"]["id"] == "a"
    again = await harness.worker("w1", harness.process_of(w1))
    assert (await harness.refused(again, "session.add_turn", session_id="a", turn={}))["kind"] == "fenced"
    assert (await harness.refused(again, "session.add_turn", session_id="b", turn={}, epoch=7))["kind"] == "fenced"
    await harness.add_turn(again, "b", epoch=0)  # nobody's: everybody may
    assert harness.ownership("b") == ("", 0, "disconnected")
    assert (await harness.claim(again, "b", "w1"))["epoch"] == 1


async def test_two_processes_with_one_id(harness: CoreHarness, w1: FakeClient) -> None:
    """The first has it as long as it lives, the second is told whose it is, and may come when the first is gone."""
    second = harness.connect(harness.process())
    data = await harness.refused(second, "worker.register", worker_id="w1")
    assert (data["kind"], data["owner"], data["retryable"]) == ("conflict", "w1", False)
    await harness.add_turn(w1, "a")
    await harness.kill(w1)
    await harness.request(second, "worker.register", worker_id="w1")
    assert (await harness.claim(second, "a", "w1"))["epoch"] == 1


async def test_two_processes_with_one_id_at_a_restart(harness: CoreHarness, w1: FakeClient) -> None:
    """The first has not come back yet; while it lives it is the one."""
    await harness.restart()
    second = harness.connect(harness.process())
    data = await harness.refused(second, "worker.register", worker_id="w1")
    assert (data["kind"], data["owner"]) == ("conflict", "w1")
    harness.exit(harness.process_of(w1))
    await harness.settle()
    await harness.request(second, "worker.register", worker_id="w1")
    assert (await harness.claim(second, "a", "w1"))["epoch"] == 1


async def test_a_peer_with_pid_0(harness: CoreHarness) -> None:
    """Of another PID namespace: its connection and its beats are all there is."""
    peer = await harness.worker("w1", harness.process(visible=False))
    await harness.save(peer, "a")
    assert (await harness.request(harness.operator, "server.stats"))["workers_unwatched"] == 1
    await harness.disconnect(peer)
    await harness.advance(RECONNECT_S)
    assert harness.ownership("a") == ("", 0, "disconnected")
    await harness.restart()
    await harness.advance(TIMEOUT_S)
    assert harness.core.session("a").suspected == "heartbeat_timeout"


async def test_a_fork_that_holds_its_parents_connection(harness: CoreHarness, w1: FakeClient) -> None:
    """The parent's death is known, and counts when the child lets go, or by silence."""
    harness.exit(harness.process_of(w1))
    await harness.settle()
    assert harness.new_events() == []
    await harness.advance(TIMEOUT_S)
    assert harness.new_events("suspect")[0]["reason"] == "heartbeat_timeout"
    await harness.disconnect(w1)
    left, suspect = harness.new_events()
    assert left == {"type": "worker.left", "worker_id": "w1", "reason": "exited"}
    assert (suspect["type"], suspect["reason"], suspect["evidence"]) == (
        "suspect",
        "worker_exited",
        "process_exited",
    )
    assert harness.core.session("a").suspected == "worker_exited"


async def test_a_fork_under_its_parents_id_is_another_process(harness: CoreHarness, w1: FakeClient) -> None:
    child = harness.connect(harness.process())
    assert (await harness.refused(child, "worker.register", worker_id="w1"))["kind"] == "conflict"


# -- restarts and clocks -------------------------------------------------------------------------------------------


async def test_a_restored_session_that_never_beats(harness: CoreHarness, w1: FakeClient) -> None:
    """A full timeout and a full grace from the start on, and then it is over like any other."""
    await harness.advance(TIMEOUT_S - 1)
    await harness.restart()
    await harness.advance(TIMEOUT_S - 0.001)
    assert (harness.phase("a"), harness.core.session("a").restored) == (Phase.LIVE, True)
    await harness.advance(0.001)
    assert harness.phase("a") is Phase.SUSPECT
    await harness.advance(GRACE_S)
    assert harness.core.session("a").facts.ended_reason == "heartbeat_timeout"


async def test_a_clock_that_goes_back_an_hour(harness: CoreHarness, w1: FakeClient, w2: FakeClient) -> None:
    """Deadlines are of the steady clock; versions only rise; `updated_at` does not go back for a beat."""
    version = harness.core.session("a").version
    updated = harness.core.session("a").updated_us
    harness.core.clock.at_us -= HOUR_US
    await harness.heartbeat(w1, "a")
    assert harness.core.session("a").updated_us == updated
    assert (await harness.add_turn(w1, "a"))["version"] == version + 1
    await harness.advance(TIMEOUT_S - 0.001)
    assert harness.phase("a") is Phase.LIVE
    await harness.advance(0.001)
    assert harness.phase("a") is Phase.SUSPECT
    claimed = await harness.claim(w2, "a", "w2")
    assert (claimed["epoch"], claimed["version"]) == (1, version + 2)
    await harness.restart()
    assert harness.ownership("a") == ("w2", 1, "")


async def test_a_clock_that_goes_forth_an_hour(harness: CoreHarness, w1: FakeClient) -> None:
    harness.core.clock.at_us += HOUR_US
    await harness.advance(1.0)
    assert harness.phase("a") is Phase.LIVE


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_call_with_a_limit_and_a_clock_that_is_set(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient, hours: int
) -> None:
    """However old the call seems to be by the new time, its limit is where it was."""
    await harness.save(w1, "a", max_duration_s=2 * TIMEOUT_S)
    await harness.advance(TIMEOUT_S / 2)
    harness.core.clock.at_us += hours * HOUR_US
    await harness.claim(w2, "a", "w2", steal=True)  # whatever gives it its full time again
    await harness.advance(TIMEOUT_S - 1)
    assert harness.phase("a") is Phase.LIVE
    await harness.heartbeat(w2, "a")
    await harness.advance(TIMEOUT_S / 2)
    assert harness.phase("a") is Phase.LIVE
    await harness.advance(1.0)
    assert harness.core.session("a").facts.ended_reason == "max_duration"


# -- a full disk, operators, old ids -------------------------------------------------------------------------------


async def test_a_process_that_could_not_be_noted_is_not_taken_for_the_one_before(
    harness: CoreHarness, w1: FakeClient
) -> None:
    """The journal knows the old process of that name, which is dead, and not the new one, which lives."""
    await harness.kill(w1)
    program = harness.process()
    harness.disk.error = FULL
    again = harness.connect(program)
    await harness.replies(again, ("worker.register", {"worker_id": "w1"}))
    harness.disk.error = None
    await harness.claim(again, "a", "w1")
    harness.new_events()
    await harness.restart()
    assert harness.new_events() == []
    assert (harness.phase("a"), harness.ownership("a")) == (Phase.LIVE, ("w1", 1, ""))


async def test_a_timeout_that_an_operator_gives_is_no_sign_of_life(harness: CoreHarness, w1: FakeClient) -> None:
    """A suspect stays one, and who is silent has been silent before."""
    await harness.advance(TIMEOUT_S)
    harness.new_events()
    await harness.save(harness.operator, "a", heartbeat_timeout_s=TIMEOUT_S)
    assert harness.phase("a") is Phase.SUSPECT
    await harness.advance(GRACE_S)
    assert [e["type"] for e in harness.new_events()] == ["expired"]


async def test_a_timeout_that_an_operator_gives_counts_from_the_last_sign_of_life(
    harness: CoreHarness, w1: FakeClient
) -> None:
    for _ in range(3):
        await harness.advance(TIMEOUT_S / 4)
        await harness.save(harness.operator, "a", heartbeat_timeout_s=TIMEOUT_S)
    await harness.advance(TIMEOUT_S / 4)
    assert harness.phase("a") is Phase.SUSPECT


async def test_a_session_created_again_continues_from_the_old_epoch(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    """Also of one that the store never had, and when nobody would ask it any more: whoever held it stays out."""
    await harness.claim(w2, "a", "w2", steal=True)
    await harness.request(w2, "session.delete", session_id="a")
    await harness.advance(2.0)
    await harness.save(w2, "a")
    assert harness.ownership("a")[1] == 1


async def test_a_rollback_does_not_make_a_recovered_call_a_suspect_again(
    harness: CoreHarness, w1: FakeClient
) -> None:
    """Its worker's death was seen to long ago, in no group of its own."""
    await harness.kill(w1)
    assert harness.phase("a") is Phase.SUSPECT
    await harness.heartbeat(harness.operator, "a")
    harness.new_events()
    harness.disk.error = FULL
    await harness.refused(harness.operator, "session.update", session_id="a", set={"status": "on_hold"})
    harness.disk.error = None
    await harness.advance(TICK_S)
    assert harness.phase("a") is Phase.LIVE
    assert not harness.new_events("suspect")


async def test_a_later_worker_with_a_dead_workers_id_is_not_mistaken_for_it(
    harness: CoreHarness, w1: FakeClient
) -> None:
    await harness.request(w1, "session.delete", session_id="a")
    await harness.kill(w1)
    await harness.advance(TICK_S)
    await harness.save(harness.operator, "b")
    await harness.claim(harness.operator, "b", "w1")  # for one that never registers
    harness.new_events()
    await harness.restart()
    assert harness.phase("b") is Phase.LIVE
    assert harness.new_events() == []


async def test_a_rollback_of_a_claim_undoes_its_fencing(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    stale = ("session.add_turn", {"session_id": "a", "turn": {"content": "x"}, "epoch": 0})
    harness.disk.error = FULL
    claimed = w2.send(("session.claim", {"session_id": "a", "worker_id": "w2", "steal": True}))
    late = w1.send(stale)
    while not (w2.answered(claimed) and w1.answered(late)):
        await harness.settle()
    assert not harness.new_events("fenced", "claimed")
    harness.disk.error = None
    await harness.claim(w2, "a", "w2", steal=True)
    assert (await harness.refused(w1, *stale[:1], **stale[1]))["kind"] == "fenced"
    assert [e["epoch"] for e in harness.new_events("fenced")] == [1], "told when it is so"
