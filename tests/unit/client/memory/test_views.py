"""What MemoryStore adds to the rules that all stores share: views, processes, and what time does to the minute."""

from __future__ import annotations

import gc
import weakref
from datetime import timedelta

import pytest

from callstate_client import (
    Clock,
    ConflictError,
    InvalidParamsError,
    MemoryStore,
    SessionNotFoundError,
    SessionState,
    StoreClosedError,
)
from support.owners import START, a_call, claim, claim_next, interrupted, register, release, send_heartbeats


@pytest.fixture
def w1() -> MemoryStore:
    return MemoryStore(Clock(START), worker_id="w1")


async def stats(store: MemoryStore, *names: str) -> list[int]:
    found = await store.stats()
    return [found[name] for name in names]


# -- views ------------------------------------------------------------------------------------------------------


async def test_views_are_of_the_same_sessions(w1: MemoryStore) -> None:
    w2 = w1.worker("w2")
    await w1.save(a_call())
    assert (w2.count(), w2.worker_id, w2.clock is w1.clock) == (1, "w2", True)
    assert (await w2.info())["liveness"] == "process"
    assert await stats(w2, "workers", "workers_unwatched") == [2, 0]


async def test_a_bad_worker_id_makes_no_view() -> None:
    with pytest.raises(InvalidParamsError):
        MemoryStore(worker_id="a b")
    with pytest.raises(InvalidParamsError):
        MemoryStore().worker("")


async def test_a_closed_view_leaves_the_others_theirs(w1: MemoryStore) -> None:
    w2 = w1.worker("w2")
    await w2.save(a_call())
    await w1.close()
    await w1.close()
    assert await w2.list_active() == ["c1"]
    again = w1.worker("w1")
    assert again.count() == 1


async def test_a_worker_is_connected_while_one_of_its_views_is_open(w1: MemoryStore) -> None:
    second = w1.worker("w1")
    await w1.save(a_call())
    await w1.close()
    w1.clock.advance(20)
    assert (await second.get("c1")).owner == "w1"
    await second.close()
    w1.clock.advance(5)
    assert (await w1.worker().get("c1")).owner is None


async def test_all_views_of_a_killed_process_are_closed(w1: MemoryStore) -> None:
    second, other = w1.worker("w1"), w1.worker("w2")
    await w1.save(a_call())
    second.kill_worker()
    assert (w1.closed, second.closed, other.closed) == (True, True, False)
    for store in (w1, second):
        for ask in (store.load("c1"), store.update_heartbeat("c1"), claim(store, "c1", "w1")):
            with pytest.raises(StoreClosedError):
                await ask
        with pytest.raises(StoreClosedError):
            store.events()
    await w1.close()
    assert await stats(other, "suspects", "workers") == [1, 1]


async def test_killed_while_it_was_away(w1: MemoryStore) -> None:
    await w1.save(a_call())
    await w1.close()
    w1.clock.advance(3)
    w1.kill_worker()
    other = w1.worker("w2")
    assert (await other.get("c1")).owner == "w1"
    assert await stats(other, "suspects") == [1]
    w1.clock.advance(10)  # the reconnect grace is nobody's any more
    assert await stats(other, "suspects") == [1]


async def test_killed_twice_or_without_a_worker(w1: MemoryStore) -> None:
    operator = w1.worker()
    await operator.save(a_call())
    operator.kill_worker()
    operator.kill_worker()
    assert operator.closed
    assert await stats(w1, "suspects") == [0]


async def test_an_old_process_says_nothing_about_the_new_one(w1: MemoryStore) -> None:
    await w1.close()
    w1.clock.advance(6)  # it has left
    new = w1.worker("w1")
    await new.save(a_call())
    w1.kill_worker()
    assert not new.closed
    assert await stats(new, "suspects", "workers") == [0, 1]


async def test_a_process_that_is_away_still_has_its_id(w1: MemoryStore) -> None:
    operator = w1.worker()
    await w1.close()
    with pytest.raises(ConflictError):
        await register(operator, "w1")
    w1.clock.advance(5)
    await register(operator, "w1")


def test_a_clock_keeps_no_store_alive() -> None:
    clock = Clock(START)
    sessions = weakref.ref(MemoryStore(clock)._sessions)
    gc.collect()
    assert sessions() is None
    clock.advance(1)


# -- time -------------------------------------------------------------------------------------------------------


async def test_deadlines_are_met_at_their_time_however_late_they_are_observed(w1: MemoryStore) -> None:
    operator, events = w1.worker(), w1.worker().events()
    await w1.save(a_call("gone"), heartbeat_timeout_s=10)
    await w1.save(a_call("slow"), heartbeat_timeout_s=1000)
    await operator.save(a_call("old"), max_duration_s=20)
    w1.clock.advance(2)
    await w1.close()
    w1.clock.advance(398)
    told = [await anext(events) for _ in range(9)]
    assert [(each.type, each.session_id, (each.at - START).total_seconds(), each.reason) for each in told] == [
        ("created", "gone", 0, None),
        ("created", "slow", 0, None),
        ("created", "old", 0, None),
        ("worker.left", None, 7, "disconnected"),
        ("orphaned", "gone", 7, "disconnected"),
        ("orphaned", "slow", 7, "disconnected"),
        ("suspect", "gone", 17, "heartbeat_timeout"),
        ("expired", "old", 20, "max_duration"),
        ("expired", "gone", 47, "heartbeat_timeout"),
    ]
    assert operator.count() == 1  # forgotten at 320 and 347


