"""The open group: all changes since the last commit, journaled together or undone together.

Sessions are changed in memory at once, and other requests may see the changes before they are in the journal; so
replies that could depend on them are held back with the group, and if the journal refuses it, everything is as if
the group had never been requested. Everything that takes part registers here:

    records                 what is to be journaled, in order
    saved sessions          each session, tombstone, dirty mark and refusal by the store as it was before the first
                            change under its id
    events                  those that report a change; Events keeps them until the group is committed
    lifted suspicions       a claim, release or end lifts a suspicion; a rollback restores it
    restored sessions       those without a sign of life since the restart until they were claimed or released
    decided departures      what an owner's leaving means for a session, decided by a change
    replies                 run after a rollback: changes are refused, requests that only saw them are rerun

`commit` discards all of it. `rollback` undoes it: sessions, the last changed first, then their deadlines,
suspicions and departures, then events; finally it sends the replies, in the order of the requests.

Observations are not changes, and stay: heartbeats and the recoveries they bring, new suspicions, holds that ended
with the claimer's death, replies to refused callers, the processes of workers, and what the store has. Cached
misses of the store are dropped. An undone change has still shown that its session is live, so the session has its
full timeout again.

Between groups nothing is saved. A change is registered before it is made (`change`, `create`, `remove`, `evict`,
`forget`), and journaled after it (`log`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from msgspec import structs

from callstate_client.engine.events import Events
from callstate_client.engine.liveness import Liveness
from callstate_client.engine.sessions.ops import DELETED
from callstate_client.engine.sessions.parts import LONG_BYTES, NotJournaled, with_parts
from callstate_client.engine.sessions.records import (
    BaseRecord,
    HistoryMode,
    Record,
    RemovalRecord,
    SetAsideRecord,
    StateRecord,
    TurnsRecord,
    WorkerRecord,
)
from callstate_client.engine.sessions.session import NEVER_FENCED, Session
from callstate_client.engine.table.replay import removal
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.engine.table.tombstones import Tombstone
from callstate_client.engine.undo import RareUndo, Saved, Suspicion
from callstate_client.errors import NotDurableError


class Transaction:
    """The open group.

    Args:
        table: the sessions.
        liveness: their deadlines.
        events: those recorded while the group is open.
        watch_again: gives a restored session its full timeout, as a suspect if it is one.
    """

    def __init__(
        self, table: SessionTable, liveness: Liveness, events: Events, watch_again: Callable[[Session], None]
    ) -> None:
        self._table = table
        self._liveness = liveness
        self._events = events
        self._watch_again = watch_again
        self.check_room: Callable[[], None] = lambda: None
        """Raises OverloadedError if no session may become hot."""
        self.in_parts = False
        """Long histories are written to the journal ahead of the changes that make their sessions hot."""
        self.records: list[Record] = []
        self.size_bytes = 0
        """Of the documents and turns in the records: what makes them long."""
        self.observed: list[Record] = []
        """Observations to be journaled in front of the group, and which hold whether or not they are."""
        self.after_rollback: list[Callable[[NotDurableError], None]] = []
        """The replies of the group, in order: called with the reason for a rollback once everything is undone. They
        may open another group."""
        self._saved: dict[str, Saved] = {}
        self._rare: RareUndo | None = None
        """Made when there is something of it."""

    @property
    def _rare_undo(self) -> RareUndo:
        if self._rare is None:
            self._rare = RareUndo()
        return self._rare

    # -- before a change ------------------------------------------------------------------------------------

    def save(self, session_id: str) -> None:
        """Save a session's state, so that later changes are undone with the group."""
        if session_id in self._saved:
            return
        table = self._table
        session = table.sessions.get(session_id)
        mark = tombstone = None
        if session is None:
            tombstone = table.tombstones.pending.get(session_id)
            settled = table.tombstones.settled.get(session_id)
            if settled is not None:
                self._rare_undo.settled[session_id] = settled
        else:
            mark = session.mark()
            if session.facts.orphan or session.suspected:
                self._save_place(session)
        table.readings.outdate(session_id)
        dirty, refusal = table.dirty.marks.get(session_id), table.quarantined.get(session_id)
        self._saved[session_id] = Saved(session, mark, tombstone, dirty, refusal)

    def _save_place(self, session: Session) -> None:
        """Save the place of an orphan or suspect in the order of claiming."""
        orphan = self._table.index.orphans.place(session.id)
        if orphan is not None:
            self._rare_undo.orphans[session.id] = orphan
        suspect = self._liveness.suspect_place(session.id)
        if suspect is not None:
            self._rare_undo.suspects[session.id] = suspect

    def saved(self, session_id: str) -> Saved | None:
        """The state before the group, if the group has changed it."""
        return self._saved.get(session_id)

    def change(self, session: Session) -> None:
        """Prepare to change this session. If it was only read from the store, it becomes hot.

        Raises:
            OverloadedError: it was, and there is no room for it.
            NotJournaled: it was, and its history has to be written first (`Host.when_written`).
        """
        is_hot = session.id in self._table.sessions
        if not is_hot:
            self.check_room()
            if self.in_parts and session.doc.history_bytes > LONG_BYTES and not _is_written(session):
                raise NotJournaled(session)
        self.save(session.id)
        if not is_hot:
            self._table.insert(session)

    def create(self, session: Session) -> None:
        """Add a new session."""
        self.save(session.id)
        if self._table.tombstones.pop(session.id) is not None:
            session.maybe_stored = True  # the store still has its predecessor
        self._table.insert(session)

    def admit(self, session: Session) -> None:
        """Make a session of this host, read from the store, hot; it is journaled so that a replay has it, too.

        This is not a change, so there is nothing to undo: if the journal refuses it, it is journaled whole with its
        first change.
        """
        self._table.insert(session)
        self._log_whole(session)
        self._rare_undo.admitted.append(session)

    def remove(self, session: Session, version: int, now: float, op: str | None = None) -> None:
        """Delete a session. The deletion is written to the store only if that may have the session, or if its owner
        has changed.

        Args:
            session: the session.
            version: of the deletion.
            now: monotonic time.
            op: under which the deletion may be repeated.
        """
        session_id, table = session.id, self._table
        self.save(session_id)
        session.keep_op(op, DELETED)
        epoch = session.facts.epoch
        # the epoch fences a former owner from a new session of the same id, however late its requests arrive
        maybe_known = session.maybe_stored or session.host is not None or epoch > 0
        known = maybe_known or session.stored_version > 0 or session_id in table.dirty.in_flight
        tombstone = Tombstone(version, epoch, session.ops)
        self._drop(session_id)
        if known:
            table.tombstones.put(session_id, tombstone)
            table.dirty.mark(session_id, now, 0)
        else:
            table.tombstones.remember_miss(session_id, now, tombstone)
            table.tombstones.settle(session_id, tombstone)
        self.records.append(removal(session_id, tombstone, pending=known))

    def forget(self, session: Session, version: int) -> None:
        """Drop a session that the store knows to be deleted, as of this version."""
        self.save(session.id)
        self._drop(session.id)
        version = max(version, session.version + 1)
        self.records.append(RemovalRecord(session.id, version, session.facts.epoch, False))

    def _drop(self, session_id: str) -> None:
        self._table.drop(session_id)
        self._table.unflushed_beats.pop(session_id, None)
        self._table.dirty.discard(session_id)

    def evict(self, session: Session) -> None:
        """Drop a session from memory; the store has it. Journaled, so that a replay leaves it out, too."""
        self.save(session.id)
        self._table.drop(session.id)
        self.records.append(RemovalRecord(session.id, session.version + 1, session.facts.epoch, False))

    def set_aside(self, session: Session, host: str, now_us: int) -> None:
        """Keep a copy of a session that another host has taken over, and drop it from memory.

        Args:
            session: the session.
            host: the host that has it now.
            now_us: when this was learned, microseconds since 1970.
        """
        self.save(session.id)
        copy = SetAsideRecord(session.snapshot(), host, now_us)
        self._drop(session.id)
        if self._table.set_aside.add(copy):
            self._rare_undo.set_aside.append(copy)
        self.records.append(copy)

    def drop_copies(self, session_id: str) -> None:
        """Drop the copies of this session that were set aside."""
        for copy in self._table.set_aside.of(session_id):
            self._table.set_aside.drop(copy)
            self._rare_undo.dropped_copies.append(copy)
            emptied = structs.replace(copy.state, fields=b"", turns=b"", count=0, ops=[])
            self.records.append(structs.replace(copy, state=emptied, dropped=True))

    def give_up_deletion(self, session_id: str) -> None:
        """Drop a pending deletion: the session lives on in the store, perhaps on another host."""
        self.save(session_id)
        tombstone = self._table.tombstones.pop(session_id)
        self._table.dirty.discard(session_id)
        self._table.quarantined.discard(session_id)
        if tombstone is not None:
            self.records.append(RemovalRecord(session_id, tombstone.version, tombstone.epoch, False))

    def raise_tombstone(self, session_id: str, tombstone: Tombstone) -> None:
        """Raise the version of a deletion above that which the store turned out to have."""
        self._table.readings.outdate(session_id)
        self._table.tombstones.put(session_id, tombstone)
        self.records.append(removal(session_id, tombstone, pending=True))

    # -- after a change -------------------------------------------------------------------------------------

    def log(self, session: Session, record: StateRecord | TurnsRecord | None, now: float) -> None:
        """Journal this change, and mark the session dirty. None: all of it may have changed.

        A session that the journal does not have yet, because it is new or was just taken over, is journaled whole.
        With the first change after a restart, while the store has not confirmed the session, its merge base is.
        """
        base = session.base
        if base is not None and (base.version or session.journaled):  # creating it changes nothing
            if record is None:
                session.base = base.after(HistoryMode.REPLACE, -1, session.doc.turn_count)
            else:
                session.base = base.after(record.mode, getattr(record, "index", -1), record.count)
        if isinstance(record, StateRecord):
            record.base = session.journaled_base
            self.size_bytes += len(record.fields)
        if session.journaled and record is not None:
            if session.base_derived:
                session.base_derived = False
                if base is not None and isinstance(record, TurnsRecord):
                    self.records.append(BaseRecord(session.id, base))
            self.size_bytes += len(record.turns)
            self.records.append(record)
        else:
            self._log_whole(session)
        doc, facts = session.doc, session.facts
        if session.counted != doc.status or session.owner_counted != facts.owner or facts.orphan:
            self._table.index.update(session)
        self._table.weigh(session)
        self._table.dirty.mark(session.id, now, doc.size)

    def _log_whole(self, session: Session) -> None:
        """Journal all of a session: what is not in parts that have been written."""
        self.size_bytes += session.doc.size
        written, session.written = session.written, None
        if written is not None and written.chunks and written.still_count():
            self.records += with_parts(session, written)
            self._rare_undo.written.append((session, written))
        else:
            self.records.append(session.snapshot())
        session.journaled, session.base_derived = True, False

    # -- restored with the sessions -------------------------------------------------------------------------

    def lift_suspicion(self, session: Session) -> None:
        """Lift the suspicion of a session that is being changed."""
        if session.suspected:
            self.save(session.id)
            self._rare_undo.suspicions.append(Suspicion(session, session.suspected))
            session.suspected = ""

    def clear_restored(self, session: Session) -> None:
        """Clear `restored`, because the session is being claimed or released."""
        if session.restored:
            self._rare_undo.restored.append((session, session.beat_us))
            session.restored = False

    def observe_hold(self, session: Session, counted: dict[str, Any]) -> None:
        """A claimer has died: count its hold. A rollback leaves it counted, unless it undoes the claim as well.

        The counts are journaled with the next change. If the daemon crashes before that, it finds the claimer dead
        again after its restart.
        """
        if counted:
            if session.id in self._saved:
                self._rare_undo.holds.append((session, session.facts.claimed_us, counted))
            session.change_facts(**counted)

    def decide_departure(self, pending: MutableMapping[str, str], session_id: str) -> None:
        """Settle a session's pending departure, if its owner has left, by the change that is being made."""
        why = pending.get(session_id)
        if why is not None:
            del pending[session_id]
            self._rare_undo.departures.append((pending, session_id, why))

    def owner_left(self, pending: MutableMapping[str, str], worker_id: str, why: str) -> None:
        """A worker has left, and sessions that it owned before the group are ended or others' by now: if that is
        undone, their departures are pending."""
        for session_id, saved in self._saved.items():
            if (
                saved.mark is not None
                and Session.facts_in(saved.mark).owner == worker_id
                and session_id not in pending
            ):
                self._rare_undo.departures.append((pending, session_id, why))

    # -- workers: observed, not changed ---------------------------------------------------------------------

    def remember_process(self, record: WorkerRecord) -> None:
        """Journal the process of a worker that may own sessions."""
        self._table.processes[record.worker_id] = record
        self.observed.append(record)

    def forget_process(self, worker_id: str) -> None:
        """A worker has left and owns nothing: a later one of its id may be another process."""
        if self._table.processes.pop(worker_id, None) is not None:
            self.observed.append(WorkerRecord(worker_id, 0, 0, "", 0))

    # -- the end --------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """The group is journaled: discard the undo state."""
        self.records = []
        self.size_bytes = 0
        self.after_rollback = []
        self._saved.clear()
        self._rare = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit and nothing to undo."""
        return not (self.records or self._saved)

    def rollback(self, why: NotDurableError) -> None:
        """Undo the group, which the journal refused for this reason."""
        table, replies = self._table, self.after_rollback
        created = [*self._created()]
        for session_id, saved in reversed(self._saved.items()):
            self._restore(session_id, saved)
        rare = self._rare_undo
        for session_id, settled in rare.settled.items():
            table.tombstones.settle(session_id, settled)
        for copy in rare.dropped_copies:
            table.set_aside.add(copy)
        for copy in rare.set_aside:  # last, as it may have been dropped, too
            table.set_aside.drop(copy)
        for session in rare.admitted:
            session.journaled = False
        for session, written in rare.written:
            session.written = written
        for session, beat_us in reversed(rare.restored):
            session.restored, session.beat_us = True, beat_us
        for session, claimed_us, counted in rare.holds:
            if session.facts.claimed_us == claimed_us:
                session.change_facts(**counted)
        table.tombstones.forget_misses()
        self._restore_liveness()
        for pending, session_id, reason in reversed(rare.departures):
            pending[session_id] = reason
        fenced = {session.id: session.fenced_epoch for session in self._sessions_before()}
        self._events.drop_undone(fenced | dict.fromkeys(created, NEVER_FENCED))
        self.commit()
        for reply in replies:
            reply(why)

    def _created(self) -> Iterator[str]:
        """The ids of sessions that the group has created and not deleted: the store never had them."""
        for session_id, saved in self._saved.items():
            session = self._table.sessions.get(session_id)
            if saved.session is None and session is not None and not session.stored_version:
                yield session_id

    def _sessions_before(self) -> Iterator[Session]:
        return (saved.session for saved in self._saved.values() if saved.session is not None)

    def _restore(self, session_id: str, saved: Saved) -> None:
        """Restore session, tombstone, dirty mark, index and quarantine."""
        table = self._table
        if saved.tombstone is not None:
            table.tombstones.put(session_id, saved.tombstone)
        else:
            table.tombstones.pop(session_id)
        session, present = saved.session, table.sessions.get(session_id)
        if present is not None and present is not session:  # new, or in place of a deleted one
            self._liveness.forget(present)
            table.drop(session_id)
        if session is not None:
            session.restore(saved.mark or ())
            if session_id not in table.sessions:
                table.insert(session)
            table.index.update(session)
            table.weigh(session)
        else:
            table.tombstones.unsettle(session_id)
        is_nothing = session is None and saved.tombstone is None  # of which a write that failed made it dirty
        dirty = None if is_nothing else saved.dirty
        table.dirty.restore(session_id, dirty, 0 if session is None else session.doc.size)
        if saved.refusal is None:
            table.quarantined.discard(session_id)
        else:
            table.quarantined.put(saved.refusal)

    def _restore_liveness(self) -> None:
        """Restore deadlines, and the places of orphans and suspects in the order of claiming."""
        rare = self._rare_undo
        for session, reason in rare.suspicions:
            session.suspected = reason
        for saved in reversed(self._saved.values()):
            if saved.session is not None:
                self._watch_again(saved.session)
        self._table.index.orphans.move_back(rare.orphans)
        self._liveness.move_suspects_back(rare.suspects)


def _is_written(session: Session) -> bool:
    """Whether its history is in the journal."""
    return session.written is not None and session.written.still_count()
