"""Who is there: what becomes of workers and their calls as processes end and connections close."""

from __future__ import annotations

import asyncio

import pytest

from callstate_client.engine.phases import Phase
from callstate_client.engine.process import Process
from callstate_client.engine.workers import departures
from callstate_client.engine.workers.states import WorkerState
from callstate_sidecar.reaper import SESSIONS_A_SLICE
from callstate_sidecar.serving import server
from support.core import FakeClient
from support.core_harness import FULL, GRACE_S, RECONNECT_S, TICK_S, TIMEOUT_S, CoreHarness


@pytest.fixture
async def w1(harness: CoreHarness) -> FakeClient:
    """A worker with session `a`."""
    peer = await harness.worker("w1")
    await harness.save(peer, "a")
    harness.new_events()
    return peer


def state(harness: CoreHarness, worker_id: str = "w1") -> WorkerState:
    return harness.core.engine.registry.workers.state(worker_id)


LEFT = {"type": "worker.left", "worker_id": "w1"}


def suspect_at(deadline: str) -> dict[str, object]:
    return {
        "type": "suspect", "session_id": "a", "owner": "w1", "epoch": 0, "reason": "worker_exited",
        "evidence": "process_exited", "deadline": deadline,
    }  # fmt: skip


# -- exit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["exit", "close"])
async def test_an_exit_is_known_at_once(harness: CoreHarness, w1: FakeClient, first: str) -> None:
    """Without a tick, and whichever the loop hears of first."""
    program = harness.process_of(w1)
    if first == "exit":
        harness.exit(program)
        await harness.settle()
        assert state(harness) is WorkerState.EXITED
        assert harness.new_events() == [], "what it sent last may still be unread"
        await harness.disconnect(w1)
    else:
        await harness.disconnect(w1)
        assert state(harness) is WorkerState.AWAY
        harness.exit(program)
        await harness.settle()
    assert harness.new_events() == [LEFT | {"reason": "exited"}, suspect_at("2026-01-01T00:00:30Z")]
    assert harness.phase("a") is Phase.SUSPECT
    assert state(harness) is WorkerState.GONE


@pytest.mark.parametrize("how", ["session.end", "session.claim"])
async def test_an_exit_counts_for_a_call_whose_end_or_claim_is_undone(
    harness: CoreHarness, w1: FakeClient, how: str
) -> None:
    """It left in the same turn, in which the call was not its own any more, or over."""
    harness.exit(harness.process_of(w1))
    await harness.settle()
    harness.disk.error = FULL
    harness.core.server.group._alone = 0  # the group waits for the end of the turn
    params = {"worker_id": "w2", "steal": True} if how == "session.claim" else {}
    harness.operator.send((how, {"session_id": "a", **params}))
    await harness.disconnect(w1)
    await harness.advance(TICK_S)
    assert harness.ownership("a")[0] == "w1"
    assert harness.phase("a") is Phase.SUSPECT
    assert harness.core.session("a").suspected == "worker_exited"


