"""Ownership: each rule of the contract, one at a time, over a real core with time, processes and disk passed in."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from callstate_sidecar.liveness import Phase
from callstate_sidecar.process import Process
from callstate_sidecar.reaper import ACTS_A_TICK
from callstate_sidecar.records import WorkerRecord
from support.core import BadDisk, Core, Peer, kept, off_loop, open_journal

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])  # no I/O in here: one loop is as good as another

TIMEOUT_S, GRACE_S, RETENTION_S, RECONNECT_S = 30.0, 30.0, 300.0, 5.0


class Worker(Peer):
    """A registered connection of a process of its own, which dies when it is told to."""

    pids = 1000

    def __init__(self, core: Core, worker_id: str, process: Process | None = None) -> None:
        Worker.pids += 1
        super().__init__(core, process or Process(Worker.pids, Worker.pids, "boot-1"))
        self.core = core
        self.alive, self._end = os.pipe()
        self.pidfd = self.alive
        self.worker_id = worker_id

    async def ask(self, method: str, **params: Any) -> Any:
        """The result of a request, or its error."""
        (request_id,) = self.send((method, params))
        while not self.answered([request_id]):
            await asyncio.sleep(0)
        reply = self.replies[request_id]
        return reply.get("result", reply.get("error"))

    async def join(self) -> Worker:
        """Register."""
        assert (await self.ask("worker.register", worker_id=self.worker_id)).get("worker_id") == self.worker_id
        return self

    def hang_up(self) -> None:
        """Its connection closes."""
        self.connection.connection_lost(None)

    def exit(self) -> None:
        """Its process runs no more, as its pidfd tells once the loop turns."""
        os.close(self._end)
        self._end = -1

    async def die(self) -> None:
        """Both, and what follows from it."""
        self.exit()
        self.hang_up()
        while self.core.attendance.workers.state(self.worker_id).value not in ("gone",):
            await asyncio.sleep(0)
        await settle(self.core)

    def close_pipe(self) -> None:
        """Give back what the test's own process has."""
        os.close(self.alive)
        if self._end >= 0:
            os.close(self._end)


async def settle(core: Core) -> None:
    """Let everything that is due in the loop now happen."""
    for _ in range(5):
        await asyncio.sleep(0)
    while core.reaper._departed:
        core.reaper.departed()


class Ground:
    """A core, and the workers made there."""

    def __init__(self) -> None:
        self.core = Core()
        self.made: list[Worker] = []

    async def worker(self, worker_id: str, process: Process | None = None) -> Worker:
        """A worker that has registered."""
        worker = Worker(self.core, worker_id, process)
        self.made.append(worker)
        return await worker.join()

    async def watching(self, *types: str) -> Peer:
        """Who is told of these events."""
        peer = Peer(self.core)
        (request_id,) = peer.send(("events.subscribe", {"types": [*types]} if types else {}))
        while not peer.answered([request_id]):
            await asyncio.sleep(0)
        return peer

    def pass_time(self, seconds: float) -> None:
        """Time goes on, and what is due is seen to."""
        self.core.clock.advance(seconds)
        while self.core.reaper.tick(self.core.clock.live()):
            pass


@pytest.fixture
async def ground() -> AsyncIterator[Ground]:
    made = Ground()
    yield made
    made.core.attendance.close()
    for worker in made.made:
        worker.close_pipe()


def kinds(error: Any) -> Any:
    return error["data"]["kind"]


async def saved(worker: Worker, session_id: str = "a", **more: Any) -> Any:
    return await worker.ask("session.save", session={"id": session_id, "status": "active"}, **more)


# -- owning -----------------------------------------------------------------------------------------------------


async def test_a_registered_connection_owns_what_it_creates(ground: Ground) -> None:
    w1 = await ground.worker("w1")
    await saved(w1)
    loaded = await w1.ask("session.load", session_id="a")
    assert (loaded["owner"], loaded["epoch"]) == ("w1", 0)
    assert ground.core.cache.index.owned == {"w1": {"a": None}}


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("session.save", {"session": {"id": "a"}}),
        ("session.add_turn", {"session_id": "a", "turn": {"role": "user"}}),
        ("session.amend_turn", {"session_id": "a", "set": {"content": "x"}}),
        ("session.record_interruption", {"session_id": "a"}),
        ("session.update", {"session_id": "a", "set": {"status": "on_hold"}}),
        ("session.end", {"session_id": "a"}),
        ("session.delete", {"session_id": "a"}),
        ("session.heartbeat", {"session_id": "a"}),
        ("session.release", {"session_id": "a", "epoch": 0}),
    ],
)
async def test_another_workers_session_is_not_to_be_touched(
    ground: Ground, method: str, params: dict[str, Any]
) -> None:
    w1, w2, told = await ground.worker("w1"), await ground.worker("w2"), await ground.watching("fenced")
    await saved(w1)
    await w1.ask("session.add_turn", session_id="a", turn={"role": "user"})
    before = kept(ground.core.entry("a"))
    for _ in range(2):
        error = await w2.ask(method, **params)
        assert (kinds(error), error["data"]["owner"], error["data"]["epoch"]) == ("fenced", "w1", 0)
    assert kept(ground.core.entry("a")) == before
    assert [(event["type"], event["worker_id"]) for event in told.events] == [("fenced", "w2")], "once an epoch"


