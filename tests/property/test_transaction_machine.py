"""Changes, rollbacks, writes to the store and restarts in any order: no session is lost or comes back."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from callstate_client.engine.sessions.records import Record
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.store_form import session_of
from callstate_client.engine.sessions.stored import StoredSession
from callstate_client.engine.sessions.writes import Patch, Whole, Write
from support.budget import examples
from support.core import HOST, kept
from support.hot_bytes import recounted, recounted_dirty
from support.patches import length_of
from support.table_harness import TableHarness


def state(harness: TableHarness) -> dict[str, Any]:
    """All that a rollback has to restore."""
    return {
        "sessions": {i: kept(session) | {"host": session.host} for i, session in harness.table.sessions.items()},
        "tombstones": dict(harness.table.tombstones.pending),
        "dirty": dict(harness.table.dirty.marks),
        "refused": {i: harness.table.quarantined.get(i) for i in harness.table.quarantined},
        "dirty_bytes": harness.table.dirty.size_bytes,
        "by_status": dict(harness.table.index.by_status),
    }


def as_whole(write: Write, stored: Whole | None) -> Whole:
    """The write with its patch applied."""
    if isinstance(write, Whole):
        return write
    assert stored is not None
    assert stored.document is not None
    document = write.apply(stored.document)
    assert len(document) == length_of(write.result)
    return Whole(write.session_id, document, write.meta, True, write.beat_ms, result=write.result)


def is_kept_for_the_store(harness: TableHarness, session_id: str) -> bool:
    """Whether a session or its deletion is going to be written, sooner or later."""
    table = harness.table
    return session_id in table.dirty.marks or session_id in table.dirty.in_flight or session_id in table.quarantined


class TransactionMachine(RuleBasedStateMachine):
    """A table, its journal and a store.

    `truth` is the version that each session must have, `flight` the batch that is being written.
    """

    ids = st.sampled_from("ab")

    @initialize()
    def begin(self) -> None:
        self.harness = TableHarness()
        self.now = 0.0
        self.log: list[Record] = []
        self.store: dict[str, Whole] = {}
        self.truth: dict[str, int] = {}
        self.flight: list[tuple[Write, float]] = []
        self.open_group()

    def open_group(self) -> None:
        self.before = state(self.harness)
        self.truth_before = dict(self.truth)
        self.ended_meanwhile = False

    def note(self, session: Session) -> None:
        self.truth[session.id] = session.version

    @rule(session_id=ids, status=st.sampled_from(["active", "ended"]))
    def create(self, session_id: str, status: str) -> None:
        self.now += 1
        if session_id not in self.harness.table.sessions:
            self.note(self.harness.create(session_id, self.now, status))

    @rule(session_id=ids, op=st.sampled_from([None, "x", "y"]))
    def change(self, session_id: str, op: str | None) -> None:
        self.now += 1
        session = self.harness.table.sessions.get(session_id)
        if session is not None:
            self.harness.add_turn(session, self.now, op)
            self.note(session)

    @rule(session_id=ids)
    def remove(self, session_id: str) -> None:
        self.now += 1
        session = self.harness.table.sessions.get(session_id)
        if session is not None:
            self.harness.remove(session, self.now)
            self.truth.pop(session_id)

    @rule(session_id=ids)
    def evict_and_read(self, session_id: str) -> None:
        """Evict a session that the store has, and read it again."""
        session = self.harness.table.sessions.get(session_id)
        if session is not None and self.harness.table.is_stored(session) and not self.harness.tx.records:
            self.harness.tx.evict(session)
            self.commit()
            self.read_again(session_id)

    def read_again(self, session_id: str) -> None:
        write = self.store[session_id]
        back = session_of(session_id, StoredSession(write.document, write.meta), HOST)
        assert back is not None
        assert back.version == self.truth[session_id]
        self.harness.tx.admit(back)

    @rule()
    def commit(self) -> None:
        self.note_facts()
        self.log += self.harness.tx.records
        self.harness.tx.commit()
        self.open_group()

    def note_facts(self) -> None:
        """Journal what holds however the group ends."""
        self.log += self.harness.tx.observed
        self.harness.tx.observed = []

    @rule()
    def roll_back(self) -> None:
        admitted = bool(self.harness.tx._rare_undo.admitted)
        self.harness.rollback()
        self.truth = self.truth_before
        if not self.ended_meanwhile and not admitted:
            assert state(self.harness) == self.before
        self.open_group()

    @precondition(lambda self: not self.flight)
    @rule(sessions=st.integers(1, 3))
    def take(self, sessions: int) -> None:
        self.commit()
        self.flight = self.harness.queue.take(HOST, sessions, 1 << 20)
        self.open_group()

    @precondition(lambda self: self.flight)
    @rule(outcome=st.sampled_from(["acknowledged", "failed", "reply lost", "refused"]))
    def write_ends(self, outcome: str) -> None:
        """Whether or not a group is open."""
        self.ended_meanwhile = True
        for write, since in reversed(self.flight):
            stored = self.store.get(write.session_id)
            if isinstance(write, Patch) and (stored is None or stored.version != write.base.version):
                self.harness.queue.write_whole(write, since)
                continue
            if outcome in ("acknowledged", "reply lost"):
                self.store[write.session_id] = as_whole(write, stored)
            if outcome == "acknowledged":
                self.harness.queue.acked(write)
            elif outcome == "refused":
                self.harness.queue.quarantine(write.session_id, "rejected", self.now)
            else:
                self.harness.queue.retry(write, since)
        self.flight = []

    @rule()
    def retry_refused(self) -> None:
        self.ended_meanwhile = True
        self.harness.queue.retry_refused(math.inf, 10)

    @rule()
    def restart(self) -> None:
        """Only what was committed is left; a pending write may have reached the store or not."""
        self.harness = TableHarness()
        for record in self.log:
            self.harness.replay(record)
        self.harness.all_dirty(self.now)
        self.flight, self.truth = [], self.truth_before
        for session_id in self.truth.keys() - self.harness.table.sessions.keys():
            self.read_again(session_id)  # only what the store has can have been evicted
        self.open_group()

    @rule()
    def checkpoint(self) -> None:
        self.commit()
        self.log = [*self.harness.snapshot()]

    @rule()
    def settle(self) -> None:
        self.commit()
        if self.flight:
            self.write_ends("acknowledged")
        self.harness.queue.retry_refused(math.inf, 10)
        while self.harness.table.dirty.marks:
            self.take(3)
            self.write_ends("acknowledged")
        assert not self.harness.table.tombstones.pending
        assert not self.harness.table.quarantined
        found = {i: write.meta.version for i, write in self.store.items() if write.document is not None}
        assert found == self.truth
        assert all(self.harness.table.is_stored(session) for session in self.harness.table.sessions.values())
        self.open_group()

    @invariant()
    def sessions_are_as_expected(self) -> None:
        assert {i: session.version for i, session in self.harness.table.sessions.items()} == self.truth

    @invariant()
    def nothing_is_lost(self) -> None:
        harness = self.harness
        for session_id, session in harness.table.sessions.items():
            stored = self.store.get(session_id)
            reached = stored is not None and stored.meta.version == session.version
            assert reached or is_kept_for_the_store(harness, session_id)
        for session_id, write in self.store.items():
            deleted = session_id not in harness.table.sessions and write.document is not None
            assert not deleted or session_id in harness.table.tombstones.pending, "the store would bring it back"
        for session_id in harness.table.tombstones.pending:
            assert is_kept_for_the_store(harness, session_id)
        assert all(
            session_id in harness.table.sessions or session_id in harness.table.tombstones.pending
            for session_id in harness.table.dirty.marks
        )

    @invariant()
    def sums_are_correct(self) -> None:
        harness = self.harness
        assert harness.table.hot.total == recounted(harness.table, harness.events)
        assert harness.table.dirty.size_bytes == recounted_dirty(harness.table.dirty)
        dirty = harness.table.dirty
        eras = [mark.era for mark in (*dirty.marks.values(), *dirty.in_flight.values())]
        assert all(dirty.unwritten(era) == sum(each <= era for each in eras) for era in eras)
        assert all(
            session_id in harness.table.sessions or session_id in harness.table.tombstones.pending
            for session_id in harness.table.quarantined
        )
        statuses = [session.doc.status for session in harness.table.sessions.values()]
        assert harness.table.index.by_status == {status: statuses.count(status) for status in statuses}
        assert list(harness.table.sessions) == [
            e.id for e in sorted(harness.table.sessions.values(), key=lambda e: e.seq)
        ]


TestTransaction = TransactionMachine.TestCase
TestTransaction.settings = settings(max_examples=examples(100), stateful_step_count=40)
