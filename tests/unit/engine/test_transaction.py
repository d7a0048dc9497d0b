"""The hot map: groups, their undoing, and the mark that the store lacks something, which is never lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import structs

from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import read_head
from callstate_client.engine.sessions.records import (
    HistoryMode,
    Record,
    RemovalRecord,
    StateRecord,
    TurnsRecord,
    decode_record,
    encode_record,
)
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.stored import StoredMeta, StoredSession, Write
from callstate_client.engine.table.tombstones import MAX_MISSES, MISS_TTL_S, NO_TOMBSTONE, Tombstone
from support.budget import examples
from support.clock import START_US
from support.core import HOST, TIME, kept
from support.table_harness import TableHarness

TURN = b'{"role":"user"}'


def make(session_id: str, status: str = "active") -> Session:
    head = read_head(b'{"id":"%b","status":"%b"}' % (session_id.encode(), status.encode()), "$", lambda _: TIME)
    return Session(session_id, Document(head, START_US))


def create(cache: TableHarness, session_id: str, now: float = 0.0, status: str = "active") -> Session:
    entry = make(session_id, status)
    tombstone = cache.table.tombstones.predecessor(session_id)
    entry.version = tombstone.version
    entry.change_facts(epoch=tombstone.epoch)
    cache.tx.create(entry)
    entry.next_version(START_US)
    cache.tx.log(entry, entry.record(HistoryMode.KEEP, b"", 0, []), now)
    return entry


def add_turn(cache: TableHarness, entry: Session, now: float = 0.0, op: str | None = None) -> None:
    cache.tx.change(entry)
    entry.doc.append(TURN, 1)
    version = entry.next_version(START_US)
    ops = entry.keep_op(op, b"%d" % version)
    record = TurnsRecord(entry.id, version, START_US, entry.doc.metrics, HistoryMode.APPEND, TURN, 1, ops)
    cache.tx.log(entry, record, now)


def remove(cache: TableHarness, entry: Session, now: float = 0.0) -> None:
    cache.tx.remove(entry, entry.version + 1, now)


def take(cache: TableHarness, sessions: int = 100, size: int = 1 << 20) -> list[tuple[Write, float]]:
    cache.tx.commit()
    return cache.queue.take(HOST, sessions, size)


def land(cache: TableHarness) -> list[Write]:
    """All that is dirty reaches the store."""
    writes = [write for write, _ in take(cache)]
    for write in writes:
        cache.queue.acked(write)
    return writes


def state(cache: TableHarness) -> dict[str, Any]:
    """All that an undo has to bring back."""
    return {
        "entries": {i: kept(entry) | {"host": entry.host} for i, entry in cache.table.sessions.items()},
        "tombstones": dict(cache.table.tombstones.pending),
        "dirty": dict(cache.table.dirty.marks),
        "dirty_bytes": cache.table.dirty.size_bytes,
        "by_status": dict(cache.table.index.by_status),
    }


# -- deletions: what the store may know is never forgotten -------------------------------------------------------


def test_born_and_deleted_within_the_interval_writes_nothing() -> None:
    cache = TableHarness()
    remove(cache, create(cache, "a"))
    assert not cache.table.dirty.marks
    assert not cache.table.tombstones.pending
    assert cache.table.tombstones.known_missing("a", 0.5)
    assert take(cache) == []


def test_what_the_store_has_is_deleted_there_too() -> None:
    cache = TableHarness()
    entry = create(cache, "a")
    land(cache)
    remove(cache, entry, 3.0)
    assert cache.table.tombstones.known_missing("a", 1e9), "however long the store is away"
    [(write, since)] = take(cache)
    assert (write.document, write.active, since) == (None, False, 3.0)
    assert write.meta == StoredMeta(host=HOST, epoch=0, version=entry.version + 1, deleted=True)
    cache.queue.acked(write)
    assert not cache.table.tombstones.pending


def test_a_deletion_right_after_a_replay_is_told() -> None:
    """The store may have had it before the restart."""
    before, after = TableHarness(), TableHarness()
    create(before, "a")
    for record in before.tx.records:
        after.replay(record)
    after.all_dirty(0.0)
    remove(after, after.table.sessions["a"])
    assert [write.meta.deleted for write, _ in take(after)] == [True]


def test_a_deletion_behind_a_write_whose_reply_was_lost_is_told() -> None:
    cache = TableHarness()
    entry = create(cache, "a")
    [(write, since)] = take(cache)
    cache.queue.retry(write, since)
    remove(cache, entry)
    assert [write.meta.deleted for write, _ in take(cache)] == [True]


def test_a_deletion_while_the_write_is_under_way_is_told() -> None:
    cache = TableHarness()
    entry = create(cache, "a")
    [(write, _)] = take(cache)
    remove(cache, entry)
    cache.queue.acked(write)
    assert "a" in cache.table.tombstones.pending
    assert [write.meta.deleted for write, _ in take(cache)] == [True]


def test_deleted_created_and_deleted_again_is_told() -> None:
    cache = TableHarness()
    entry = create(cache, "a")
    land(cache)
    remove(cache, entry)
    remove(cache, create(cache, "a"))
    assert [write.meta.deleted for write, _ in take(cache)] == [True]


def test_deleting_what_go_wrote_is_told_also_after_a_change() -> None:
    cache = TableHarness()
    entry = Session.of_stored("a", StoredSession(b'{"id":"a"}', None), HOST)
    assert entry is not None
    entry.host = None
    add_turn(cache, entry)
    remove(cache, entry)
    assert [write.meta.deleted for write, _ in take(cache)] == [True]


def test_a_new_session_begins_above_the_deleted_one() -> None:
    """The store would refuse it otherwise, when the clock was set back meanwhile."""
    cache = TableHarness()
    entry = create(cache, "a")
    entry.change_facts(epoch=7)
    entry.version += 3_600_000_000
    land(cache)
    remove(cache, entry)
    assert cache.table.tombstones.predecessor("a") == Tombstone(entry.version + 1, 7)
    again = create(cache, "a")
    assert again.version > entry.version + 1
    assert again.facts.epoch == 7
    assert not cache.table.tombstones.pending


def test_a_tombstone_that_was_read_is_a_floor_as_well() -> None:
    cache = TableHarness()
    assert cache.table.tombstones.predecessor("a") == NO_TOMBSTONE
    cache.table.tombstones.remember_miss("a", 0.0, Tombstone(9, 2))
    assert cache.table.tombstones.predecessor("a") == Tombstone(9, 2)


# -- misses ------------------------------------------------------------------------------------------------------


def test_a_miss_is_remembered_for_a_moment() -> None:
    cache = TableHarness()
    assert not cache.table.tombstones.known_missing("a", 0.0)
    cache.table.tombstones.remember_miss("a", 10.0)
    assert cache.table.tombstones.known_missing("a", 10.0 + MISS_TTL_S - 0.001)
    assert not cache.table.tombstones.known_missing("a", 10.0 + MISS_TTL_S)


def test_misses_do_not_pile_up() -> None:
    cache = TableHarness()
    for number in range(MAX_MISSES + 5):
        cache.table.tombstones.remember_miss(str(number), 0.0)
    assert (
        sum(cache.table.tombstones.known_missing(str(number), 0.5) for number in range(MAX_MISSES + 5))
        <= MAX_MISSES
    )
    assert cache.table.tombstones.known_missing(str(MAX_MISSES + 4), 0.5)


def test_what_became_hot_is_no_miss() -> None:
    cache = TableHarness()
    cache.table.tombstones.remember_miss("a", 0.0)
    entry = create(cache, "a")
    land(cache)
    cache.tx.evict(entry)
    assert not cache.table.tombstones.known_missing("a", 0.1)


# -- towards the store -------------------------------------------------------------------------------------------


def test_only_the_newest_state_is_written() -> None:
    cache = TableHarness()
    entry = create(cache, "a", 1.0)
    for _ in range(5):
        add_turn(cache, entry, 2.0)
    [(write, since)] = take(cache)
    assert since == 1.0, "dirty since the first change"
    assert write.document is not None
    assert write.document.count(TURN) == 5
    assert cache.table.dirty.size_bytes == 0


def test_a_batch_is_bounded_and_the_oldest_go_first() -> None:
    cache = TableHarness()
    for number in range(10):
        create(cache, f"s{number}", float(number))
    assert [write.session_id for write, _ in take(cache, sessions=3)] == ["s0", "s1", "s2"]
    assert [write.session_id for write, _ in take(cache, size=1)] == ["s3"], "one at least, however big"
    assert len(take(cache)) == 6


def test_a_change_during_the_flight_is_dirty_again() -> None:
    cache = TableHarness()
    entry = create(cache, "a", 1.0)
    [(write, since)] = take(cache)
    add_turn(cache, entry, 2.0)
    cache.queue.acked(write)
    assert entry.stored_version == write.meta.version < entry.version
    assert cache.table.dirty.marks["a"][0] == 2.0
    assert not cache.table.is_stored(entry)
    land(cache)
    assert cache.table.is_stored(entry)
    assert since == 1.0


def test_what_bounced_goes_first_again() -> None:
    cache = TableHarness()
    for name in "abc":
        create(cache, name, 1.0)
    batch = take(cache)
    create(cache, "d", 5.0)
    add_turn(cache, cache.table.sessions["b"], 6.0)
    for write, since in reversed(batch):
        cache.queue.retry(write, since)
    assert list(cache.table.dirty.marks) == ["a", "b", "c", "d"]
    assert [since for since, _, _ in cache.table.dirty.marks.values()] == [1.0, 1.0, 1.0, 5.0]
    assert cache.table.dirty.size_bytes == sum(size for _, size, _ in cache.table.dirty.marks.values())
    assert not cache.table.dirty.in_flight


def test_what_bounced_and_is_nowhere_any_more_is_let_be() -> None:
    cache = TableHarness()
    entry = create(cache, "a")
    land(cache)
    cache.queue.mark_stale("a", 1.0, 10)  # its time to live in the store is renewed
    [(write, since)] = take(cache)
    cache.tx.evict(entry)
    cache.queue.retry(write, since)
    assert not cache.table.dirty.marks


def test_what_the_store_refuses_stays_and_says_why() -> None:
    cache = TableHarness()
    entry = create(cache, "a")
    [(write, _)] = take(cache)
    cache.queue.quarantine(write, "rejected: too big")
    assert entry.quarantined == "rejected: too big"
    assert not cache.table.dirty.marks
    assert not cache.table.is_stored(entry)
    add_turn(cache, entry)
    land(cache)
    assert entry.quarantined == ""
    assert cache.table.is_stored(entry)


def test_a_deletion_the_store_refuses_is_given_up() -> None:
    cache = TableHarness()
    entry = create(cache, "a")
    land(cache)
    remove(cache, entry)
    [(write, _)] = take(cache)
    cache.queue.quarantine(write, "superseded")
    assert not cache.table.tombstones.pending


# -- undoing, with writes ending meanwhile -----------------------------------------------------------------------


def test_an_undone_change_leaves_what_bounced_meanwhile_dirty() -> None:
    cache = TableHarness()
    entry = create(cache, "a", 1.0)
    [(write, since)] = take(cache)
    add_turn(cache, entry, 2.0)
    cache.queue.retry(write, since)
    cache.rollback()
    assert cache.table.dirty.marks["a"][0] == 1.0
    assert entry.version == write.meta.version


def test_an_undone_deletion_leaves_what_landed_meanwhile_stored() -> None:
    cache = TableHarness()
    entry = create(cache, "a")
    [(write, _)] = take(cache)
    remove(cache, entry)
    cache.queue.acked(write)
    cache.rollback()
    assert cache.table.is_stored(entry)
    assert not cache.table.tombstones.pending


def test_an_undone_deletion_leaves_it_unknown_what_bounced_meanwhile() -> None:
    cache = TableHarness()
    entry = create(cache, "a")
    [(write, since)] = take(cache)
    remove(cache, entry)
    cache.queue.retry(write, since)
    cache.rollback()
    assert "a" in cache.table.dirty.marks
    remove(cache, entry)
    assert [write.meta.deleted for write, _ in take(cache)] == [True]


def test_an_undone_creation_leaves_a_tombstone_that_landed_meanwhile_behind() -> None:
    cache = TableHarness()
    entry = create(cache, "a")
    land(cache)
    remove(cache, entry)
    [(tombstone, _)] = take(cache)
    create(cache, "a")
    cache.queue.acked(tombstone)
    cache.rollback()
    assert not cache.table.tombstones.pending, "the store has it: nobody would ever take this one away"


def test_an_undone_creation_leaves_a_tombstone_that_bounced_meanwhile_dirty() -> None:
    cache = TableHarness()
    entry = create(cache, "a")
    land(cache)
    remove(cache, entry)
    [(tombstone, since)] = take(cache)
    create(cache, "a")
    cache.queue.retry(tombstone, since)
    cache.rollback()
    assert [write.meta.deleted for write, _ in take(cache)] == [True]


def test_a_renewal_outlives_the_undone_change() -> None:
    cache = TableHarness()
    entry = create(cache, "a")
    land(cache)
    add_turn(cache, entry, 2.0)
    cache.queue.mark_stale("a", 3.0, entry.doc.size)
    cache.rollback()
    assert "a" in cache.table.dirty.marks


def test_deleted_and_created_in_one_group_comes_back_as_the_first() -> None:
    cache = TableHarness()
    entry = create(cache, "a")
    add_turn(cache, entry)
    cache.tx.commit()
    remove(cache, entry)
    create(cache, "a", status="on_hold")
    cache.rollback()
    assert cache.table.sessions == {"a": entry}
    assert cache.table.index.by_status == {"active": 1}


def test_an_admission_that_the_journal_did_not_take_stays_and_is_told_later() -> None:
    """To undo it would make the next read admit it again, and fail again."""
    cache = TableHarness()
    entry = make("a")
    cache.tx.admit(entry)
    add_turn(cache, entry)
    assert [type(record) for record in cache.tx.records] == [StateRecord, TurnsRecord]
    cache.rollback()
    assert cache.table.sessions == {"a": entry}
    assert entry.doc.turn_count == 0
    add_turn(cache, entry)
    assert [type(record) for record in cache.tx.records] == [StateRecord], "whole: the journal does not know it"


def test_an_undone_eviction_leaves_it_hot() -> None:
    """The journal still has it, so a restart would bring it back; and so would nothing else."""
    cache = TableHarness()
    entry = create(cache, "a")
    land(cache)
    cache.tx.evict(entry)
    assert not cache.table.sessions
    cache.rollback()
    assert cache.table.sessions == {"a": entry}
    assert cache.table.index.by_status == {"active": 1}


def test_what_was_read_through_and_changed_is_cold_again() -> None:
    cache = TableHarness()
    entry = make("a", "ended")
    add_turn(cache, entry)
    cache.rollback()
    assert not cache.table.sessions
    assert cache.table.index.by_status == {}


# -- the log -----------------------------------------------------------------------------------------------------


def test_a_session_new_to_the_journal_is_told_whole_once() -> None:
    cache = TableHarness()
    entry = create(cache, "a")
    add_turn(cache, entry)
    assert [type(record) for record in cache.tx.records] == [StateRecord, TurnsRecord]
    cache.tx.commit()
    add_turn(cache, entry)
    assert [type(record) for record in cache.tx.records] == [TurnsRecord]


def test_records_a_session_already_has_are_skipped() -> None:
    cache, after = TableHarness(), TableHarness()
    entry = create(cache, "a")
    add_turn(cache, entry)
    for record in [*cache.snapshot(), *cache.tx.records]:
        after.replay(record)
    assert kept(after.table.sessions["a"]) == kept(entry)


def test_a_snapshot_is_the_state() -> None:
    cache = TableHarness()
    for name in "abc":
        create(cache, name)
    land(cache)
    add_turn(cache, cache.table.sessions["a"], op="x")
    remove(cache, cache.table.sessions["b"])
    after = TableHarness()
    for record in cache.snapshot():
        after.replay(record)
    assert {i: kept(entry) for i, entry in after.table.sessions.items()} == {
        i: kept(entry) for i, entry in cache.table.sessions.items()
    }
    assert after.table.tombstones.pending == cache.table.tombstones.pending
    assert after.table.index.by_status == cache.table.index.by_status
    after.all_dirty(1.0)
    assert after.table.dirty.marks.keys() == {"a", "b", "c"}


def test_what_left_is_kept_cold_by_a_replay() -> None:
    cache, after = TableHarness(), TableHarness()
    entry = create(cache, "a")
    land(cache)
    records = [*cache.snapshot()]
    cache.tx.evict(entry)
    for record in [*records, *cache.tx.records]:
        after.replay(record)
    assert not after.table.sessions
    assert not after.table.tombstones.pending
    assert isinstance(cache.tx.records[0], RemovalRecord)


# -- what comes back with a session ------------------------------------------------------------------------------


def test_an_undone_claim_leaves_orphans_in_the_order_of_losing_their_owner() -> None:
    cache = TableHarness()
    for name in "abc":
        entry = create(cache, name)
        entry.change_facts(orphan="released")
        cache.table.index.update(entry)
    cache.tx.commit()
    claimed = cache.table.sessions["a"]
    cache.tx.change(claimed)
    claimed.change_facts(owner="w1", orphan="")
    cache.table.index.update(claimed)
    assert [*cache.table.index.orphans] == ["b", "c"]
    cache.rollback()
    assert [*cache.table.index.orphans] == ["a", "b", "c"]


@pytest.mark.parametrize("how", ["lifted", "deleted"])
def test_an_undone_change_leaves_suspects_in_the_order_of_their_suspicion(how: str) -> None:
    cache = TableHarness()
    for name in "abc":
        entry = create(cache, name)
        entry.suspected = "heartbeat_timeout"
        cache.watch(entry)
    cache.tx.commit()
    suspect = cache.table.sessions["a"]
    if how == "lifted":
        cache.tx.change(suspect)
        cache.tx.lift_suspicion(suspect)
        cache.watch(suspect)
    else:
        remove(cache, suspect)
        cache.liveness.forget("a")
    assert [*cache.liveness.suspects] == ["b", "c"]
    cache.rollback()
    assert [*cache.liveness.suspects] == ["a", "b", "c"]
    assert suspect.suspected == "heartbeat_timeout"


def test_a_departure_that_was_decided_by_what_is_undone_is_pending_again() -> None:
    cache, pending = TableHarness(), {"a": "worker_exited"}
    cache.tx.decide_departure(pending, "a")
    cache.tx.decide_departure(pending, "b")
    assert not pending
    cache.rollback()
    assert pending == {"a": "worker_exited"}


def test_a_timeout_that_was_told_by_a_reply_that_is_undone_is_told_again() -> None:
    cache = TableHarness()
    entry = create(cache, "a")
    entry.known_timeout_s = 60.0
    cache.tx.commit()
    cache.tx.save("a")
    entry.known_timeout_s = None
    add_turn(cache, create(cache, "b"))
    cache.rollback()
    assert entry.known_timeout_s == 60.0


def test_replies_are_made_anew_in_order_once_all_is_as_it_was() -> None:
    cache = TableHarness()
    entry = create(cache, "a")
    version = entry.version
    cache.tx.commit()
    add_turn(cache, entry)
    seen: list[tuple[int, int]] = []
    for number in range(2):
        cache.tx.after_rollback.append(lambda _, number=number: seen.append((number, entry.version)))  # type: ignore[misc]
    cache.rollback()
    assert seen == [(0, version), (1, version)]
    assert cache.tx.is_empty


def as_whole(write: Write, stored: Write | None) -> Write:
    """The write with its patch applied."""
    if write.patch is None:
        return write
    assert stored is not None
    assert stored.document is not None
    document = write.patch.apply(stored.document)
    assert write.result is not None
    assert len(document) == write.result.length
    return structs.replace(write, document=document, patch=None)


class TransactionMachine(RuleBasedStateMachine):
    """Groups, their undoing, and writes in flight, in any order, over a store of versions."""

    ids = st.sampled_from("ab")

    @initialize()
    def begin(self) -> None:
        self.cache = TableHarness()
        self.now = 0.0
        self.log: list[Record] = []
        self.store: dict[str, Write] = {}
        self.truth: dict[str, int] = {}
        self.flight: list[tuple[Write, float]] = []
        self.open_group()

    def open_group(self) -> None:
        self.before = state(self.cache)
        self.truth_before = dict(self.truth)
        self.ended_meanwhile = False

    def told(self, entry: Session) -> None:
        self.truth[entry.id] = entry.version

    @rule(session_id=ids, status=st.sampled_from(["active", "ended"]))
    def create(self, session_id: str, status: str) -> None:
        self.now += 1
        if session_id not in self.cache.table.sessions:
            self.told(create(self.cache, session_id, self.now, status))

    @rule(session_id=ids, op=st.sampled_from([None, "x", "y"]))
    def change(self, session_id: str, op: str | None) -> None:
        self.now += 1
        entry = self.cache.table.sessions.get(session_id)
        if entry is not None:
            add_turn(self.cache, entry, self.now, op)
            self.told(entry)

    @rule(session_id=ids)
    def remove(self, session_id: str) -> None:
        self.now += 1
        entry = self.cache.table.sessions.get(session_id)
        if entry is not None:
            remove(self.cache, entry, self.now)
            self.truth.pop(session_id)

    @rule(session_id=ids)
    def leave_and_come_back(self, session_id: str) -> None:
        """Evicted, which only happens to what the store has; read again when somebody asks."""
        entry = self.cache.table.sessions.get(session_id)
        if entry is not None and self.cache.table.is_stored(entry) and not self.cache.tx.records:
            self.cache.tx.evict(entry)
            self.commit()
            self.read_again(session_id)

    def read_again(self, session_id: str) -> None:
        write = self.store[session_id]
        back = Session.of_stored(session_id, StoredSession(write.document, write.meta), HOST)
        assert back is not None
        assert back.version == self.truth[session_id]
        self.cache.tx.admit(back)

    @rule()
    def commit(self) -> None:
        self.log += self.cache.tx.records
        self.cache.tx.commit()
        self.open_group()

    @rule()
    def undo(self) -> None:
        admitted = bool(self.cache.tx._admitted)
        self.cache.rollback()
        self.truth = self.truth_before
        if not self.ended_meanwhile and not admitted:
            assert state(self.cache) == self.before
        self.open_group()

    @precondition(lambda self: not self.flight)
    @rule(sessions=st.integers(1, 3))
    def take(self, sessions: int) -> None:
        self.commit()
        self.flight = self.cache.queue.take(HOST, sessions, 1 << 20)
        self.open_group()

    @precondition(lambda self: self.flight)
    @rule(outcome=st.sampled_from(["landed", "bounced", "cut"]))
    def write_ends(self, outcome: str) -> None:
        """Whether or not a group is open."""
        self.ended_meanwhile = True
        for write, since in reversed(self.flight):
            stored = self.store.get(write.session_id)
            if write.patch is not None and (stored is None or stored.meta.version != write.patch.base.version):
                self.cache.queue.write_whole(write, since)
                continue
            if outcome != "bounced":
                self.store[write.session_id] = as_whole(write, stored)
            if outcome == "landed":
                self.cache.queue.acked(write)
            else:
                self.cache.queue.retry(write, since)
        self.flight = []

    @rule()
    def restart(self) -> None:
        """What was committed is all there is; what was under way may have arrived or not."""
        self.cache = TableHarness()
        for record in self.log:
            self.cache.replay(record)
        self.cache.all_dirty(self.now)
        self.flight, self.truth = [], self.truth_before
        for session_id in self.truth.keys() - self.cache.table.sessions.keys():
            self.read_again(session_id)  # only what the store has can have left
        self.open_group()

    @rule()
    def checkpoint(self) -> None:
        self.commit()
        self.log = [*self.cache.snapshot()]

    @rule()
    def settle(self) -> None:
        self.commit()
        if self.flight:
            self.write_ends("landed")
        while self.cache.table.dirty.marks:
            self.take(3)
            self.write_ends("landed")
        assert not self.cache.table.tombstones.pending
        found = {i: write.meta.version for i, write in self.store.items() if write.document is not None}
        assert found == self.truth
        assert all(self.cache.table.is_stored(entry) for entry in self.cache.table.sessions.values())
        self.open_group()

    @invariant()
    def hot_is_the_truth(self) -> None:
        assert {i: entry.version for i, entry in self.cache.table.sessions.items()} == self.truth

    @invariant()
    def nothing_is_forgotten(self) -> None:
        cache = self.cache
        for session_id, entry in cache.table.sessions.items():
            stored = self.store.get(session_id)
            reached = stored is not None and stored.meta.version == entry.version
            assert reached or session_id in cache.table.dirty.marks or session_id in cache.table.dirty.in_flight
        for session_id, write in self.store.items():
            gone = session_id not in cache.table.sessions and write.document is not None
            assert not gone or session_id in cache.table.tombstones.pending, "the store would give it back"
        for session_id in cache.table.tombstones.pending:
            assert session_id in cache.table.dirty.marks or session_id in cache.table.dirty.in_flight
        assert all(
            session_id in cache.table.sessions or session_id in cache.table.tombstones.pending
            for session_id in cache.table.dirty.marks
        )

    @invariant()
    def sums_are_right(self) -> None:
        cache = self.cache
        assert cache.table.dirty.size_bytes == sum(size for _, size, _ in cache.table.dirty.marks.values())
        eras = [era for _, _, era in cache.table.dirty.marks.values()] + [
            flight.era for flight in cache.table.dirty.in_flight.values()
        ]
        assert all(cache.table.dirty.unwritten(era) == sum(each <= era for each in eras) for era in eras)
        assert all(session_id in cache.table.sessions for session_id in cache.table.quarantined)
        statuses = [entry.doc.status for entry in cache.table.sessions.values()]
        assert cache.table.index.by_status == {status: statuses.count(status) for status in statuses}
        assert list(cache.table.sessions) == [
            e.id for e in sorted(cache.table.sessions.values(), key=lambda e: e.seq)
        ]


TestTransaction = TransactionMachine.TestCase
TestTransaction.settings = settings(max_examples=examples(100), stateful_step_count=40, deadline=None)


def test_a_deletion_that_is_undone_is_remembered_by_no_checkpoint() -> None:
    cache = TableHarness()
    entry = create(cache, "a")
    add_turn(cache, entry, op="op-1")
    cache.tx.commit()
    remove(cache, entry)
    cache.rollback()
    replayed = TableHarness()
    for record in cache.snapshot():
        replayed.replay(record)
    assert replayed.table.sessions.keys() == {"a"}


@pytest.mark.parametrize("known", [True, False])
def test_a_deletion_is_remembered_with_the_results_of_repeatable_mutations(known: bool) -> None:
    cache = TableHarness()
    entry = create(cache, "a")
    add_turn(cache, entry, op="op-1")
    if known:
        land(cache)
    cache.tx.remove(entry, entry.version + 1, 0.0, "op-2", b"{}")
    version = b"%d" % entry.version
    records = [*cache.tx.records]
    cache.tx.commit()
    replayed = TableHarness()
    for record in records:
        replayed.replay(decode_record(encode_record(record)))
    for each in (cache, replayed):
        assert each.table.tombstones.repeated(entry.id, "op-1") == version
        assert each.table.tombstones.repeated(entry.id, "op-2") == b"{}"
        assert each.table.tombstones.repeated(entry.id, "op-3") is None
        assert each.table.tombstones.repeated(entry.id, None) is None
    if known:
        (write,) = land(cache)
        assert write.meta.ops == {"op-1": version, "op-2": b"{}"}
    snapshot = TableHarness()
    for record in cache.snapshot():
        snapshot.replay(decode_record(encode_record(record)))
    assert snapshot.table.tombstones.repeated(entry.id, "op-2") == (None if known else b"{}"), (
        "the store has the other"
    )
