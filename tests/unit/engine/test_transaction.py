"""Groups of changes: what a rollback brings back, and which records the journal gets."""

from __future__ import annotations

import pytest

from callstate_client.engine.interfaces import INTERNAL
from callstate_client.engine.phases import Evidence, Phase
from callstate_client.engine.reasons import HOST_LOST
from callstate_client.engine.rules import handoff
from callstate_client.engine.sessions.records import RemovalRecord, StateRecord, TurnsRecord
from callstate_client.errors import NotDurableError
from support.core import Core, durable_state, kept
from support.table_harness import TableHarness, new_session


def test_a_session_deleted_and_created_in_one_group_is_restored() -> None:
    harness = TableHarness()
    session = harness.create("a")
    harness.add_turn(session)
    harness.tx.commit()
    harness.remove(session)
    harness.create("a", status="on_hold")
    harness.rollback()
    assert harness.table.sessions == {"a": session}
    assert harness.table.index.by_status == {"active": 1}


def test_a_session_read_from_the_store_stays_after_a_rollback_and_is_journaled_later() -> None:
    """If it were undone, the next read would admit it again, and fail again."""
    harness = TableHarness()
    session = new_session("a")
    harness.tx.admit(session)
    harness.add_turn(session)
    assert [type(record) for record in harness.tx.records] == [StateRecord, TurnsRecord]
    harness.rollback()
    assert harness.table.sessions == {"a": session}
    assert session.doc.turn_count == 0
    harness.add_turn(session)
    assert [type(record) for record in harness.tx.records] == [StateRecord], "whole: it is new to the journal"


def test_the_rollback_of_an_eviction_leaves_the_session_in_memory() -> None:
    """The journal still has it, so a restart would restore it."""
    harness = TableHarness()
    session = harness.create("a")
    harness.flush()
    harness.tx.evict(session)
    assert not harness.table.sessions
    harness.rollback()
    assert harness.table.sessions == {"a": session}
    assert harness.table.index.by_status == {"active": 1}


def test_a_session_that_was_never_admitted_is_in_no_index_after_a_rollback() -> None:
    harness = TableHarness()
    session = new_session("a", "ended")
    harness.add_turn(session)
    harness.rollback()
    assert not harness.table.sessions
    assert harness.table.index.by_status == {}


def test_the_rollback_of_a_claim_restores_the_order_of_orphans() -> None:
    harness = TableHarness()
    for name in "abc":
        session = harness.create(name)
        session.change_facts(orphan="released")
        harness.table.index.update(session)
    harness.tx.commit()
    claimed = harness.table.sessions["a"]
    harness.tx.change(claimed)
    claimed.change_facts(owner="w1", orphan="")
    harness.table.index.update(claimed)
    assert [*harness.table.index.orphans] == ["b", "c"]
    harness.rollback()
    assert [*harness.table.index.orphans] == ["a", "b", "c"]


def suspects() -> TableHarness:
    """Three of them, committed."""
    harness = TableHarness()
    for name in "abc":
        session = harness.create(name)
        session.suspected = "heartbeat_timeout"
        harness.watch(session)
    harness.tx.commit()
    return harness


@pytest.mark.parametrize("how", ["lifted", "deleted"])
def test_a_rollback_restores_the_order_of_suspects(how: str) -> None:
    harness = suspects()
    suspect = harness.table.sessions["a"]
    if how == "lifted":
        harness.tx.change(suspect)
        harness.tx.lift_suspicion(suspect)
        harness.watch(suspect)
    else:
        harness.remove(suspect)
        harness.liveness.forget(suspect)
    assert [*harness.liveness.suspects] == ["b", "c"]
    harness.rollback()
    assert [*harness.liveness.suspects] == ["a", "b", "c"]
    assert suspect.suspected == "heartbeat_timeout"


def test_a_rollback_restores_the_place_of_a_suspect_that_only_changed() -> None:
    harness = suspects()
    harness.add_turn(harness.table.sessions["b"])
    harness.rollback()
    assert [*harness.liveness.suspects] == ["a", "b", "c"]


def test_a_suspect_that_was_not_lost_after_all_is_still_suspected() -> None:
    harness = TableHarness()
    session = harness.create("a")
    session.suspected = "heartbeat_timeout"
    harness.watch(session)
    harness.tx.commit()
    harness.tx.lift_suspicion(session)
    harness.tx.set_aside(session, "host-2", 1)
    harness.liveness.forget(session)
    harness.rollback()
    assert session.suspected == "heartbeat_timeout"
    assert [*harness.liveness.suspects] == ["a"]


async def test_an_adopted_call_is_offered_whether_or_not_the_journal_takes_it() -> None:
    """It stays, and recoverers wait for its event."""
    core, session = Core(), new_session("a")
    session.change_facts(orphan=HOST_LOST)
    handoff.adopt(core.ctx, session, "w1")
    core.tx.rollback(NotDurableError("the disk is full"))
    core.commit()
    assert [*core.table.index.orphans] == ["a"]
    assert [kept.type for kept in core.events.ring] == ["orphaned"]


