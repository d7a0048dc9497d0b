"""Who is there: what becomes of workers and their calls as processes end and connections close."""

from __future__ import annotations

import pytest

from callstate_client.engine.liveness import Phase
from callstate_client.engine.process import Process
from callstate_client.engine.workers import State
from callstate_sidecar import reaper
from callstate_sidecar.reaper import ACTS_A_TICK
from support.core import Peer
from support.floor import FULL, GRACE_S, RECONNECT_S, TICK_S, TIMEOUT_S, Floor

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])  # time is passed in, and processes are pipes


@pytest.fixture
async def w1(floor: Floor) -> Peer:
    """A worker with session `a`."""
    peer = await floor.worker("w1")
    await floor.save(peer, "a")
    floor.told()
    return peer


def state(floor: Floor, worker_id: str = "w1") -> State:
    return floor.core.attendance.workers.state(worker_id)


LEFT = {"type": "worker.left", "worker_id": "w1"}


def suspect_at(deadline: str) -> dict[str, object]:
    return {
        "type": "suspect", "session_id": "a", "owner": "w1", "epoch": 0, "reason": "worker_exited",
        "evidence": "process_exited", "deadline": deadline,
    }  # fmt: skip


# -- exit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["exit", "close"])
async def test_an_exit_is_known_at_once(floor: Floor, w1: Peer, first: str) -> None:
    """Without a tick, and whichever the loop hears of first."""
    program = floor.program_of(w1)
    if first == "exit":
        floor.exit(program)
        await floor.settle()
        assert state(floor) is State.EXITED
        assert floor.told() == [], "what it sent last may still be unread"
        await floor.hung_up(w1)
    else:
        await floor.hung_up(w1)
        assert state(floor) is State.AWAY
        floor.exit(program)
        await floor.settle()
    assert floor.told() == [LEFT | {"reason": "exited"}, suspect_at("2026-01-01T00:00:30Z")]
    assert floor.phase("a") is Phase.SUSPECT
    assert state(floor) is State.GONE


async def test_an_exit_within_the_grace_is_an_exit(floor: Floor, w1: Peer) -> None:
    await floor.hung_up(w1)
    await floor.pass_time(RECONNECT_S - 1)
    floor.exit(floor.program_of(w1))
    await floor.settle()
    assert floor.told() == [LEFT | {"reason": "exited"}, suspect_at("2026-01-01T00:00:34Z")]
    await floor.pass_time(RECONNECT_S)
    assert floor.told() == []


async def test_a_silent_suspect_whose_process_exits_is_one_for_that(floor: Floor, w1: Peer) -> None:
    await floor.pass_time(TIMEOUT_S)
    floor.told()
    await floor.kill(w1)
    assert floor.core.entry("a").suspected == "worker_exited"
    assert floor.phase("a") is Phase.SUSPECT
    await floor.pass_time(GRACE_S)
    assert floor.told("expired")[0]["reason"] == "worker_exited", "no later than it was going to be"


async def test_what_has_ended_is_left_alone(floor: Floor, w1: Peer) -> None:
    await floor.ask(w1, "session.end", session_id="a", reason="hangup")
    floor.told()
    await floor.kill(w1)
    assert floor.told() == [LEFT | {"reason": "exited"}]
    assert floor.core.entry("a").ended_reason == "hangup"
    assert floor.held("a") == ("w1", 0, "")


async def test_what_it_was_about_to_lose_and_let_go_of_first_is_not_touched(floor: Floor, w1: Peer) -> None:
    """Released, ended, deleted or claimed by others in the very turn in which its exit is seen to."""
    for name in "bcde":
        await floor.save(w1, name)
    w2 = await floor.worker("w2")
    floor.exit(floor.program_of(w1))
    await floor.settle()
    floor.told()
    floor.hang_up(w1)  # seen to with the loop's next turn
    floor.operator.send(
        ("session.release", {"session_id": "a", "epoch": 0}),
        ("session.end", {"session_id": "b", "reason": "operator"}),
        ("session.delete", {"session_id": "c"}),
    )
    w2.send(("session.claim", {"session_id": "d", "worker_id": "w2"}))
    await floor.settle()
    assert [(e["session_id"], e["type"]) for e in floor.told() if "session_id" in e] == [
        ("a", "released"), ("b", "ended"), ("c", "deleted"), ("d", "claimed"), ("e", "suspect"),
    ]  # fmt: skip


# -- the grace -----------------------------------------------------------------------------------------------------


