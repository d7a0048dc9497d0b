"""The flush queue: batches of dirty sessions, and what each outcome of a write leaves dirty."""

from __future__ import annotations

import pytest

from callstate_client.engine.flush_batch import FlushBatch
from callstate_client.engine.sessions.writes import Patch, Whole
from callstate_client.engine.table.quarantine import RETRY_FIRST_S, RETRY_MAX_S, SPARE_ENTRIES, Quarantine
from support.core import HOST
from support.hot_bytes import recounted
from support.table_harness import TURN, TableHarness


def test_only_the_newest_state_is_written() -> None:
    harness = TableHarness()
    session = harness.create("a", 1.0)
    for _ in range(5):
        harness.add_turn(session, 2.0)
    [(write, since)] = harness.take()
    assert since == 1.0, "dirty since the first change"
    assert isinstance(write, Whole)
    assert (write.document or b"").count(TURN) == 5
    assert not harness.table.dirty.marks
    assert harness.table.dirty.size_bytes == session.doc.size


def test_a_batch_is_bounded_and_the_oldest_go_first() -> None:
    harness = TableHarness()
    for number in range(10):
        harness.create(f"s{number}", float(number))
    assert [write.session_id for write, _ in harness.take(sessions=3)] == ["s0", "s1", "s2"]
    assert [write.session_id for write, _ in harness.take(size_bytes=1)] == ["s3"], "one at least, of any size"
    assert len(harness.take()) == 6