async def test_beats_of_many_are_judged_one_by_one(ground: Ground) -> None:
    w1, w2 = await ground.worker("w1"), await ground.worker("w2")
    await saved(w1, "a")
    await saved(w2, "b")
    await saved(w2, "c")
    await w2.ask("session.end", session_id="c")
    result = await w2.ask("session.heartbeat", session_ids=["a", "b", "c", "d"])
    assert result == {"missing": ["d"], "ended": ["c"], "fenced": ["a"]}


async def test_who_is_no_worker_may_change_all_and_keeps_alive_what_it_has_the_epoch_of(ground: Ground) -> None:
    w1 = await ground.worker("w1")
    await saved(w1, "a")
    await saved(w1, "b")
    ground.core.clock.advance(20.0)
    await ground.core.turn("a")
    await ground.core.turn("b", epoch=0)
    ground.pass_time(11.0)
    assert ground.core.liveness.phase("a") is Phase.SUSPECT
    assert ground.core.liveness.phase("b") is Phase.LIVE


async def test_a_strangers_beat_counts_while_the_owner_is_away(ground: Ground) -> None:
    w1 = await ground.worker("w1")
    await saved(w1)
    ground.core.clock.advance(20.0)
    assert await ground.core.call("session.heartbeat", session_id="a") == {}
    ground.pass_time(11.0)
    assert ground.core.liveness.phase("a") is Phase.SUSPECT, "the owner is here, and was silent"
    await ground.core.call("session.claim", session_id="a", worker_id="script")
    ground.core.clock.advance(20.0)
    await ground.core.call("session.heartbeat", session_id="a")
    ground.pass_time(11.0)
    assert ground.core.liveness.phase("a") is Phase.LIVE


# -- claims -----------------------------------------------------------------------------------------------------


async def test_a_claim_of_a_live_call_is_a_conflict_unless_it_steals(ground: Ground) -> None:
    w1, w2, told = await ground.worker("w1"), await ground.worker("w2"), await ground.watching("claimed")
    await saved(w1)
    error = await w2.ask("session.claim", session_id="a", worker_id="w2")
    assert (kinds(error), error["data"]["owner"]) == ("conflict", "w1")
    claimed = await w2.ask("session.claim", session_id="a", worker_id="w2", steal=True)
    assert (claimed["owner"], claimed["epoch"]) == ("w2", 1)
    again = await w2.ask("session.claim", session_id="a", worker_id="w2")
    assert (again["epoch"], again["version"]) == (1, claimed["version"]), "a repeat is the same claim"
    assert kinds(await w1.ask("session.add_turn", session_id="a", turn={}, epoch=0)) == "fenced"
    assert [(event["reason"], event["owner"], event["epoch"]) for event in told.events] == [("stolen", "w2", 1)]


async def test_nobody_claims_for_another(ground: Ground) -> None:
    w1 = await ground.worker("w1")
    await saved(w1)
    assert kinds(await w1.ask("session.claim", session_id="a", worker_id="w2")) == "forbidden"
    assert kinds(await w1.ask("session.claim_next", worker_id="w2")) == "forbidden"
    assert kinds(await w1.ask("worker.register", worker_id="w2")) == "forbidden"
    assert kinds(await w1.ask("worker.register", worker_id="a b")) in ("invalid_params", "forbidden")


async def test_a_released_call_goes_to_whoever_asks_first(ground: Ground) -> None:
    w1, w2, told = (
        await ground.worker("w1"),
        await ground.worker("w2"),
        await ground.watching("released", "claimed"),
    )
    await saved(w1, labels={"app": "x"})
    assert await w2.ask("session.claim_next", worker_id="w2") is None
    ground.core.clock.advance(20.0)
    assert await w1.ask("session.release", session_id="a", epoch=0) == {}
    assert await w1.ask("session.release", session_id="a", epoch=0) == {}, "a repeat"
    ground.pass_time(20.0)
    assert ground.core.liveness.phase("a") is Phase.LIVE, "it has its full timeout"
    assert await w2.ask("session.claim_next", worker_id="w2", labels={"app": "y"}) is None
    claimed = await w2.ask("session.claim_next", worker_id="w2", labels={"app": "x"}, history="none")
    assert (claimed["owner"], claimed["epoch"], "history" in claimed["session"]) == ("w2", 1, False)
    assert await w2.ask("session.claim_next", worker_id="w2") is None
    assert [(event["type"], event["owner"], event["reason"]) for event in told.events] == [
        ("released", "w1", "released"),
        ("claimed", "w2", "released"),
    ]