async def test_who_does_not_come_back_leaves_orphans(floor: Floor, w1: Peer) -> None:
    await floor.hung_up(w1)
    await floor.pass_time(RECONNECT_S - 0.001)
    assert floor.told() == []
    await floor.pass_time(0.001)
    assert floor.told() == [
        LEFT | {"reason": "disconnected"},
        {"type": "orphaned", "session_id": "a", "owner": "w1", "epoch": 0, "reason": "disconnected"},
    ]
    assert floor.held("a") == ("", 0, "disconnected")
    await floor.pass_time(TIMEOUT_S - 0.001)
    assert floor.phase("a") is Phase.LIVE, "a full timeout"


async def test_a_suspect_of_who_does_not_come_back_is_an_orphan_with_a_full_timeout(floor: Floor, w1: Peer) -> None:
    await floor.pass_time(TIMEOUT_S)
    await floor.hung_up(w1)
    await floor.pass_time(RECONNECT_S)
    assert (floor.phase("a"), floor.held("a")) == (Phase.LIVE, ("", 0, "disconnected"))


async def test_who_comes_back_in_time_never_left(floor: Floor, w1: Peer) -> None:
    program = floor.program_of(w1)
    for _ in range(3):
        await floor.hung_up(w1)
        await floor.pass_time(RECONNECT_S - 0.001)
        w1 = await floor.worker("w1", program)
        await floor.pass_time(RECONNECT_S)
    assert floor.told() == []
    assert floor.held("a") == ("w1", 0, "")
    await floor.kill(w1)
    assert floor.told()[0] == LEFT | {"reason": "exited"}, "and is watched as ever"


async def test_the_grace_is_of_the_daemons_own_time(floor: Floor, w1: Peer) -> None:
    """A stall is no absence."""
    await floor.hung_up(w1)
    floor.core.clock.advance(3600.0)
    floor.core.clock.stalled_s += 3600.0
    await floor.pass_time(RECONNECT_S - 0.001)
    assert state(floor) is State.AWAY


# -- one id, one process -------------------------------------------------------------------------------------------


async def test_an_id_of_one_that_can_not_be_watched_is_taken_over_when_it_is_away(floor: Floor) -> None:
    old = await floor.worker("w1", floor.program(watchable=False))
    await floor.save(old, "a")
    await floor.hung_up(old)
    floor.told()
    new = await floor.worker("w1")
    assert floor.told() == [
        LEFT | {"reason": "disconnected"},
        {"type": "worker.joined", "worker_id": "w1"},
        {"type": "orphaned", "session_id": "a", "owner": "w1", "epoch": 0, "reason": "disconnected"},
    ]
    assert (await floor.claim(new, "a", "w1"))["epoch"] == 1


async def test_a_process_that_exited_is_superseded_though_a_child_holds_its_connection(
    floor: Floor, w1: Peer
) -> None:
    floor.exit(floor.program_of(w1))
    await floor.settle()
    new = await floor.worker("w1")
    assert [e["type"] for e in floor.told()] == ["worker.left", "worker.joined", "suspect"]
    assert w1.closed, "nobody reads it"
    await floor.hung_up(w1)
    assert state(floor) is State.CONNECTED
    assert (await floor.claim(new, "a", "w1"))["epoch"] == 1


async def test_two_ids_in_one_process_are_known_by_their_connections(floor: Floor, w1: Peer) -> None:
    """A proxy: its exit says nothing of those behind it."""
    program = floor.program_of(w1)
    w2 = await floor.worker("w2", program)
    stats = await floor.ask(floor.operator, "server.stats")
    assert (stats["workers"], stats["workers_unwatched"]) == (2, 2)
    floor.told()
    floor.exit(program)
    await floor.hung_up(w1)
    await floor.hung_up(w2)
    assert floor.told() == []
    await floor.pass_time(RECONNECT_S)
    assert [(e["type"], e["reason"]) for e in floor.told()] == [
        ("worker.left", "disconnected"), ("worker.left", "disconnected"), ("orphaned", "disconnected"),
    ]  # fmt: skip


@pytest.mark.parametrize("restarted", [False, True])
async def test_the_death_of_a_process_is_that_of_all_its_workers(floor: Floor, restarted: bool) -> None:
    program = floor.program()
    peers = [await floor.worker(f"w{n}", program, instance=f"i{n}", process="p1") for n in range(3)]
    for number, peer in enumerate(peers):
        await floor.save(peer, f"c{number}")
    assert (await floor.ask(floor.operator, "server.stats"))["workers_unwatched"] == 0
    if restarted:
        await floor.restart()
    floor.told()
    floor.exit(program)
    for peer in peers:
        floor.hang_up(peer)
    await floor.settle()
    left = {(event["worker_id"], event["reason"]) for event in floor.told("worker.left")}
    assert left == {(f"w{number}", "exited") for number in range(3)}
    assert [floor.phase(f"c{number}") for number in range(3)] == [Phase.SUSPECT] * 3