def test_a_batch_taken_in_many_steps_looks_at_each_write_once(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = TableHarness()
    for number in range(50):
        harness.create(f"s{number}", float(number))
    size, looked = Whole.size, list[str]()

    def count(write: Whole) -> int:
        looked.append(write.session_id)
        return size.__get__(write)  # type: ignore[attr-defined,no-any-return]  # a property

    monkeypatch.setattr(Whole, "size", property(count))
    batch = FlushBatch()
    steps = [harness.queue.take(HOST, 100, 1 << 20, 0.0, batch, lambda: True) for _ in range(51)]
    assert [len(step) for step in steps] == [1] * 50 + [0]
    assert batch.writes == [write for step in steps for write in step]
    assert looked == [f"s{number}" for number in range(50)]


def test_a_batch_taken_in_steps_has_its_bounds_as_a_whole() -> None:
    harness = TableHarness()
    for number in range(10):
        harness.create(f"s{number}", float(number))
    some, batch = FlushBatch(), FlushBatch()
    size = harness.take(sessions=1)[0][0].size
    assert [len(harness.queue.take(HOST, 3, 1 << 20, 0.0, some, lambda: True)) for _ in range(4)] == [1, 1, 1, 0]
    assert [len(harness.queue.take(HOST, 9, 2 * size, 0.0, batch, lambda: True)) for _ in range(3)] == [1, 1, 0]


def test_a_session_changed_during_its_write_is_dirty_again() -> None:
    harness = TableHarness()
    session = harness.create("a", 1.0)
    [(write, since)] = harness.take()
    harness.add_turn(session, 2.0)
    harness.queue.acked(write)
    assert session.stored_version == write.meta.version < session.version
    assert harness.table.dirty.marks["a"].since == 2.0
    assert not harness.table.is_stored(session)
    harness.flush()
    assert harness.table.is_stored(session)
    assert since == 1.0


def test_a_failed_write_is_retried_first() -> None:
    harness = TableHarness()
    for name in "abc":
        harness.create(name, 1.0)
    batch = harness.take()
    harness.create("d", 5.0)
    harness.add_turn(harness.table.sessions["b"], 6.0)
    for write, since in reversed(batch):
        harness.queue.retry(write, since)
    assert list(harness.table.dirty.marks) == ["a", "b", "c", "d"]
    assert [mark.since for mark in harness.table.dirty.marks.values()] == [1.0, 1.0, 1.0, 5.0]
    assert harness.table.dirty.size_bytes == sum(mark.size for mark in harness.table.dirty.marks.values())
    assert not harness.table.dirty.in_flight


@pytest.mark.parametrize("changes", [False, True])
def test_a_suspicion_whose_write_may_have_arrived_is_not_patched_away(changes: bool) -> None:
    """The version of what the store has is the same with it and without it."""
    harness = TableHarness()
    session = harness.create("a")
    harness.flush()
    session.suspected = "heartbeat_timeout"
    harness.queue.mark_stale("a", 1.0, session.doc.size)
    [(write, since)] = harness.take()
    assert isinstance(write, Patch)
    assert write.result.state == "suspect"
    harness.queue.retry(write, since)
    session.suspected = ""
    if changes:
        harness.add_turn(session)
    [(write, _)] = harness.take()
    assert isinstance(write, Whole)
    assert write.meta.state == "live"
    harness.queue.acked(write)
    harness.add_turn(session)
    assert isinstance(harness.take()[0][0], Patch)
    assert harness.table.hot.total == recounted(harness.table)


def test_a_failed_write_of_an_evicted_session_is_dropped() -> None:
    harness = TableHarness()
    session = harness.create("a")
    harness.flush()
    harness.queue.mark_stale("a", 1.0, 10)  # its time to live in the store is renewed
    [(write, since)] = harness.take()
    harness.tx.evict(session)
    harness.queue.retry(write, since)
    assert not harness.table.dirty.marks


def test_a_session_the_store_refuses_is_quarantined_until_it_changes() -> None:
    harness = TableHarness()
    session = harness.create("a")
    [(write, _)] = harness.take()
    harness.queue.quarantine(write.session_id, "rejected: too big")
    assert session.quarantined == "rejected: too big"
    assert not harness.table.dirty.marks
    assert not harness.table.is_stored(session)
    harness.add_turn(session)
    harness.flush()
    assert session.quarantined == ""
    assert harness.table.is_stored(session)


def test_a_deletion_the_store_refuses_keeps_its_tombstone_and_is_tried_again() -> None:
    harness = TableHarness()
    session = harness.create("a")
    harness.flush()
    harness.remove(session)
    [(write, _)] = harness.take()
    harness.queue.quarantine(write.session_id, "superseded", 10.0)
    assert harness.table.tombstones.known_missing("a", 10.0)
    assert harness.table.quarantined.keys() == {"a"}
    harness.queue.retry_refused(10.4, 10)
    assert not harness.table.dirty.marks
    harness.queue.retry_refused(11.0, 10)
    assert harness.take() == [(write, 11.0)]
    harness.queue.acked(write)
    assert not harness.table.quarantined
    assert not harness.table.tombstones.pending


def test_a_refused_session_is_in_quarantine_again_after_the_rollback_of_a_change() -> None:
    harness = TableHarness()
    session = harness.create("a")
    harness.tx.commit()
    [(write, _)] = harness.take()
    harness.queue.quarantine(write.session_id, "rejected: too big")
    harness.tx.commit()
    refusal = harness.table.quarantined.get("a")
    harness.remove(session)
    assert not harness.table.quarantined, "the deletion is tried at once"
    harness.rollback()
    assert harness.table.quarantined.get("a") is refusal
    assert session.quarantined == "rejected: too big"
    harness.add_turn(session)
    harness.rollback()
    assert harness.table.quarantined.get("a") is refusal


def test_a_refused_deletion_is_in_quarantine_after_the_rollback_of_a_creation() -> None:
    harness = TableHarness()
    session = harness.create("a")
    harness.flush()
    harness.remove(session)
    harness.tx.commit()
    [(write, _)] = harness.take()
    harness.create("a")
    harness.queue.quarantine(write.session_id, "rejected", 5.0)
    assert harness.table.quarantined.keys() == {"a"}
    harness.rollback()
    assert harness.table.quarantined.keys() == {"a"}
    assert harness.table.tombstones.pending.keys() == {"a"}


def test_an_unanswered_session_is_sent_alone_and_not_before_its_backoff() -> None:
    harness = TableHarness()
    for name in ("a", "b", "c"):
        harness.create(name)

    def take(now: float) -> list[str]:
        return [write.session_id for write, _ in harness.queue.take(HOST, 3, 1 << 20, now)]

    [(write, _), *others] = harness.take()
    harness.queue.quarantine(write.session_id, "unanswered", 100.0, alone=True)
    for other, since in reversed(others):
        harness.queue.retry(other, since)
    harness.add_turn(harness.table.sessions["a"], 100.2)
    assert take(100.2) == ["b", "c"]
    assert not harness.table.dirty.marks, "the change waits with the rest of the session"
    harness.create("d", 100.4)
    harness.queue.retry_refused(101.0, 10)
    harness.create("e", 101.0)
    assert [take(101.0) for _ in range(3)] == [["d"], ["a"], ["e"]]


def test_the_backoff_of_a_refusal_doubles_up_to_a_bound_and_restarts_after_success() -> None:
    quarantine = Quarantine()
    rests = [quarantine.refuse("a", "rejected", 0.0, alone=False).due for _ in range(20)]
    for number, rest in enumerate(rests):
        highest = min(RETRY_MAX_S, RETRY_FIRST_S * 2**number)
        assert highest / 2 <= rest <= highest
    assert quarantine.take_due(RETRY_MAX_S, 10) == ["a"]
    assert quarantine.take_due(RETRY_MAX_S, 10) == [], "each is handed out once"
    quarantine.discard("a")
    assert quarantine.refuse("a", "rejected", 0.0, alone=False).due <= RETRY_FIRST_S


def test_refusals_of_a_session_that_changes_all_the_time_take_no_memory() -> None:
    quarantine = Quarantine()
    for _ in range(10 * SPARE_ENTRIES):
        quarantine.refuse("a", "rejected", 0.0, alone=False)
    assert len(quarantine._by_due) <= SPARE_ENTRIES + 3
    assert quarantine.take_due(RETRY_MAX_S, 10) == ["a"]


def test_a_session_that_may_have_been_written_after_a_loss_is_deleted_in_the_store() -> None:
    """The loss is noticed only after that write."""
    harness = TableHarness()
    session = harness.create("a")
    harness.flush()
    harness.queue.not_stored("a", 1.0)
    harness.remove(session)
    assert [write.meta.deleted for write, _ in harness.take()] == [True]


# -- rollback of a group during whose time a write ended -----------------------------------------------------------


def test_a_failed_write_stays_dirty_after_the_rollback_of_a_change() -> None:
    harness = TableHarness()
    session = harness.create("a", 1.0)
    [(write, since)] = harness.take()
    harness.add_turn(session, 2.0)
    harness.queue.retry(write, since)
    harness.rollback()
    assert harness.table.dirty.marks["a"].since == 1.0
    assert session.version == write.meta.version


def test_a_successful_write_counts_after_the_rollback_of_a_deletion() -> None:
    harness = TableHarness()
    session = harness.create("a")
    [(write, _)] = harness.take()
    harness.remove(session)
    harness.queue.acked(write)
    harness.rollback()
    assert harness.table.is_stored(session)
    assert not harness.table.tombstones.pending


def test_a_failed_write_leaves_unknown_what_the_store_has_after_the_rollback_of_a_deletion() -> None:
    harness = TableHarness()
    session = harness.create("a")
    [(write, since)] = harness.take()
    harness.remove(session)
    harness.queue.retry(write, since)
    harness.rollback()
    assert "a" in harness.table.dirty.marks
    harness.remove(session)
    assert [write.meta.deleted for write, _ in harness.take()] == [True]


def test_a_written_tombstone_is_done_with_after_the_rollback_of_a_creation() -> None:
    harness = TableHarness()
    session = harness.create("a")
    harness.flush()
    harness.remove(session)
    [(tombstone, _)] = harness.take()
    harness.create("a")
    harness.queue.acked(tombstone)
    harness.rollback()
    assert not harness.table.tombstones.pending, "the store has it, and nothing would ever remove this one"


def test_a_failed_tombstone_stays_dirty_after_the_rollback_of_a_creation() -> None:
    harness = TableHarness()
    session = harness.create("a")
    harness.flush()
    harness.remove(session)
    [(tombstone, since)] = harness.take()
    harness.create("a")
    harness.queue.retry(tombstone, since)
    harness.rollback()
    assert [write.meta.deleted for write, _ in harness.take()] == [True]


def test_a_renewal_survives_the_rollback_of_a_change() -> None:
    harness = TableHarness()
    session = harness.create("a")
    harness.flush()
    harness.add_turn(session, 2.0)
    harness.queue.mark_stale("a", 3.0, session.doc.size)
    harness.rollback()
    assert "a" in harness.table.dirty.marks


def test_a_flush_waits_for_a_failed_write_after_the_rollback_of_a_change() -> None:
    harness = TableHarness()
    dirty = harness.table.dirty
    session = harness.create("a", 1.0)
    era = dirty.end_era()
    [(write, since)] = harness.take()
    harness.add_turn(session, 2.0)
    harness.queue.retry(write, since)
    harness.rollback()
    assert dirty.is_unwritten("a", era), "the store does not have what was dirty at the flush"
    assert dirty.size_bytes == session.doc.size


def test_a_failed_write_stays_dirty_after_the_rollback_of_what_dropped_the_session() -> None:
    harness = TableHarness()
    session = harness.create("a", 1.0)
    [(write, since)] = harness.take()
    harness.tx.set_aside(session, "host-2", 1)
    harness.queue.retry(write, since)
    harness.rollback()
    assert harness.table.dirty.marks["a"].since == 1.0


@pytest.mark.parametrize("how", ["changed", "deleted"])
def test_what_waits_longest_is_still_the_first_after_a_rollback(how: str) -> None:
    harness = TableHarness()
    for number, name in enumerate("abc"):
        harness.create(name, float(number))
    harness.tx.commit()
    session = harness.table.sessions["a"]
    if how == "changed":
        harness.add_turn(session, 5.0)
    else:
        harness.remove(session, 5.0)
    harness.rollback()
    assert [*harness.table.dirty.marks] == ["a", "b", "c"]
    assert harness.table.dirty.oldest == 0.0
    assert harness.table.dirty.size_bytes == sum(each.doc.size for each in harness.table.sessions.values())