async def test_a_suspicion_names_its_deadline(w1: MemoryStore) -> None:
    events = w1.events("suspect")
    await w1.save(a_call())
    w1.clock.advance(31)
    suspect = await anext(events)
    assert suspect.deadline == START + timedelta(seconds=60)
    w1.clock.advance(9)
    w1.kill_worker()  # a second reason, and no more time
    second = await anext(w1.worker("w2").events("suspect", since=suspect.cursor))
    assert (second.reason, second.at, second.deadline) == (
        "worker_exited", START + timedelta(seconds=40), START + timedelta(seconds=60),
    )  # fmt: skip
    again = w1.worker("w1")
    w1.clock.advance(19)
    assert (await claim(again, "c1", "w1")).epoch == 1  # another process
    again.kill_worker()
    w1.clock.advance(30)
    assert (await w1.worker().get("c1")).ended_reason == "worker_exited"


async def test_an_orphan_is_suspected_after_its_timeout(w1: MemoryStore) -> None:
    w2 = w1.worker("w2")
    await w1.save(a_call())
    w1.clock.advance(25)
    await release(w1, "c1", 0)
    assert (await w2.load("c1")).updated_at == START
    w1.clock.advance(29)
    assert await stats(w2, "suspects") == [0]
    w1.clock.advance(1)
    assert await stats(w2, "suspects") == [1]
    assert (await claim(w2, "c1", "w2")).owner == "w2"
    assert (await w2.load("c1")).updated_at == START + timedelta(seconds=55)


async def test_a_timeout_made_short_afterwards_does_not_reach_into_the_past(w1: MemoryStore) -> None:
    operator, events = w1.worker(), w1.events("suspect")
    await w1.save(a_call())
    w1.clock.advance(20)
    await operator.save(a_call(), heartbeat_timeout_s=3)  # no sign of life: it lacks the epoch
    assert await stats(operator, "suspects") == [0]  # the owner has not been told: the longer one is in force
    w1.clock.advance(10)
    assert await stats(operator, "suspects") == [1]
    assert (await anext(events)).at == START + timedelta(seconds=30)


async def test_a_beat_and_the_deadline_at_the_same_moment(w1: MemoryStore) -> None:
    await w1.save(a_call())
    w1.clock.advance(30)  # first what is due
    assert await stats(w1, "suspects") == [1]
    await w1.update_heartbeat("c1")
    assert await stats(w1, "suspects") == [0]
    w1.clock.advance(60)
    with pytest.raises(Exception, match="heartbeat_timeout"):
        await w1.update_heartbeat("c1")


async def test_a_recovered_call_is_suspected_again_after_its_own_timeout(w1: MemoryStore) -> None:
    events = w1.events("suspect", "recovered")
    await w1.save(a_call(), heartbeat_timeout_s=2)
    w1.clock.advance(3)
    await w1.update_heartbeat("c1")
    w1.clock.advance(3)
    assert [((one := await anext(events)).type, (one.at - START).total_seconds()) for _ in range(3)] == [
        ("suspect", 2),
        ("recovered", 3),
        ("suspect", 5),
    ]


async def test_deleted_while_suspect(w1: MemoryStore) -> None:
    events = w1.events("deleted", "expired")
    await w1.save(a_call())
    w1.clock.advance(31)
    await w1.delete("c1")
    w1.clock.advance(100)
    await w1.save(a_call("c2"))
    await w1.delete("c2")
    assert [(await anext(events)).session_id for _ in range(2)] == ["c1", "c2"]
    with pytest.raises(SessionNotFoundError):
        await claim(w1, "c1", "w1")
    assert (await send_heartbeats(w1, "c1")).missing == ["c1"]


async def test_a_deleted_sessions_epoch_is_remembered_as_long_as_an_ended_session(w1: MemoryStore) -> None:
    operator = w1.worker()
    for epoch, later_s in ((1, 299), (0, 301)):
        version = await operator.save(a_call()) or 0
        await claim(operator, "c1", "w1")
        await operator.delete("c1")
        w1.clock.advance(later_s)
        assert (await operator.save(a_call()) or 0) > version
        assert (await operator.get("c1")).epoch == epoch
        await operator.delete("c1")
        w1.clock.advance(301)


# -- owners -----------------------------------------------------------------------------------------------------


async def test_a_session_revived_by_a_save_is_its_owners_else_the_savers(w1: MemoryStore) -> None:
    operator, w2 = w1.worker(), w1.worker("w2")
    await operator.save(a_call("nobodys"))
    await w1.save(a_call("released"))
    await release(w1, "released", 0)
    await w1.save(a_call("mine"))
    for session_id in ("nobodys", "released", "mine"):
        await operator.end(session_id)
    for session_id in ("nobodys", "released"):
        await w2.save(a_call(session_id))
    await operator.save(a_call("mine"))
    assert [record.owner async for record in w1.sessions()] == ["w2", "w2", "w1"]
    assert await claim_next(w1, "w1") is None


async def test_a_worker_created_ended(w1: MemoryStore) -> None:
    events = w1.events()
    await w1.save(a_call(status="ended"))
    assert [(await anext(events)).type for _ in range(2)] == ["created", "ended"]


async def test_a_fenced_caller_is_reported_once_per_epoch(w1: MemoryStore) -> None:
    operator, w2 = w1.worker(), w1.worker("w2")
    events = operator.events("fenced")
    await w1.save(SessionState("c1"))
    for _ in range(2):
        assert (await send_heartbeats(w2, "c1")).fenced == ["c1"]
    with pytest.raises(Exception, match="epoch is 0"):
        await interrupted(operator, "c1", epoch=5)
    await claim(w2, "c1", "w2", steal=True)
    await send_heartbeats(w1, "c1")
    told = [await anext(events), await anext(events)]
    assert [(each.epoch, each.owner, each.worker_id) for each in told] == [(0, "w1", "w2"), (1, "w2", "w1")]