async def test_a_worker_without_a_pid_is_remembered_over_a_restart(floor: Floor) -> None:
    """As of another container: its successor finds it again when it comes, and not before."""
    program = floor.program()
    program.process = Process(0, 0, "boot-1", 7)
    await floor.save(await floor.worker("w1", program), "a")
    await floor.restart()
    floor.living[program.process] = program
    stats = await floor.ask(floor.operator, "server.stats")
    assert (stats["workers"], stats["workers_unwatched"]) == (1, 1)
    again = await floor.worker("w1", program)
    assert (await floor.ask(floor.operator, "server.stats"))["workers_unwatched"] == 0
    await floor.kill(again)
    assert floor.phase("a") is Phase.SUSPECT


async def test_a_peer_without_a_pid_is_known_by_its_connection(floor: Floor) -> None:
    peer = await floor.worker("w1", floor.program(visible=False))
    await floor.save(peer, "a")
    stats = await floor.ask(floor.operator, "server.stats")
    assert (stats["workers"], stats["workers_unwatched"]) == (1, 1)
    await floor.hung_up(peer)
    await floor.pass_time(RECONNECT_S)
    assert floor.held("a") == ("", 0, "disconnected")


# -- restarts ------------------------------------------------------------------------------------------------------


async def test_who_died_meanwhile_is_gone_at_once(floor: Floor, w1: Peer) -> None:
    floor.exit(floor.program_of(w1))
    await floor.restart()
    assert floor.told() == [LEFT | {"reason": "exited"}, suspect_at("2026-01-01T00:00:30Z")]
    assert state(floor) is State.GONE


async def test_who_lives_keeps_its_calls_and_is_watched(floor: Floor, w1: Peer) -> None:
    await floor.restart()
    assert (floor.held("a"), state(floor)) == (("w1", 0, ""), State.RESTORED)
    assert floor.core.entry("a").restored
    await floor.pass_time(2 * RECONNECT_S)
    assert floor.told() == [], "no grace is counted"
    floor.exit(floor.program_of(w1))
    await floor.settle()
    assert floor.told() == [LEFT | {"reason": "exited"}, suspect_at("2026-01-01T00:00:40Z")]


async def test_who_lives_and_comes_back_goes_on(floor: Floor, w1: Peer) -> None:
    program = floor.program_of(w1)
    await floor.restart()
    again = await floor.worker("w1", program)
    listed = (await floor.ask(again, "session.list"))["sessions"]
    assert (listed[0]["owner"], listed[0]["restored"]) == ("w1", True)
    await floor.beat(again, "a")
    assert not floor.core.entry("a").restored
    assert (await floor.claim(again, "a", "w1"))["epoch"] == 0
    await floor.kill(again)
    assert floor.phase("a") is Phase.SUSPECT


async def test_another_process_under_the_id_of_one_that_lives_is_a_conflict(floor: Floor, w1: Peer) -> None:
    await floor.restart()
    other = floor.connect(floor.program())
    assert (await floor.refused(other, "worker.register", worker_id="w1"))["kind"] == "conflict"


async def test_of_whom_nothing_is_known_the_beats_decide(floor: Floor) -> None:
    peer = await floor.worker("w1", floor.program(watchable=False))
    await floor.save(peer, "a")
    await floor.restart()
    assert state(floor) is State.RESTORED
    await floor.pass_time(TIMEOUT_S)
    assert floor.core.entry("a").suspected == "heartbeat_timeout"


async def test_a_second_restart_knows_as_much_as_the_first(floor: Floor, w1: Peer) -> None:
    await floor.restart()
    floor.exit(floor.program_of(w1))
    await floor.restart()
    assert floor.core.entry("a").suspected == "worker_exited"


async def test_a_registration_that_was_not_journaled_is_told_with_the_next(floor: Floor) -> None:
    """Else nobody would know at a restart which process it was."""
    program = floor.program()
    floor.disk.error = FULL
    peer = floor.connect(program)
    await floor.replies(peer, ("worker.register", {"worker_id": "w1"}))
    floor.disk.error = None
    await floor.hung_up(peer)
    peer = await floor.worker("w1", program)
    await floor.save(peer, "a")
    floor.exit(program)
    await floor.restart()
    assert floor.core.entry("a").suspected == "worker_exited"


