"""Tombstones: deletions that the store must learn of, and ids that it is known not to have."""

from __future__ import annotations

import pytest

from callstate_client.engine.sessions.records import decode_record, encode_record
from callstate_client.engine.sessions.store_form import session_of
from callstate_client.engine.sessions.stored import StoredMeta, StoredSession
from callstate_client.engine.table.replay import snapshot
from callstate_client.engine.table.session_table import IDS_AT_ONCE, SessionTable
from callstate_client.engine.table.tombstones import (
    EXPIRED_AT_ONCE,
    MAX_MISSES,
    MISS_TTL_S,
    NO_TOMBSTONE,
    Tombstone,
)
from support.core import HOST
from support.table_harness import TableHarness


def test_a_session_created_and_deleted_between_two_flushes_writes_nothing() -> None:
    harness = TableHarness()
    harness.remove(harness.create("a"))
    assert not harness.table.dirty.marks
    assert not harness.table.tombstones.pending
    assert harness.table.tombstones.known_missing("a", 0.5)
    assert harness.take() == []


def test_a_flushed_session_is_deleted_in_the_store_too() -> None:
    harness = TableHarness()
    session = harness.create("a")
    harness.flush()
    harness.remove(session, 3.0)
    assert harness.table.tombstones.known_missing("a", 1e9), "however long the store is down"
    [(write, since)] = harness.take()
    assert (write.document, write.active, since) == (None, False, 3.0)
    assert write.meta == StoredMeta(host=HOST, epoch=0, version=session.version + 1, deleted=True)
    harness.queue.acked(write)
    assert not harness.table.tombstones.pending


def test_a_deletion_right_after_a_replay_is_written() -> None:
    """The store may have had it before the restart."""
    before, after = TableHarness(), TableHarness()
    before.create("a")
    for record in before.tx.records:
        after.replay(record)
    after.all_dirty(0.0)
    after.remove(after.table.sessions["a"])
    assert [write.meta.deleted for write, _ in after.take()] == [True]


def test_a_deletion_after_a_write_whose_reply_was_lost_is_written() -> None:
    harness = TableHarness()
    session = harness.create("a")
    [(write, since)] = harness.take()
    harness.queue.retry(write, since)
    harness.remove(session)
    assert [write.meta.deleted for write, _ in harness.take()] == [True]


def test_a_deletion_during_a_write_is_written() -> None:
    harness = TableHarness()
    session = harness.create("a")
    [(write, _)] = harness.take()
    harness.remove(session)
    harness.queue.acked(write)
    assert "a" in harness.table.tombstones.pending
    assert [write.meta.deleted for write, _ in harness.take()] == [True]


def test_a_session_deleted_created_and_deleted_again_is_written_as_deleted() -> None:
    harness = TableHarness()
    session = harness.create("a")
    harness.flush()
    harness.remove(session)
    harness.remove(harness.create("a"))
    assert [write.meta.deleted for write, _ in harness.take()] == [True]


def test_the_deletion_of_a_changed_session_of_the_go_package_is_written() -> None:
    harness = TableHarness()
    session = session_of("a", StoredSession(b'{"id":"a"}', None), HOST)
    assert session is not None
    session.host = None
    harness.add_turn(session)
    harness.remove(session)
    assert [write.meta.deleted for write, _ in harness.take()] == [True]


def test_a_new_session_begins_above_the_deleted_one() -> None:
    """The store would refuse it otherwise, when the clock was set back meanwhile."""
    harness = TableHarness()
    session = harness.create("a")
    session.change_facts(epoch=7)
    session.version += 3_600_000_000
    harness.flush()
    harness.remove(session)
    assert harness.table.tombstones.predecessor("a") == Tombstone(session.version + 1, 7)
    again = harness.create("a")
    assert again.version > session.version + 1
    assert again.facts.epoch == 7
    assert not harness.table.tombstones.pending


def test_a_new_session_begins_above_a_tombstone_from_the_store() -> None:
    harness = TableHarness()
    assert harness.table.tombstones.predecessor("a") == NO_TOMBSTONE
    harness.table.tombstones.remember_miss("a", 0.0, Tombstone(9, 2))
    assert harness.table.tombstones.predecessor("a") == Tombstone(9, 2)


def test_a_deletion_that_is_rolled_back_is_in_no_checkpoint() -> None:
    harness = TableHarness()
    session = harness.create("a")
    harness.add_turn(session, op="op-1")
    harness.tx.commit()
    harness.remove(session)
    harness.rollback()
    replayed = TableHarness()
    for record in harness.snapshot():
        replayed.replay(record)
    assert replayed.table.sessions.keys() == {"a"}


def test_of_a_deletion_that_is_rolled_back_no_result_is_kept() -> None:
    harness = TableHarness()
    session = harness.create("a")
    harness.tx.remove(session, session.version + 1, 0.0, "gone")
    harness.rollback()
    assert harness.table.tombstones.repeated("a", "gone") is None
    assert not harness.table.tombstones.settled


