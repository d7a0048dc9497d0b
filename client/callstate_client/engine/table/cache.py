"""The hot map: every live session, what the store has not heard of yet, and how to undo a group of changes.

Pure: no I/O, and the present time is passed in. Every mutation goes through `change`, `create` or `remove`,
which note how it was, and `log`, which notes what the journal must hear. `commit` and `rollback` end a group.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import islice, starmap
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from msgspec import Struct, structs

from callstate_client.engine.sessions.records import (
    BeatsRecord,
    GoneRecord,
    OpResult,
    Record,
    StateRecord,
    StoreRecord,
    TurnsRecord,
    WorkerRecord,
)
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.stored import (
    StoredMeta,
    Write,
)
from callstate_client.engine.table.index import Index, Roll

MISS_TTL_S: Final = 1.0
"""A miss is remembered this long at most: another host may create the session meanwhile."""

MAX_MISSES: Final = 10_000
"""Remembered misses; beyond it the oldest are forgotten, which costs a store read each."""


class Grave(NamedTuple):
    """A deletion: what a session created later under the same id has to be above."""

    version: int
    epoch: int
    ops: Mapping[str, bytes] = MappingProxyType({})
    """Results of repeatable mutations of what was deleted, and of the deletion."""


NO_GRAVE: Final = Grave(0, 0)


Mark = tuple[float, int, int]
"""Since when the store's state of a session is old (monotonic time), how many bytes it has, and the era in which it
became dirty."""


class Flight(NamedTuple):
    """A write under way."""

    version: int
    era: int


class _Before(Struct, gc=False):
    """How things were under one id before the group."""

    session: Session | None
    mark: tuple[Any, ...] | None
    grave: Grave | None
    dirty: Mark | None


class Cache:
    """All hot sessions of this host."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.graves: dict[str, Grave] = {}
        self.dirty: OrderedDict[str, Mark] = OrderedDict()
        """Ids of which the store has an older state, oldest first."""
        self.dirty_bytes = 0
        self.flying: dict[str, Flight] = {}
        """What is on its way to the store."""
        self.quarantined: dict[str, None] = {}
        """Hot sessions that the store does not take."""
        self._era = 0
        self._unwritten: dict[int, int] = {}
        self.repairing = False
        """Nobody knows what the store has: all is about to be dirty."""
        self.beaten: dict[str, int] = {}
        """Beats the store has not heard of, microseconds since 1970."""
        self.index = Index()
        self.roll = Roll()
        self.processes: dict[str, WorkerRecord] = {}
        """Which process a worker is, for those that own sessions or may."""
        self.group: list[Record] = []
        self.facts: list[Record] = []
        """What the journal must hear of as well, but is so whether it does or not: nothing of it is ever undone."""
        self._misses: OrderedDict[str, tuple[float, Grave]] = OrderedDict()
        self._spared: OrderedDict[str, Grave] = OrderedDict()
        """Deletions that the store is not told of and that may be repeated, oldest first."""
        self._before: dict[str, _Before] = {}
        self._admitted: list[Session] = []

    # -- looking ------------------------------------------------------------------------------------------

    def known_missing(self, session_id: str, now: float) -> bool:
        """Whether it is known to be nowhere: deleted here, or asked for in the store a moment ago."""
        if session_id in self.graves:
            return True
        miss = self._misses.get(session_id)
        if miss is None:
            return False
        if miss[0] > now:
            return True
        del self._misses[session_id]
        return False

    def note_miss(self, session_id: str, now: float, grave: Grave = NO_GRAVE) -> None:
        """The store does not have it, or has this tombstone."""
        misses = self._misses
        misses.pop(session_id, None)
        while misses and (len(misses) >= MAX_MISSES or next(iter(misses.values()))[0] <= now):
            misses.popitem(last=False)
        misses[session_id] = (now + MISS_TTL_S, grave)

    def floor(self, session_id: str) -> Grave:
        """Where a session newly created under this id begins: what is below would be refused by the store."""
        return self.graves.get(session_id) or self._misses.get(session_id, (0.0, NO_GRAVE))[1]

    def done_before(self, session_id: str, op: str | None) -> bytes | None:
        """Of a session that is not there: the result that a mutation got before it was deleted, or deleting it."""
        if op is None:
            return None
        result = self.floor(session_id).ops.get(op)
        return self._spared.get(session_id, NO_GRAVE).ops.get(op) if result is None else result

    # -- changing -----------------------------------------------------------------------------------------

    def _note(self, session_id: str) -> None:
        if session_id not in self._before:
            session = self.sessions.get(session_id)
            mark = None if session is None else session.mark()
            self._before[session_id] = _Before(
                session, mark, self.graves.get(session_id), self.dirty.get(session_id)
            )

    def change(self, session: Session) -> None:
        """About to change this session; one that was only read through becomes hot."""
        self._note(session.id)
        if session.id not in self.sessions:
            self._insert(session)

    def create(self, session: Session) -> None:
        """A new session."""
        self._note(session.id)
        if self.graves.pop(session.id, None) is not None:
            session.maybe_stored = True  # the store still has the one before
        self._insert(session)

    def admit(self, session: Session) -> None:
        """A session of ours that the store had becomes hot; the journal is told, so that replay knows it too.

        No change, so nothing to undo: where the journal does not take it, it is told at the first change.
        """
        self._insert(session)
        self.group.append(session.snapshot())
        session.journaled = True
        self._admitted.append(session)

    def _insert(self, session: Session) -> None:
        self.roll.add(session)
        self.sessions[session.id] = session
        self._misses.pop(session.id, None)
        self._spared.pop(session.id, None)
        self.index.update(session)
        if session.quarantined:
            self.quarantined[session.id] = None

    def _drop(self, session_id: str) -> None:
        session = self.sessions.pop(session_id, None)
        if session is not None:
            self.index.drop(session)
            self.roll.drop(session)
            self.quarantined.pop(session_id, None)

    def worker(self, record: WorkerRecord) -> None:
        """A worker that may come to own sessions is this process: the journal is told."""
        self.processes[record.worker_id] = record
        self.facts.append(record)

    def forget_worker(self, worker_id: str) -> None:
        """A worker is gone and owns nothing: another of its name may be another process, or none."""
        if self.processes.pop(worker_id, None) is not None:
            self.facts.append(WorkerRecord(worker_id, 0, 0, "", 0))

    def remove(
        self, session: Session, version: int, now: float, op: str | None = None, result: bytes = b"{}"
    ) -> None:
        """Delete a session. The store is told only where it may have heard of it, or where it has changed hands.

        Args:
            session: which.
            version: of the deletion.
            now: monotonic time.
            op: under which the deletion may be repeated.
            result: what a repeat is answered with.
        """
        self._note(session.id)
        session.keep_op(op, result)
        known = (
            session.stored_version > 0
            or session.maybe_stored
            or session.host is not None
            or session.id in self.flying
        )
        # whoever held it stays fenced off from one that is made anew under its id, however late
        known = known or session.facts.epoch > 0
        self._drop(session.id)
        self.beaten.pop(session.id, None)
        self._mark_clean(session.id)
        grave = Grave(version, session.facts.epoch, session.ops)
        if known:
            self.graves[session.id] = grave
            self.mark_dirty(session.id, now, 0)
        else:
            self.note_miss(session.id, now, grave)
            self._spare(session.id, grave)
        self.group.append(_gone(session.id, grave, known))

    def _spare(self, session_id: str, grave: Grave) -> None:
        if grave.ops:
            self._spared[session_id] = grave
            if len(self._spared) > MAX_MISSES:
                self._spared.popitem(last=False)

    def log(self, session: Session, record: StateRecord | TurnsRecord, now: float) -> None:
        """The journal must hear of this change, and the store in time.

        A session that the journal does not know yet, new or just taken over, is told to it whole; so is the first
        change after a restart until the store has taken it, with what it was changed from.
        """
        if session.base is not None and (
            session.base.version or session.journaled
        ):  # what creates it changes nothing
            session.base = session.base.after(record.mode, getattr(record, "index", -1))
        if isinstance(record, StateRecord):
            record.base = session.journaled_base
        if session.journaled:
            self.group.append(record)
        else:
            self.group.append(session.snapshot())
            session.journaled = True
        doc = session.doc
        if session.counted != doc.status or session.owner_counted != session.facts.owner or session.facts.orphan:
            self.index.update(session)
        self.mark_dirty(session.id, now, doc.size)

    def evict(self, session: Session) -> None:
        """Keep it hot no longer; the store has it. Told to the journal, so that replay keeps it cold too."""
        self._note(session.id)
        self._drop(session.id)
        self.group.append(GoneRecord(session.id, session.version + 1, session.facts.epoch, False))

    # -- the group ----------------------------------------------------------------------------------------

    def commit(self) -> None:
        """The group is down: forget how to undo it."""
        self.group = []
        self._before.clear()
        self._admitted.clear()

    def rollback(self) -> list[Session | str]:
        """Undo the group, last change first.

        Returns:
            per id changed: the session as it was before, or the id where there was none.
        """
        undone: list[Session | str] = []
        for session_id, before in reversed(self._before.items()):
            self._mark_clean(session_id)
            if before.dirty is not None:
                self._put_mark(session_id, before.dirty)
            if before.grave is not None:
                self.graves[session_id] = before.grave
            else:
                self.graves.pop(session_id, None)
            if before.session is None:
                self._drop(session_id)
                undone.append(session_id)
            else:
                before.session.restore(before.mark or ())
                if self.sessions.get(session_id) is not before.session:  # gone, or another one made in its place
                    self._drop(session_id)
                    self._insert(before.session)
                self.index.update(before.session)
                undone.append(before.session)
        for session in self._admitted:
            session.journaled = False
        self._misses.clear()
        self.commit()
        return undone

    # -- towards the store --------------------------------------------------------------------------------

    def mark_dirty(self, session_id: str, now: float, size: int) -> None:
        """The store's state of this is old as of now."""
        was = self.dirty.get(session_id)
        if was is None:
            self._put_mark(session_id, (now, size, self._era))
        else:
            self.dirty[session_id] = (was[0], size, was[2])
            self.dirty_bytes += size - was[1]

    def _put_mark(self, session_id: str, mark: Mark) -> None:
        self.dirty[session_id] = mark
        self.dirty_bytes += mark[1]
        self._unwritten[mark[2]] = self._unwritten.get(mark[2], 0) + 1

    def mark_stale(self, session_id: str, now: float, size: int) -> None:
        """As `mark_dirty`, but for another reason than the open group's: undoing that leaves the mark."""
        if session_id not in self.dirty:
            self.mark_dirty(session_id, now, size)
        before = self._before.get(session_id)
        if before is not None and before.dirty is None:
            before.dirty = (now, size, self._era)

    def _mark_clean(self, session_id: str) -> None:
        was = self.dirty.pop(session_id, None)
        if was is not None:
            self.dirty_bytes -= was[1]
            self._written(was[2])

    def _written(self, era: int) -> None:
        """One fewer of this era has still to be written."""
        left = self._unwritten[era] - 1
        if left:
            self._unwritten[era] = left
        else:
            del self._unwritten[era]

    def end_era(self) -> int:
        """What gets dirty from now on is of another era; gives the one that ends: see `unwritten`."""
        self._era += 1
        return self._era - 1

    def unwritten(self, era: int) -> int:
        """How many marks and flights there still are of what was dirty at the end of this era; a session that
        changed while it was being written has both."""
        return sum(left for each, left in self._unwritten.items() if each <= era)

    def is_unwritten(self, session_id: str, era: int) -> bool:
        """Whether the store is still to be given what was dirty of this session at the end of this era."""
        mark, flight = self.dirty.get(session_id), self.flying.get(session_id)
        return (mark is not None and mark[2] <= era) or (flight is not None and flight.era <= era)

    def take_dirty(self, host_id: str, max_sessions: int, max_bytes: int) -> list[tuple[Write, float]]:
        """The oldest of what is dirty, as writes that are on their way from now on, with their age marks."""
        batch: list[tuple[Write, float]] = []
        sent: dict[str, int] = {}
        size = 0
        for session_id in self.dirty:
            if len(batch) >= max_sessions or size >= max_bytes:
                break
            session = self.sessions.get(session_id)
            if session is not None:
                write = session.write(host_id)
                if session.base is not None and not session.base.sent and session.journaled_base is not None:
                    session.base = structs.replace(session.base, sent=session.version)
                    sent[session_id] = session.version
                size += len(write.document or b"")
            else:
                grave = self.graves[session_id]
                meta = StoredMeta(
                    host=host_id, epoch=grave.epoch, version=grave.version, deleted=True, ops=grave.ops
                )
                write = Write(session_id, None, meta, active=False)
            batch.append((write, self.dirty[session_id][0]))
        if sent:
            self.group.append(StoreRecord(sent, {}))
        for write, _ in batch:
            era = self.dirty[write.session_id][2]
            self._unwritten[era] += 1
            self._mark_clean(write.session_id)
            self.flying[write.session_id] = Flight(write.meta.version, era)
        return batch

    def _end_flight(self, session_id: str) -> int:
        """A write is under way no more; gives its era."""
        era = self.flying.pop(session_id).era
        self._written(era)
        return era

    def take_beats(self, most: int) -> dict[str, int]:
        """Some of the beats that neither journal nor store have heard of; the journal hears of them now."""
        beats = dict(islice(self.beaten.items(), most))
        for session_id in beats:
            del self.beaten[session_id]
        if beats:
            self.group.append(BeatsRecord(beats))
        return beats

    def beats_bounced(self, beats: dict[str, int]) -> None:
        """The store did not take these: they go with the next, unless a later one has come."""
        for session_id, at_us in beats.items():
            self.beaten.setdefault(session_id, at_us)

    def landed(self, write: Write) -> None:
        """The store has this write."""
        session_id, version = write.session_id, write.meta.version
        self._end_flight(session_id)
        self.quarantined.pop(session_id, None)
        before = self._before.get(session_id)
        if before is not None and before.grave is not None and before.grave.version <= version:
            before.grave = None  # an undo must not bring it back
        for session in self._in_play(session_id):
            session.stored_version = max(session.stored_version, version)
            session.maybe_stored = False
            session.quarantined = ""
            self._base_taken(session, version)
        if session_id not in self.sessions and session_id not in self.dirty:
            grave = self.graves.pop(session_id, None)
            if grave is not None:  # told to the journal: written anew after a crash, it could hit a successor
                self.group.append(GoneRecord(session_id, version, grave.epoch, False))

    def take_all_as_stored(self) -> list[str]:
        """There is neither store nor journal: what is committed counts as stored. To be called between groups.

        Returns:
            the deletions among it, which stay in `graves` for as long as the caller leaves them there.
        """
        deletions: list[str] = []
        for session_id in [*self.dirty]:
            session = self.sessions.get(session_id)
            if session is None:
                deletions.append(session_id)
            else:
                session.stored_version, session.maybe_stored = session.version, False
            self._mark_clean(session_id)
        self.beaten.clear()
        self.facts.clear()
        return deletions

    def _base_taken(self, session: Session, version: int) -> None:
        """The store has taken this version: it had none that is not in it."""
        if session.journaled_base is not None:
            self.group.append(StoreRecord({}, {session.id: version}))
        elif session.base is not None:
            session.journaled = True  # as replayed, and nothing since
        session.base = None

    def _in_play(self, session_id: str) -> Iterator[Session]:
        """The session as it is, and as it is again if the open group, which deleted it, is undone."""
        session, before = self.sessions.get(session_id), self._before.get(session_id)
        if session is not None:
            yield session
        if before is not None and before.session is not None and before.session is not session:
            yield before.session

    def bounced(self, write: Write, since: float) -> None:
        """Nobody knows whether the store has this write: dirty again, as old as it was."""
        session_id = write.session_id
        era = self._end_flight(session_id)
        for session in self._in_play(session_id):
            session.maybe_stored = True
        if session_id not in self.sessions and session_id not in self.graves:
            return
        size = len(write.document or b"")
        self.mark_stale(session_id, since, size)
        _, size, _ = self.dirty[session_id]
        self._mark_clean(session_id)
        self._put_mark(session_id, (since, size, era))
        self.dirty.move_to_end(session_id, last=False)  # first in line again: age decides the turn

    def raise_grave(self, session_id: str, grave: Grave) -> None:
        """A deletion has to be above what the store turned out to have."""
        self.graves[session_id] = grave
        self.group.append(_gone(session_id, grave, True))

    def forget(self, session: Session, version: int) -> None:
        """The store has had it deleted, by this version."""
        self._note(session.id)
        self._drop(session.id)
        self.beaten.pop(session.id, None)
        self._mark_clean(session.id)
        self.group.append(GoneRecord(session.id, max(version, session.version + 1), session.facts.epoch, False))

    def is_stored(self, session: Session) -> bool:
        """Whether the store is known to have it as it is, and nothing of it is on its way there."""
        if self.repairing:
            return False
        return (
            session.stored_version >= session.version
            and session.id not in self.dirty
            and session.id not in self.flying
        )

    def refused(self, write: Write, why: str) -> None:
        """The store will not take this one; it stays hot and in the journal."""
        self._end_flight(write.session_id)
        for session in self._in_play(write.session_id):
            session.quarantined = why
        if write.session_id in self.sessions:
            self.quarantined[write.session_id] = None
        if write.session_id not in self.sessions and write.session_id not in self.dirty:
            self.graves.pop(write.session_id, None)

    # -- replay -------------------------------------------------------------------------------------------

    def _replay_worker(self, record: WorkerRecord) -> None:
        if record.pid or record.pidfs_inode:
            self.processes[record.worker_id] = record
        else:
            self.processes.pop(record.worker_id, None)

    def replay(self, record: Record) -> None:
        """Apply a record of the journal; one a session already has is skipped."""
        if isinstance(record, BeatsRecord):
            for session_id, beat_us in record.beats.items():
                beaten = self.sessions.get(session_id)
                if beaten is not None:
                    beaten.beat_us = max(beaten.beat_us, beat_us)
            return
        if isinstance(record, WorkerRecord):
            self._replay_worker(record)
            return
        if isinstance(record, StoreRecord):
            self._replay_store(record)
            return
        session = self.sessions.get(record.session_id)
        if session is not None and record.version <= session.version:
            return
        if isinstance(record, GoneRecord):
            self._replay_gone(record)
            return
        if isinstance(record, StateRecord):
            after = Session.of_record(record, session)
            if session is None:
                self._insert(after)
            self.index.update(after)
            self.graves.pop(record.session_id, None)
        elif session is not None:
            session.doc.metrics = record.metrics
            session.doc.updated_us = record.updated_us
            session.beat_us = max(session.beat_us, record.updated_us)
            session.apply_turns(record.mode, record.turns, record.count, record.ops, record.index)
            session.version = record.version
            if session.base is not None:
                session.base = session.base.after(record.mode, record.index)

    def _replay_gone(self, record: GoneRecord) -> None:
        self._drop(record.session_id)
        grave = Grave(record.version, record.epoch, {done.op: done.result for done in record.ops})
        if record.grave:
            self.graves[record.session_id] = grave
        else:
            self.graves.pop(record.session_id, None)
            self._spare(record.session_id, grave)

    def _replay_store(self, record: StoreRecord) -> None:
        for session_id, version in record.sent.items():
            session = self.sessions.get(session_id)
            if session is not None and session.base is not None and not session.base.sent:
                session.base = structs.replace(session.base, sent=version)
        for session_id, version in record.taken.items():
            session = self.sessions.get(session_id)
            base = None if session is None else session.base
            if session is not None and base is not None and 0 < (base.version or base.sent) <= version:
                session.base = None

    def all_dirty(self, now: float) -> None:
        """After a replay: nobody knows what the store has."""
        for session in self.sessions.values():
            session.maybe_stored = True
            if session.base is None:
                session.base = session.based_on_this()
                session.journaled = False  # the first change is told with what it was changed from
            self.mark_dirty(session.id, now, session.doc.size)
        for session_id in self.graves:
            self.mark_dirty(session_id, now, 0)

    def not_stored(self, session_id: str, now: float) -> None:
        """The store has lost what it had of this."""
        session = self.sessions.get(session_id)
        if session is not None:
            session.stored_version = 0
            self.mark_stale(session_id, now, session.doc.size)

    def snapshot(self) -> Iterator[Record]:
        """Everything hot, and every deletion the store has not heard of, as records.

        The cache may change while this is being consumed: each record is of the moment at which it is asked
        for, and what came or went since the start is the log's to tell.
        """
        yield from [*self.processes.values()]
        for session_id in [*self.sessions]:
            session = self.sessions.get(session_id)
            if session is not None:
                yield session.snapshot()
        for session_id, grave in [*self.graves.items()]:
            yield _gone(session_id, grave, True)
        for session_id, grave in [*self._spared.items()]:
            yield _gone(session_id, grave, False)


def _gone(session_id: str, grave: Grave, told: bool) -> GoneRecord:
    """The journal's record of a deletion; `told`: the store is to hear of it."""
    ops = [*starmap(OpResult, grave.ops.items())]
    return GoneRecord(session_id, grave.version, grave.epoch, told, ops)