# -- many ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["exit", "disconnect"])
async def test_a_thousand_calls_of_one_worker_are_seen_to_in_slices(floor: Floor, how: str) -> None:
    w1 = await floor.worker("w1")
    for number in range(1000):
        w1.send(("session.save", {"session": {"id": f"s{number}", "status": "active"}}))
    while len(floor.core.cache.entries) < 1000:
        await floor.settle()
    await floor.settle()
    floor.told()
    slices: list[int] = []
    departed = floor.core.reaper.departed

    def counted() -> int:
        slices.append(departed())
        return slices[-1]

    floor.core.reaper.departed = counted  # type: ignore[method-assign]
    if how == "exit":
        await floor.kill(w1)
    else:
        await floor.hung_up(w1)
        await floor.pass_time(RECONNECT_S)
    assert slices[0] == ACTS_A_TICK, "the first at once"
    while floor.core.ctx.departing:
        await floor.settle()
    assert sum(slices) == 1000
    assert max(slices) == ACTS_A_TICK
    told = floor.told("suspect", "orphaned")
    assert [e["session_id"] for e in told] == [f"s{number}" for number in range(1000)]
    assert {e["type"] for e in told} == {"suspect" if how == "exit" else "orphaned"}


async def test_who_comes_under_the_id_of_one_whose_many_calls_are_being_noted(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first has left and what the second makes are not mixed up."""
    monkeypatch.setattr(reaper, "LOOKS_A_TURN", 2)
    w1 = await floor.worker("w1")
    for name in "abcde":
        await floor.save(w1, name)
    floor.hang_up(w1)
    floor.core.clock.advance(RECONNECT_S)
    floor.core.attendance.tick(floor.core.clock.live())
    assert floor.core.ctx.departing.keys() == {"a", "b"}, "the others are noted in later turns"
    again = floor.connect(floor.program())
    ids = again.send(
        ("worker.register", {"worker_id": "w1"}),
        ("session.save", {"session": {"id": "new"}}),
        ("session.claim", {"session_id": "e", "worker_id": "w1"}),
    )
    while floor.core.ctx.departing or not again.answered(ids):
        await floor.settle()
    assert {name: floor.held(name) for name in "abcd"} == dict.fromkeys("abcd", ("", 0, "disconnected"))
    assert floor.held("new") == ("w1", 0, "")
    assert floor.held("e") == ("w1", 1, ""), "another process: another epoch"


# -- a full disk ---------------------------------------------------------------------------------------------------


async def test_an_orphan_that_was_not_journaled_is_one_as_soon_as_it_can_be(floor: Floor, w1: Peer) -> None:
    floor.told()
    await floor.hung_up(w1)
    floor.disk.error = FULL
    await floor.pass_time(RECONNECT_S)
    assert [e["type"] for e in floor.told()] == ["worker.left", "journal.full"]
    assert floor.held("a") == ("w1", 0, ""), "undone"
    floor.disk.error = None
    await floor.pass_time(TICK_S)
    assert floor.held("a") == ("", 0, "disconnected")
    assert {e["type"] for e in floor.told()} == {"journal.ok", "orphaned"}


@pytest.mark.parametrize("how", ["exit", "disconnect"])
async def test_a_claim_that_was_not_journaled_leaves_what_its_worker_left_to_be_claimed(
    floor: Floor, w1: Peer, how: str
) -> None:
    """The claim came before the departure was seen to."""
    w2 = await floor.worker("w2")
    floor.core.reaper.departed = lambda: 0  # type: ignore[method-assign]
    if how == "exit":
        floor.exit(floor.program_of(w1))
    floor.disk.error = FULL
    await floor.hung_up(w1)
    if how == "disconnect":
        await floor.pass_time(RECONNECT_S)
    assert floor.core.ctx.departing.keys() == {"a"}
    assert (await floor.refused(w2, "session.claim", session_id="a", worker_id="w2"))["kind"] == "not_durable"
    floor.disk.error = None
    assert floor.core.ctx.departing.keys() == {"a"}
    await floor.claim(w2, "a", "w2")
    assert floor.held("a") == ("w2", 1, "")
    assert not floor.core.ctx.departing


# -- what is kept --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["exit", "disconnect", "restart and exit", "restart and idle"])
async def test_nothing_is_kept_of_who_is_gone(floor: Floor, w1: Peer, how: str) -> None:
    program = floor.program_of(w1)
    if "restart" in how:
        await floor.restart()
    if "exit" in how:
        floor.exit(program)
    await floor.hung_up(w1)
    await floor.settle()
    await floor.pass_time(RECONNECT_S)
    attendance, cache = floor.core.attendance, floor.core.cache
    assert cache.processes.keys() == {"w1"}, "as long as it owns what may be restored"
    await floor.ask(floor.operator, "session.delete", session_id="a")
    await floor.pass_time(1.0)
    assert not cache.processes
    assert not cache.index.owned
    assert len(attendance.workers) == 0
    assert not attendance._lingering
    assert not attendance._watches
    assert not attendance._connections