async def test_a_reaped_call_lives_again_by_a_claim_with_what_it_was(ground: Ground) -> None:
    w1, w2 = await ground.worker("w1"), await ground.worker("w2")
    await w1.ask("session.save", session={"id": "a", "status": "on_hold"})
    ground.pass_time(TIMEOUT_S)
    ground.pass_time(GRACE_S)
    assert kinds(await w1.ask("session.heartbeat", session_id="a")) == "session_ended"
    assert kinds(await w1.ask("session.add_turn", session_id="a", turn={})) == "session_ended"
    claimed = await w2.ask("session.claim", session_id="a", worker_id="w2")
    assert (claimed["session"]["status"], claimed["epoch"], claimed.get("ended_reason")) == ("on_hold", 1, None)
    assert ground.core.liveness.phase("a") is Phase.LIVE
    await w2.ask("session.end", session_id="a")
    assert kinds(await w1.ask("session.claim", session_id="a", worker_id="w1")) == "session_ended"


async def test_a_call_over_time_that_is_claimed_goes_on(ground: Ground) -> None:
    w1 = await ground.worker("w1")
    await saved(w1, max_duration_s=20.0)
    ground.pass_time(20.0)
    assert (await w1.ask("session.load", session_id="a"))["ended_reason"] == "max_duration"
    await w1.ask("session.claim", session_id="a", worker_id="w1")
    ground.pass_time(20.0)
    assert ground.core.liveness.phase("a") is Phase.LIVE


async def test_an_undone_claim_leaves_all_as_it_was(tmp_path: Path) -> None:
    disk = BadDisk()
    journal = open_journal(tmp_path, disk, None, start=True)
    core = Core(journal=journal)
    await core.call("session.save", session={"id": "a", "status": "active"})
    await core.call("session.claim", session_id="a", worker_id="w1")
    core.events.publish(1 << 30)
    before, seq = kept(core.entry("a")), core.events.seq
    disk.error = OSError(errno.ENOSPC, "full")
    await core.call("session.claim", session_id="a", worker_id="w2", steal=True)
    assert kept(core.entry("a")) == before
    assert core.cache.index.owned == {"w1": {"a": None}}
    disk.error = None
    await core.call("server.ping")
    assert "claimed" not in [kept_event.type for kept_event in core.events._ring if kept_event.seq > seq]
    off_loop(journal.close)


async def test_a_replay_knows_owners_orphans_and_processes(ground: Ground) -> None:
    core = ground.core
    await core.save("a")
    await core.call("session.claim", session_id="a", worker_id="w1")
    await core.save("b")
    await core.call("session.claim", session_id="b", worker_id="w1")
    await core.call("session.release", session_id="b", epoch=1)
    core.cache.worker(WorkerRecord("w1", 7, 8, "boot-1"))
    core.commit()
    after = core.replayed()
    assert {i: kept(e) for i, e in after.entries.items()} == {i: kept(e) for i, e in core.cache.entries.items()}
    assert (after.index.owned, list(after.index.orphans)) == ({"w1": {"a": None}}, ["b"])
    assert after.processes["w1"].pid == 7


async def test_while_it_drains_nothing_new_comes(ground: Ground) -> None:
    w1 = await ground.worker("w1")
    await saved(w1)
    assert await w1.ask("server.drain", on=True) == {"drain": True, "sessions": 1}
    assert kinds(await saved(w1, "b")) == "shutting_down"
    assert "version" in await saved(w1)
    await w1.ask("session.end", session_id="a")
    assert await w1.ask("server.drain", on=False) == {"drain": False, "sessions": 0}
    assert "version" in await saved(w1, "b")


# -- workers that leave -----------------------------------------------------------------------------------------


async def test_a_workers_death_makes_suspects_at_once(ground: Ground) -> None:
    w1, w2, told = await ground.worker("w1"), await ground.worker("w2"), await ground.watching()
    await saved(w1)
    await w1.die()
    assert [event["type"] for event in told.events] == ["created", "worker.left", "suspect"]
    left, suspect = told.events[1:]
    assert (left["worker_id"], left["reason"]) == ("w1", "exited")
    assert (suspect["reason"], suspect["evidence"], suspect["owner"]) == ("worker_exited", "process_exited", "w1")
    assert suspect["deadline"] == "2026-01-01T00:00:30Z"
    claimed = await w2.ask("session.claim_next", worker_id="w2")
    assert (claimed["session"]["id"], claimed["epoch"]) == ("a", 1)
    ground.pass_time(1.0)
    assert not ground.core.cache.processes.keys() - {"w2"}


