"""Changes to be written to the store, handed out in batches, and the outcome of each write.

The writer takes a batch, sends it, and reports the outcome of each write:

    acked        the store has this version
    retry        the outcome is unknown: the session is dirty again, with its original age
    write_whole  it was a patch of a document that the store does not have: the session is dirty again
    quarantine   the store refuses it, or it could not be made: the session stays hot and in the journal, a
                 deletion keeps its tombstone, and either is tried again later

An outcome is not a change of the open group, which may end after the write does. So it is applied to the current
session and, if the group has deleted or replaced that one, also to the one that a rollback would restore.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice

from msgspec import structs

from callstate_client.engine.flush_batch import FlushBatch
from callstate_client.engine.sessions.records import BeatsRecord, MergeBase, RemovalRecord, StoreRecord
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.store_form import write_of
from callstate_client.engine.sessions.stored import StoredMeta
from callstate_client.engine.sessions.writes import Whole, Write
from callstate_client.engine.table.dirty_set import Mark
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.engine.table.tombstones import Tombstone
from callstate_client.engine.transaction import Transaction


class FlushQueue:
    """The queue of writes from the table to the store.

    Args:
        table: the sessions.
        transaction: the open group.
    """

    def __init__(self, table: SessionTable, transaction: Transaction) -> None:
        self.table = table
        self._tx = transaction
        self._unannounced: set[str] = set()
        """Sessions taken for a batch whose group was rolled back, so that a replay would not know of the write."""

    # -- batches --------------------------------------------------------------------------------------------

    def take(
        self,
        host_id: str,
        max_sessions: int,
        max_bytes: int,
        now: float = math.inf,
        batch: FlushBatch | None = None,
        is_over: Callable[[], bool] = lambda: False,
    ) -> list[tuple[Write, float]]:
        """Put the oldest dirty sessions in flight.

        It may be called several times for one batch, with the loop doing other work in between.

        Args:
            host_id: this host.
            max_sessions: the most sessions in a batch.
            max_bytes: no session is added once the batch has reached this size.
            now: monotonic seconds; what is quarantined until later (`Quarantine.is_held`) is left out.
            batch: what earlier calls have put in flight for this batch; gets what this one does. None: a new one.
            is_over: asked after each session; whether it was the last of this call.

        Returns:
            the writes added to the batch, each with the time since which it has been dirty.
            Sessions that can't be written are in `batch.unwritable`, and in flight as well: the caller puts them
            into quarantine.
        """
        table, batch = self.table, FlushBatch() if batch is None else batch
        dirty, quarantined, before = table.dirty, table.quarantined, len(batch.session_ids)
        writes, unwritable = len(batch.writes), len(batch.unwritable)
        is_any_refused, taken = bool(quarantined), before
        sent: dict[str, int] = {}
        held: list[str] = []
        for session_id, mark in dirty.marks.in_order():
            if taken >= max_sessions or batch.size >= max_bytes or batch.alone or (taken > before and is_over()):
                break
            if session_id in batch.session_ids:  # it has changed since; all behind it have changed later still
                break
            if is_any_refused and quarantined.is_alone(session_id):
                if quarantined.is_held(session_id, now):
                    held.append(session_id)
                    continue
                if taken:
                    break
                batch.alone = True
            session = table.sessions.get(session_id)
            try:
                write = self._deletion(host_id, session_id) if session is None else write_of(session, host_id)
            except Exception as error:  # noqa: BLE001 - a bug: the caller logs it, and the others are written
                batch.leave_out(session_id, error)
                taken += 1
                continue
            known = None if session is None else session.in_store
            if session is not None and (session.base or (known and known.version == session.version)):
                self._note_unsure(session, sent)
            batch.add(write, mark.since)
            taken += 1
        for session_id in held:
            dirty.discard(session_id)
        if sent:
            self._announce(sent)
        added = batch.writes[writes:]
        for write, _ in added:
            dirty.depart(write.session_id)
        for session_id, _ in batch.unwritable[unwritable:]:
            dirty.depart(session_id)
        return added

    def _note_unsure(self, session: Session, sent: dict[str, int]) -> None:
        """Of a session that is about to be sent, the version does not tell whether the store has what is sent."""
        if session.base is not None:
            _note_sent(session, session.base, sent)
        else:  # only its state has changed, and may change back: without an answer it is written whole
            session.in_store = None
            self.table.weigh(session)

    def _announce(self, sent: dict[str, int]) -> None:
        """Journal that these versions are being sent."""
        self._tx.records.append(StoreRecord(sent, {}))
        self._tx.after_rollback.append(lambda _: self._not_announced(sent))

    def _not_announced(self, sent: dict[str, int]) -> None:
        """The journal has refused to note that these versions are being sent."""
        for session_id, version in sent.items():
            session = self.table.sessions.get(session_id)
            if session is not None and session.base is not None and session.base.sent == version:
                session.base = structs.replace(session.base, sent=0)
        self._unannounced.update(sent)

    def withhold(self, batch: list[tuple[Write, float]]) -> list[tuple[Write, float]]:
        """Make those dirty again that the journal does not know to be under way; returns the others.

        To be called once the group with them has been committed or rolled back, and before they are sent. If the
        daemon crashed after such a write, a replay would take what the store has for another host's, and merge it
        with what it was made from: each turn would be there twice.

        Args:
            batch: as returned by `take`.
        """
        if not self._unannounced:
            return batch
        able: list[tuple[Write, float]] = []
        for write, since in reversed(batch):
            if write.session_id in self._unannounced:
                self.retry(write, since)
            else:
                able.append((write, since))
        self._unannounced.clear()
        able.reverse()
        return able

    def _deletion(self, host_id: str, session_id: str) -> Write:
        tombstone = self.table.tombstones.pending[session_id]
        meta = StoredMeta(
            host=host_id, epoch=tombstone.epoch, version=tombstone.version, deleted=True, ops=tombstone.ops
        )
        return Whole(session_id, None, meta, active=False)

    def mark_stale(self, session_id: str, now: float, size: int) -> None:
        """Mark a session dirty for a reason other than a change: a rollback of the open group keeps the mark."""
        dirty = self.table.dirty
        if session_id not in dirty.marks:
            dirty.mark(session_id, now, size)
        saved = self._tx.saved(session_id)
        if saved is not None and saved.dirty is None:
            saved.dirty = dirty.new_mark(now, size)

    def not_stored(self, session_id: str, now: float) -> None:
        """The store has lost this session."""
        session = self.table.sessions.get(session_id)
        if session is not None:
            session.stored_version, session.in_store = 0, None
            self.table.weigh(session)
            session.maybe_stored = True  # written after the loss, and before that was noticed
            self.mark_stale(session_id, now, session.doc.size)

    def delete_again(self, session_id: str, tombstone: Tombstone, now: float) -> None:
        """The store has lost this deletion; a session created since stays."""
        if session_id not in self.table.sessions and session_id not in self.table.tombstones.pending:
            self._tx.raise_tombstone(session_id, tombstone)
            self.mark_stale(session_id, now, 0)

    # -- outcomes -------------------------------------------------------------------------------------------

    def acked(self, write: Write) -> None:
        """The store has acknowledged this write."""
        table, session_id, version = self.table, write.session_id, write.version
        table.dirty.arrive(session_id)
        if table.quarantined:
            table.quarantined.discard(session_id)
        session, saved = table.sessions.get(session_id), self._tx.saved(session_id)
        if saved is not None:
            saved.refusal = None
            if saved.tombstone is not None and saved.tombstone.version <= version:
                saved.tombstone = None  # an undo must not bring it back
            if saved.session is not None and saved.session is not session:
                self._stored(saved.session, write)
        if session is not None:
            if self._stored(session, write):
                table.weigh(session)
        elif session_id not in table.dirty.marks:
            tombstone = table.tombstones.pop(session_id)
            table.readings.outdate(session_id)  # what is read before, while nothing else tells of the deletion
            if tombstone is not None:  # journaled: written anew after a crash, it could hit a successor
                self._tx.observed.append(RemovalRecord(session_id, version, tombstone.epoch, False))

    def _stored(self, session: Session, write: Write) -> bool:
        """The store has this write of a session; returns whether that changes what the session weighs."""
        version, result, known = write.version, write.result, session.in_store
        if version >= session.stored_version:
            session.in_store, session.seen_stamp, session.stored_version = result, b"", version
        session.maybe_stored = False
        session.quarantined = ""
        if session.base is not None:
            self._drop_base(session, version)
            return True
        return known is None or result is None or known.fields is not result.fields

    def _drop_base(self, session: Session, version: int) -> None:
        """The store has taken this version, so it has nothing that would still have to be merged."""
        if session.journaled_base is not None:
            self._tx.observed.append(StoreRecord({}, {session.id: version}))
        session.base, session.base_derived = None, False

    def retry(self, write: Write, since: float) -> None:
        """The outcome of this write is unknown. `since`: as returned by `take`."""
        table, session_id = self.table, write.session_id
        era = table.dirty.arrive(session_id)
        for session in self._in_play(session_id):
            session.maybe_stored = True
        saved = self._tx.saved(session_id)
        if saved is not None:
            saved.dirty = Mark(since, 0, era)
        hot = table.sessions.get(session_id)
        if hot is None and session_id not in table.tombstones.pending:
            return
        self.mark_stale(session_id, since, 0 if hot is None else hot.doc.size)
        table.dirty.retry(session_id, since, table.dirty.marks[session_id].size, era)

    def postpone(self, session_id: str) -> None:
        """Write everything else that is dirty first."""
        marks = self.table.dirty.marks
        if session_id in marks:
            marks.move_to_end(session_id)

    def write_whole(self, write: Write, since: float) -> None:
        """The store does not have the version that this patch applies to: write the whole document next."""
        for session in self._in_play(write.session_id):
            session.in_store = None
        self._weigh(write.session_id)
        self.retry(write, since)

    def quarantine(self, session_id: str, why: str, now: float = 0.0, *, alone: bool = False) -> None:
        """A write is refused: keep its session or deletion, and try again after a backoff.

        Args:
            session_id: whose write.
            why: the reason, in words.
            now: monotonic seconds.
            alone: it was not answered in time, so it is tried again in a batch of its own.
        """
        table = self.table
        table.dirty.arrive(session_id)
        for session in self._in_play(session_id):
            session.quarantined = why
            session.maybe_stored = session.maybe_stored or alone
        saved = self._tx.saved(session_id)
        if session_id in table.sessions or session_id in table.tombstones.pending:
            refusal = table.quarantined.refuse(session_id, why, now, alone=alone)
            if saved is not None:
                saved.refusal = refusal
        elif saved is not None and (saved.session is not None or saved.tombstone is not None):
            saved.refusal = table.quarantined.refuse(session_id, why, now, alone=alone)
            table.quarantined.discard(session_id)

    def retry_refused(self, now: float, most: int) -> None:
        """Mark quarantined sessions and deletions whose next attempt is due as dirty, at most this many."""
        table = self.table
        for session_id in table.quarantined.take_due(now, most):
            session = table.sessions.get(session_id)
            self.mark_stale(session_id, now, 0 if session is None else session.doc.size)

    def _in_play(self, session_id: str) -> Iterator[Session]:
        """The current session, and the one that a rollback would restore if the open group has replaced it."""
        session, saved = self.table.sessions.get(session_id), self._tx.saved(session_id)
        if session is not None:
            yield session
        if saved is not None and saved.session is not None and saved.session is not session:
            yield saved.session

    def _weigh(self, session_id: str) -> None:
        """Count a session anew, if it is hot, after a change of what is known of the store."""
        session = self.table.sessions.get(session_id)
        if session is not None:
            self.table.weigh(session)

    def take_all_as_stored(self) -> list[str]:
        """Without store and journal, treat everything committed as stored. To be called between groups.

        Returns:
            the ids of deletions; their tombstones stay pending until the caller removes them.
        """
        table, deletions = self.table, list[str]()
        for session_id in [*table.dirty.marks]:
            session = table.sessions.get(session_id)
            if session is None:
                deletions.append(session_id)
            else:
                session.stored_version, session.maybe_stored = session.version, False
            table.dirty.discard(session_id)
        table.unflushed_beats.clear()
        self._tx.observed.clear()
        return deletions

    # -- heartbeats -----------------------------------------------------------------------------------------

    def take_beats(self, most: int) -> dict[str, int]:
        """Take some of the heartbeats that are in neither journal nor store, and journal them."""
        unflushed = self.table.unflushed_beats
        beats = dict(islice(unflushed.items(), most))
        for session_id in beats:
            del unflushed[session_id]
        if beats:
            self._tx.records.append(BeatsRecord(beats))
        return beats

    def retry_beats(self, beats: dict[str, int]) -> None:
        """The store did not accept these: send them with the next batch, unless a later heartbeat has arrived."""
        for session_id, at_us in beats.items():
            self.table.unflushed_beats.setdefault(session_id, at_us)


def _note_sent(session: Session, base: MergeBase, sent: dict[str, int]) -> None:
    """The first write of a session whose merge base is journaled: add its version to those to be journaled."""
    if not base.sent and session.journaled_base is not None:
        session.base = structs.replace(base, sent=session.version)
        sent[session.id] = session.version