async def test_a_call_whose_revival_is_undone_is_ended_and_no_suspect() -> None:
    """Its new owner may have died in the same turn of the loop."""
    core = Core()
    await core.save("a", session={"status": "ended"})
    session = core.session("a")
    core.tx.change(session)
    session.doc.status = "active"
    core.ctx.watch(INTERNAL, session)
    session.suspected = "process_exited"
    core.liveness.learn(session, Evidence.EXIT, core.clock.live())
    core.tx.rollback(NotDurableError("the disk is full"))
    assert core.phase("a") is Phase.ENDED
    assert session.suspected == ""
    assert session.state == "ended"


@pytest.mark.parametrize("how", ["set aside", "dropped", "both"])
def test_a_rollback_restores_the_copies_set_aside(how: str) -> None:
    harness = TableHarness()
    session = harness.create("a")
    harness.tx.commit()
    if how != "both":
        harness.tx.set_aside(session, "host-2", 1)
    if how == "dropped":
        harness.tx.commit()
    before = harness.table.set_aside.of("a") if how == "dropped" else []
    if how == "both":
        harness.tx.set_aside(session, "host-2", 1)
    if how != "set aside":
        harness.tx.drop_copies("a")
    harness.rollback()
    assert harness.table.set_aside.of("a") == before
    assert [*harness.table.sessions] == ([] if how == "dropped" else ["a"])


def test_a_rollback_restores_the_time_as_the_store_has_it() -> None:
    """Finer than ours, and written by other software."""
    harness = TableHarness()
    session = harness.create("a")
    session.doc.updated_text = ("2026-01-01T00:00:00.123456789Z", session.doc.updated_us)
    harness.tx.commit()
    before = kept(session)
    harness.tx.change(session)
    session.doc.updated_text = ("2026-01-02T00:00:00Z", 1)
    harness.rollback()
    assert kept(session) == before


def test_a_departure_decided_in_the_group_is_pending_after_a_rollback() -> None:
    harness, pending = TableHarness(), {"a": "worker_exited"}
    harness.tx.decide_departure(pending, "a")
    harness.tx.decide_departure(pending, "b")
    assert not pending
    harness.rollback()
    assert pending == {"a": "worker_exited"}


def test_a_rollback_restores_the_timeout_that_the_owner_knows() -> None:
    harness = TableHarness()
    session = harness.create("a")
    session.known_timeout_s = 60.0
    harness.tx.commit()
    harness.tx.save("a")
    session.known_timeout_s = None
    harness.add_turn(harness.create("b"))
    harness.rollback()
    assert session.known_timeout_s == 60.0


def test_requests_run_again_in_order_after_the_rollback() -> None:
    harness = TableHarness()
    session = harness.create("a")
    version = session.version
    harness.tx.commit()
    harness.add_turn(session)
    seen: list[tuple[int, int]] = []
    for number in range(2):
        harness.tx.after_rollback.append(lambda _, number=number: seen.append((number, session.version)))  # type: ignore[misc]
    harness.rollback()
    assert seen == [(0, version), (1, version)]
    assert harness.tx.is_empty


# -- records -----------------------------------------------------------------------------------------------------


def test_a_session_new_to_the_journal_is_recorded_whole_once() -> None:
    harness = TableHarness()
    session = harness.create("a")
    harness.add_turn(session)
    assert [type(record) for record in harness.tx.records] == [StateRecord, TurnsRecord]
    harness.tx.commit()
    harness.add_turn(session)
    assert [type(record) for record in harness.tx.records] == [TurnsRecord]


def test_a_replay_skips_records_that_the_snapshot_contains() -> None:
    harness, after = TableHarness(), TableHarness()
    session = harness.create("a")
    harness.add_turn(session)
    for record in [*harness.snapshot(), *harness.tx.records]:
        after.replay(record)
    assert kept(after.table.sessions["a"]) == kept(session)


def test_a_snapshot_restores_the_state() -> None:
    harness = TableHarness()
    for name in "abc":
        harness.create(name)
    harness.flush()
    harness.add_turn(harness.table.sessions["a"], op="x")
    harness.remove(harness.table.sessions["b"])
    after = TableHarness()
    for record in harness.snapshot():
        after.replay(record)
    assert durable_state(after.table) == durable_state(harness.table)
    assert after.table.tombstones.pending == harness.table.tombstones.pending
    assert after.table.index.by_status == harness.table.index.by_status
    after.all_dirty(1.0)
    assert after.table.dirty.marks.keys() == {"a", "b", "c"}


def test_an_evicted_session_is_not_restored_by_a_replay() -> None:
    harness, after = TableHarness(), TableHarness()
    session = harness.create("a")
    harness.flush()
    records = [*harness.snapshot()]
    harness.tx.evict(session)
    for record in [*records, *harness.tx.records]:
        after.replay(record)
    assert not after.table.sessions
    assert not after.table.tombstones.pending
    assert isinstance(harness.tx.records[0], RemovalRecord)