async def test_a_dead_workers_call_that_nobody_claims_ends_with_one_reason_and_one_event(ground: Ground) -> None:
    w1, told = await ground.worker("w1"), await ground.watching("suspect", "expired", "ended", "deleted")
    await saved(w1)
    await w1.die()
    ground.pass_time(GRACE_S - 0.001)
    assert not ground.core.entry("a").ended
    ground.pass_time(0.001)
    await settle(ground.core)
    assert [(event["type"], event["reason"]) for event in told.events] == [
        ("suspect", "worker_exited"),
        ("expired", "worker_exited"),
    ]
    assert ground.core.entry("a").ended_reason == "worker_exited"


async def test_a_connection_lost_is_forgiven_for_a_while(ground: Ground) -> None:
    w1 = await ground.worker("w1")
    await saved(w1)
    w1.hang_up()
    ground.pass_time(RECONNECT_S - 0.001)
    assert ground.core.entry("a").owner == "w1"
    again = await ground.worker("w1", w1.process)
    ground.pass_time(RECONNECT_S)
    assert ground.core.entry("a").owner == "w1"
    told = await ground.watching()
    again.hang_up()
    ground.pass_time(RECONNECT_S)
    await settle(ground.core)
    entry = ground.core.entry("a")
    assert (entry.owner, entry.orphan) == ("", "disconnected")
    assert [(event["type"], event.get("owner")) for event in told.events] == [
        ("worker.left", None),
        ("orphaned", "w1"),
    ]
    ground.pass_time(TIMEOUT_S - 0.001)
    assert ground.core.liveness.phase("a") is Phase.LIVE, "an orphan has its full timeout"


async def test_two_processes_can_not_have_one_id(ground: Ground) -> None:
    w1 = await ground.worker("w1")
    other = Worker(ground.core, "w1")
    ground.made.append(other)
    error = await other.ask("worker.register", worker_id="w1")
    assert (kinds(error), error["data"]["owner"]) == ("conflict", "w1")
    await saved(w1)
    await w1.die()
    await other.join()
    claimed = await other.ask("session.claim", session_id="a", worker_id="w1")
    assert claimed["epoch"] == 1, "another process: the dead one's epoch is not its own"


async def test_a_worker_thought_dead_finds_its_call_taken(ground: Ground) -> None:
    w1, w2 = await ground.worker("w1"), await ground.worker("w2")
    await saved(w1)
    ground.pass_time(TIMEOUT_S)
    claimed = await w2.ask("session.claim_next", worker_id="w2")
    assert claimed["epoch"] == 1
    assert kinds(await w1.ask("session.heartbeat", session_id="a")) == "fenced"
    assert kinds(await w1.ask("session.add_turn", session_id="a", turn={"content": "late"})) == "fenced"


async def test_a_workers_own_silent_call_comes_back_in_its_epoch(ground: Ground) -> None:
    w1, told = await ground.worker("w1"), await ground.watching("suspect", "recovered", "claimed")
    await saved(w1)
    ground.pass_time(TIMEOUT_S)
    assert (await w1.ask("session.claim_next", worker_id="w1"))["epoch"] == 0
    assert [event["type"] for event in told.events] == ["suspect", "recovered"]


async def test_a_thousand_calls_of_one_worker_are_seen_to_in_slices(ground: Ground) -> None:
    w1 = await ground.worker("w1")
    for number in range(3 * ACTS_A_TICK + 5):
        await saved(w1, f"s{number}")
    w1.exit()
    w1.hang_up()
    while not ground.core.reaper._departed:
        await asyncio.sleep(0)
    assert ground.core.reaper.departed() == ACTS_A_TICK
    await settle(ground.core)
    assert len(ground.core.liveness.suspects) == 3 * ACTS_A_TICK + 5


async def test_one_process_of_two_names_is_known_by_its_connections_alone(ground: Ground) -> None:
    w1 = await ground.worker("w1")
    await ground.worker("w2", w1.process)
    await saved(w1)
    w1.exit()
    w1.hang_up()
    await settle(ground.core)
    assert ground.core.liveness.phase("a") is Phase.LIVE
    assert ground.core.attendance.workers.unwatched == 2
    ground.pass_time(RECONNECT_S)
    await settle(ground.core)
    assert ground.core.entry("a").orphan == "disconnected"