async def test_an_exit_within_the_grace_is_an_exit(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.disconnect(w1)
    await harness.advance(RECONNECT_S - 1)
    harness.exit(harness.process_of(w1))
    await harness.settle()
    assert harness.new_events() == [LEFT | {"reason": "exited"}, suspect_at("2026-01-01T00:00:34Z")]
    await harness.advance(RECONNECT_S)
    assert harness.new_events() == []


async def test_a_silent_suspect_whose_process_exits_is_one_for_that(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.advance(TIMEOUT_S)
    harness.new_events()
    await harness.kill(w1)
    assert harness.core.session("a").suspected == "worker_exited"
    assert harness.phase("a") is Phase.SUSPECT
    await harness.advance(GRACE_S)
    assert harness.new_events("expired")[0]["reason"] == "worker_exited", "no later than it was going to be"


async def test_ended_sessions_are_left_alone(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.request(w1, "session.end", session_id="a", reason="hangup")
    harness.new_events()
    await harness.kill(w1)
    assert harness.new_events() == [LEFT | {"reason": "exited"}]
    assert harness.core.session("a").facts.ended_reason == "hangup"
    assert harness.ownership("a") == ("w1", 0, "")


async def test_a_session_released_before_its_workers_departure_is_handled_stays_unchanged(
    harness: CoreHarness, w1: FakeClient
) -> None:
    """Released, ended, deleted or claimed by others in the very turn in which its exit is seen to."""
    for name in "bcde":
        await harness.save(w1, name)
    w2 = await harness.worker("w2")
    harness.exit(harness.process_of(w1))
    await harness.settle()
    harness.new_events()
    harness.drop_connection(w1)  # seen to with the loop's next turn
    harness.operator.send(
        ("session.release", {"session_id": "a", "epoch": 0}),
        ("session.end", {"session_id": "b", "reason": "operator"}),
        ("session.delete", {"session_id": "c"}),
    )
    w2.send(("session.claim", {"session_id": "d", "worker_id": "w2"}))
    await harness.settle()
    assert [(e["session_id"], e["type"]) for e in harness.new_events() if "session_id" in e] == [
        ("a", "released"), ("b", "ended"), ("c", "deleted"), ("d", "claimed"), ("e", "suspect"),
    ]  # fmt: skip


# -- the grace -----------------------------------------------------------------------------------------------------


async def test_a_worker_that_does_not_reconnect_leaves_orphans(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.disconnect(w1)
    await harness.advance(RECONNECT_S - 0.001)
    assert harness.new_events() == []
    await harness.advance(0.001)
    assert harness.new_events() == [
        LEFT | {"reason": "disconnected"},
        {"type": "orphaned", "session_id": "a", "owner": "w1", "epoch": 0, "reason": "disconnected"},
    ]
    assert harness.ownership("a") == ("", 0, "disconnected")
    await harness.advance(TIMEOUT_S - 0.001)
    assert harness.phase("a") is Phase.LIVE, "a full timeout"


async def test_a_suspect_of_a_worker_that_does_not_reconnect_is_an_orphan_with_a_full_timeout(
    harness: CoreHarness, w1: FakeClient
) -> None:
    await harness.advance(TIMEOUT_S)
    await harness.disconnect(w1)
    await harness.advance(RECONNECT_S)
    assert (harness.phase("a"), harness.ownership("a")) == (Phase.LIVE, ("", 0, "disconnected"))


async def test_a_worker_that_reconnects_in_time_keeps_its_calls(harness: CoreHarness, w1: FakeClient) -> None:
    program = harness.process_of(w1)
    for _ in range(3):
        await harness.disconnect(w1)
        await harness.advance(RECONNECT_S - 0.001)
        w1 = await harness.worker("w1", program)
        await harness.advance(RECONNECT_S)
    assert harness.new_events() == []
    assert harness.ownership("a") == ("w1", 0, "")
    await harness.kill(w1)
    assert harness.new_events()[0] == LEFT | {"reason": "exited"}, "and is watched as ever"


async def test_the_grace_is_of_the_daemons_own_time(harness: CoreHarness, w1: FakeClient) -> None:
    """A stall is no absence."""
    await harness.disconnect(w1)
    harness.core.clock.advance(3600.0)
    harness.core.clock.stalled_s += 3600.0
    await harness.advance(RECONNECT_S - 0.001)
    assert state(harness) is WorkerState.AWAY


# -- one id, one process -------------------------------------------------------------------------------------------


async def test_an_id_of_one_that_can_not_be_watched_is_taken_over_when_it_is_away(harness: CoreHarness) -> None:
    old = await harness.worker("w1", harness.process(watchable=False))
    await harness.save(old, "a")
    await harness.disconnect(old)
    harness.new_events()
    new = await harness.worker("w1")
    assert harness.new_events() == [
        LEFT | {"reason": "disconnected"},
        {"type": "worker.joined", "worker_id": "w1"},
        {"type": "orphaned", "session_id": "a", "owner": "w1", "epoch": 0, "reason": "disconnected"},
    ]
    assert (await harness.claim(new, "a", "w1"))["epoch"] == 1


async def test_a_process_that_exited_is_superseded_though_a_child_holds_its_connection(
    harness: CoreHarness, w1: FakeClient
) -> None:
    harness.exit(harness.process_of(w1))
    await harness.settle()
    new = await harness.worker("w1")
    assert [e["type"] for e in harness.new_events()] == ["worker.left", "worker.joined", "suspect"]
    assert w1.closed, "nobody reads it"
    await harness.disconnect(w1)
    assert state(harness) is WorkerState.CONNECTED
    assert (await harness.claim(new, "a", "w1"))["epoch"] == 1


async def test_two_ids_in_one_process_are_known_by_their_connections(harness: CoreHarness, w1: FakeClient) -> None:
    """A proxy: its exit says nothing of those behind it."""
    program = harness.process_of(w1)
    w2 = await harness.worker("w2", program)
    stats = await harness.request(harness.operator, "server.stats")
    assert (stats["workers"], stats["workers_unwatched"]) == (2, 2)
    harness.new_events()
    harness.exit(program)
    await harness.disconnect(w1)
    await harness.disconnect(w2)
    assert harness.new_events() == []
    await harness.advance(RECONNECT_S)
    assert [(e["type"], e["reason"]) for e in harness.new_events()] == [
        ("worker.left", "disconnected"), ("worker.left", "disconnected"), ("orphaned", "disconnected"),
    ]  # fmt: skip


@pytest.mark.parametrize("restarted", [False, True])
async def test_the_death_of_a_process_is_that_of_all_its_workers(harness: CoreHarness, restarted: bool) -> None:
    program = harness.process()
    peers = [await harness.worker(f"w{n}", program, instance=f"i{n}", process="p1") for n in range(3)]
    for number, peer in enumerate(peers):
        await harness.save(peer, f"c{number}")
    assert (await harness.request(harness.operator, "server.stats"))["workers_unwatched"] == 0
    if restarted:
        await harness.restart()
    harness.new_events()
    harness.exit(program)
    for peer in peers:
        harness.drop_connection(peer)
    await harness.settle()
    left = {(event["worker_id"], event["reason"]) for event in harness.new_events("worker.left")}
    assert left == {(f"w{number}", "exited") for number in range(3)}
    assert [harness.phase(f"c{number}") for number in range(3)] == [Phase.SUSPECT] * 3


async def test_a_worker_without_a_pid_is_remembered_over_a_restart(harness: CoreHarness) -> None:
    """As of another container: its successor finds it again when it comes, and not before."""
    program = harness.process()
    program.process = Process(0, 0, "boot-1", 7)
    await harness.save(await harness.worker("w1", program), "a")
    await harness.restart()
    harness.living[program.process] = program
    stats = await harness.request(harness.operator, "server.stats")
    assert (stats["workers"], stats["workers_unwatched"]) == (1, 1)
    again = await harness.worker("w1", program)
    assert (await harness.request(harness.operator, "server.stats"))["workers_unwatched"] == 0
    await harness.kill(again)
    assert harness.phase("a") is Phase.SUSPECT


async def test_a_peer_without_a_pid_is_known_by_its_connection(harness: CoreHarness) -> None:
    peer = await harness.worker("w1", harness.process(visible=False))
    await harness.save(peer, "a")
    stats = await harness.request(harness.operator, "server.stats")
    assert (stats["workers"], stats["workers_unwatched"]) == (1, 1)
    await harness.disconnect(peer)
    await harness.advance(RECONNECT_S)
    assert harness.ownership("a") == ("", 0, "disconnected")


# -- restarts ------------------------------------------------------------------------------------------------------


async def test_a_worker_that_died_meanwhile_has_left_at_once(harness: CoreHarness, w1: FakeClient) -> None:
    harness.exit(harness.process_of(w1))
    await harness.restart()
    assert harness.new_events() == [LEFT | {"reason": "exited"}, suspect_at("2026-01-01T00:00:30Z")]
    assert state(harness) is WorkerState.GONE


async def test_a_live_worker_keeps_its_calls_and_is_watched(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.restart()
    assert (harness.ownership("a"), state(harness)) == (("w1", 0, ""), WorkerState.RESTORED)
    assert harness.core.session("a").restored
    await harness.advance(2 * RECONNECT_S)
    assert harness.new_events() == [], "no grace is counted"
    harness.exit(harness.process_of(w1))
    await harness.settle()
    assert harness.new_events() == [LEFT | {"reason": "exited"}, suspect_at("2026-01-01T00:00:40Z")]


async def test_a_live_worker_that_reconnects_continues(harness: CoreHarness, w1: FakeClient) -> None:
    program = harness.process_of(w1)
    await harness.restart()
    again = await harness.worker("w1", program)
    listed = (await harness.request(again, "session.list"))["sessions"]
    assert (listed[0]["owner"], listed[0]["restored"]) == ("w1", True)
    await harness.heartbeat(again, "a")
    assert not harness.core.session("a").restored
    assert (await harness.claim(again, "a", "w1"))["epoch"] == 0
    await harness.kill(again)
    assert harness.phase("a") is Phase.SUSPECT


async def test_another_process_under_the_id_of_one_that_lives_is_a_conflict(
    harness: CoreHarness, w1: FakeClient
) -> None:
    await harness.restart()
    other = harness.connect(harness.process())
    assert (await harness.refused(other, "worker.register", worker_id="w1"))["kind"] == "conflict"


async def test_of_whom_nothing_is_known_the_beats_decide(harness: CoreHarness) -> None:
    peer = await harness.worker("w1", harness.process(watchable=False))
    await harness.save(peer, "a")
    await harness.restart()
    assert state(harness) is WorkerState.RESTORED
    await harness.advance(TIMEOUT_S)
    assert harness.core.session("a").suspected == "heartbeat_timeout"


async def test_a_second_restart_knows_as_much_as_the_first(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.restart()
    harness.exit(harness.process_of(w1))
    await harness.restart()
    assert harness.core.session("a").suspected == "worker_exited"


async def test_an_unjournaled_registration_is_journaled_with_the_next(harness: CoreHarness) -> None:
    """Else nobody would know at a restart which process it was."""
    program = harness.process()
    harness.disk.error = FULL
    peer = harness.connect(program)
    await harness.replies(peer, ("worker.register", {"worker_id": "w1"}))
    harness.disk.error = None
    await harness.disconnect(peer)
    peer = await harness.worker("w1", program)
    await harness.save(peer, "a")
    harness.exit(program)
    await harness.restart()
    assert harness.core.session("a").suspected == "worker_exited"


# -- many ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["exit", "disconnect"])
async def test_a_thousand_calls_of_one_worker_are_handled_in_slices(harness: CoreHarness, how: str) -> None:
    w1 = await harness.worker("w1")
    for number in range(1000):
        w1.send(("session.save", {"session": {"id": f"s{number}", "status": "active"}}))
    while len(harness.core.table.sessions) < 1000:
        await harness.settle()
    await harness.settle()
    harness.new_events()
    slices: list[int] = []
    departed = harness.core.reaper.depart

    def counted() -> int:
        slices.append(departed())
        return slices[-1]

    harness.core.reaper.depart = counted  # type: ignore[method-assign]
    if how == "exit":
        await harness.kill(w1)
    else:
        await harness.disconnect(w1)
        await harness.advance(RECONNECT_S)
    assert slices[0] == SESSIONS_A_SLICE, "the first at once"
    while harness.core.engine.departures.pending:
        await harness.settle()
    await harness.settle()  # events of the last slice are sent at the end of its turn
    assert sum(slices) == 1000
    assert max(slices) == SESSIONS_A_SLICE
    told = harness.new_events("suspect", "orphaned")
    assert [e["session_id"] for e in told] == [f"s{number}" for number in range(1000)]
    assert {e["type"] for e in told} == {"suspect" if how == "exit" else "orphaned"}


async def test_a_newcomer_under_the_id_of_a_worker_whose_calls_are_being_recorded(
    harness: CoreHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first has left and what the second makes are not mixed up."""
    monkeypatch.setattr(departures, "LISTED_AT_ONCE", 2)
    w1 = await harness.worker("w1")
    for name in "abcde":
        await harness.save(w1, name)
    harness.drop_connection(w1)
    harness.core.clock.advance(RECONNECT_S)
    harness.core.engine.registry.expire(harness.core.clock.live())
    assert harness.core.engine.departures.pending.keys() == {"a", "b"}, "the others are noted in later turns"
    again = harness.connect(harness.process())
    ids = again.send(
        ("worker.register", {"worker_id": "w1"}),
        ("session.save", {"session": {"id": "new"}}),
        ("session.claim", {"session_id": "e", "worker_id": "w1"}),
    )
    while harness.core.engine.departures.pending or not again.answered(ids):
        await harness.settle()
    assert {name: harness.ownership(name) for name in "abcd"} == dict.fromkeys("abcd", ("", 0, "disconnected"))
    assert harness.ownership("new") == ("w1", 0, "")
    assert harness.ownership("e") == ("w1", 1, ""), "another process: another epoch"


async def test_a_newcomer_waits_in_turns_of_the_loop_until_the_calls_of_the_worker_before_are_listed(
    harness: CoreHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(departures, "LISTED_AT_ONCE", 2)
    monkeypatch.setattr(server, "SHARE_S", 0.0)  # a step of a request in each turn
    monkeypatch.setattr(harness.core.reaper, "wake", lambda: None)
    w1 = await harness.worker("w1")
    for number in range(40):
        await harness.save(w1, f"s{number}")
    harness.drop_connection(w1)
    harness.core.clock.advance(RECONNECT_S)
    harness.core.engine.registry.expire(harness.core.clock.live())
    again, other = harness.connect(harness.process()), harness.connect(harness.process())
    register = again.send(("worker.register", {"worker_id": "w1"}))
    pending, before = harness.core.engine.departures.pending, 2
    while not again.answered(register):
        ping = other.send(("server.ping", {}))
        await asyncio.sleep(0)
        assert len(pending) <= before + 4, "in a turn of the loop, and the one that the ping was sent in"
        before = len(pending)
        await asyncio.sleep(0)
        assert other.answered(ping)
    assert len(pending) == 40


# -- a full disk ---------------------------------------------------------------------------------------------------


async def test_an_orphan_that_was_not_journaled_is_one_as_soon_as_it_can_be(
    harness: CoreHarness, w1: FakeClient
) -> None:
    harness.new_events()
    await harness.disconnect(w1)
    harness.disk.error = FULL
    await harness.advance(RECONNECT_S)
    assert [e["type"] for e in harness.new_events()] == ["worker.left", "journal.full"]
    assert harness.ownership("a") == ("w1", 0, ""), "undone"
    harness.disk.error = None
    await harness.advance(TICK_S)
    assert harness.ownership("a") == ("", 0, "disconnected")
    assert {e["type"] for e in harness.new_events()} == {"journal.ok", "orphaned"}


@pytest.mark.parametrize("how", ["exit", "disconnect"])
async def test_a_claim_that_was_not_journaled_leaves_what_its_worker_left_to_be_claimed(
    harness: CoreHarness, w1: FakeClient, how: str
) -> None:
    """The claim came before the departure was seen to."""
    w2 = await harness.worker("w2")
    harness.core.reaper.depart = lambda: 0  # type: ignore[method-assign]
    if how == "exit":
        harness.exit(harness.process_of(w1))
    harness.disk.error = FULL
    await harness.disconnect(w1)
    if how == "disconnect":
        await harness.advance(RECONNECT_S)
    assert harness.core.engine.departures.pending.keys() == {"a"}
    assert (await harness.refused(w2, "session.claim", session_id="a", worker_id="w2"))["kind"] == "not_durable"
    harness.disk.error = None
    assert harness.core.engine.departures.pending.keys() == {"a"}
    await harness.claim(w2, "a", "w2")
    assert harness.ownership("a") == ("w2", 1, "")
    assert not harness.core.engine.departures.pending


# -- what is kept --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["exit", "disconnect", "restart and exit", "restart and idle"])
async def test_nothing_is_kept_of_a_departed_worker(harness: CoreHarness, w1: FakeClient, how: str) -> None:
    program = harness.process_of(w1)
    if "restart" in how:
        await harness.restart()
    if "exit" in how:
        harness.exit(program)
    await harness.disconnect(w1)
    await harness.settle()
    await harness.advance(RECONNECT_S)
    registry, table = harness.core.engine.registry, harness.core.table
    assert table.processes.keys() == {"w1"}, "as long as it owns what may be restored"
    await harness.request(harness.operator, "session.delete", session_id="a")
    await harness.advance(1.0)
    assert not table.processes
    assert not table.index.owned
    assert len(registry.workers) == 0
    assert not registry._lingering
    assert not registry._watches
    assert not registry._connections