def test_a_deletion_can_be_repeated_after_the_rollback_of_a_creation() -> None:
    harness = TableHarness()
    session = harness.create("a")
    harness.tx.remove(session, session.version + 1, 0.0, "gone")
    harness.tx.commit()
    settled = dict(harness.table.tombstones.settled)
    harness.create("a")
    harness.rollback()
    assert harness.table.tombstones.settled == settled
    assert harness.table.tombstones.repeated("a", "gone") == b"{}"


@pytest.mark.parametrize("known", [True, False])
def test_a_tombstone_keeps_the_results_of_repeatable_mutations(known: bool) -> None:
    harness = TableHarness()
    session = harness.create("a")
    harness.add_turn(session, op="op-1")
    if known:
        harness.flush()
    harness.tx.remove(session, session.version + 1, 0.0, "op-2")
    version = b"%d" % session.version
    records = [*harness.tx.records]
    harness.tx.commit()
    replayed = TableHarness()
    for record in records:
        replayed.replay(decode_record(encode_record(record)))
    for each in (harness, replayed):
        assert each.table.tombstones.repeated(session.id, "op-1") == version
        assert each.table.tombstones.repeated(session.id, "op-2") == b"{}"
        assert each.table.tombstones.repeated(session.id, "op-3") is None
        assert each.table.tombstones.repeated(session.id, None) is None
    if known:
        (write,) = harness.flush()
        assert write.meta.ops == {"op-1": version, "op-2": b"{}"}
    snapshot = TableHarness()
    for record in harness.snapshot():
        snapshot.replay(decode_record(encode_record(record)))
    assert snapshot.table.tombstones.repeated(session.id, "op-2") == (None if known else b"{}"), (
        "the store has the other"
    )


# -- misses ------------------------------------------------------------------------------------------------------


def test_a_miss_is_remembered_for_its_time_to_live() -> None:
    harness = TableHarness()
    assert not harness.table.tombstones.known_missing("a", 0.0)
    harness.table.tombstones.remember_miss("a", 10.0)
    assert harness.table.tombstones.known_missing("a", 10.0 + MISS_TTL_S - 0.001)
    assert not harness.table.tombstones.known_missing("a", 10.0 + MISS_TTL_S)


def test_the_number_of_misses_is_bounded() -> None:
    harness = TableHarness()
    for number in range(MAX_MISSES + 5):
        harness.table.tombstones.remember_miss(str(number), 0.0)
    assert (
        sum(harness.table.tombstones.known_missing(str(number), 0.5) for number in range(MAX_MISSES + 5))
        <= MAX_MISSES
    )
    assert harness.table.tombstones.known_missing(str(MAX_MISSES + 4), 0.5)


def test_a_hot_session_ends_a_cached_miss() -> None:
    harness = TableHarness()
    harness.table.tombstones.remember_miss("a", 0.0)
    session = harness.create("a")
    harness.flush()
    harness.tx.evict(session)
    assert not harness.table.tombstones.known_missing("a", 0.1)


# -- many of them --------------------------------------------------------------------------------------------------


def test_a_snapshot_goes_through_deletions_that_come_and_go() -> None:
    """Without a copy of all ids, which takes milliseconds if an outage has gathered hundreds of thousands."""
    table = SessionTable()
    for number in range(3 * IDS_AT_ONCE):
        table.tombstones.put(f"s{number}", Tombstone(1, 0))
    records = snapshot(table)
    seen = [next(records).session_id]
    table.tombstones.put("late", Tombstone(1, 0))
    table.tombstones.pop(f"s{2 * IDS_AT_ONCE}")
    table.tombstones.pop("s0")
    seen += [record.session_id for record in records]
    assert seen == [*(f"s{number}" for number in range(3 * IDS_AT_ONCE) if number != 2 * IDS_AT_ONCE), "late"]


def test_misses_that_expire_together_are_forgotten_a_few_at_a_time() -> None:
    tombstones = TableHarness().table.tombstones
    for number in range(MAX_MISSES):
        tombstones.remember_miss(f"s{number}", 0.0)
    for number in range(MAX_MISSES):
        before = len(tombstones._misses)
        tombstones.remember_miss(f"t{number}", 2 * MISS_TTL_S)
        assert before - len(tombstones._misses) <= EXPIRED_AT_ONCE
    assert not any(name.startswith("s") for name in tombstones._misses)
    assert len(tombstones._misses) == MAX_MISSES


def test_misses_that_are_all_forgotten_weigh_nothing() -> None:
    table = TableHarness().table
    for number in range(10):
        table.tombstones.remember_miss(f"s{number}", 0.0, Tombstone(1, 0, {"op": b"{}"}))
    table.tombstones.forget_miss("s3")
    assert table.hot.total
    table.tombstones.forget_misses()
    assert table.hot.total == 0
    assert not table.tombstones.known_missing("s1", 0.0)
