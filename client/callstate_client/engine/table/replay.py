"""The table as journal records, and back: `replay` applies one record, `snapshot` yields all of them.

A record is skipped if the session already has its version, so a log may begin before the snapshot it follows is
complete. After a replay the store's state is unknown (`all_dirty`): every session is to be written, and gets a
merge base, in case the store turns out to have something newer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, starmap

from msgspec import structs

from callstate_client.engine.sessions.parts import in_parts
from callstate_client.engine.sessions.records import (
    BaseRecord,
    BeatsRecord,
    OpResult,
    PartRecord,
    Record,
    RemovalRecord,
    SetAsideRecord,
    StateRecord,
    StoreRecord,
    TurnsRecord,
    WorkerRecord,
)
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.table.session_table import IDS_AT_ONCE, SessionTable
from callstate_client.engine.table.tombstones import Tombstone


def replay(table: SessionTable, record: Record) -> None:
    """Apply a journal record.

    Raises:
        ValueError: it is of a session in parts, and some are missing.
    """
    if isinstance(record, BeatsRecord):
        _beats(table, record)
    elif isinstance(record, WorkerRecord):
        _worker(table, record)
    elif isinstance(record, StoreRecord):
        _store(table, record)
    elif isinstance(record, BaseRecord):
        _base(table, record)
    elif isinstance(record, SetAsideRecord):
        _set_aside(table, record)
    elif isinstance(record, PartRecord):
        _part(table, record)
    else:
        pieces = _pieces(table, record) if isinstance(record, StateRecord) and record.parts else []
        session = table.sessions.get(record.session_id)
        if session is not None and record.version <= session.version:
            return
        if isinstance(record, RemovalRecord):
            _removal(table, record)
        elif isinstance(record, StateRecord):
            _state(table, record, session, pieces)
        elif session is not None:
            _turns(session, record)
            table.weigh(session)


def _beats(table: SessionTable, record: BeatsRecord) -> None:
    for session_id, beat_us in record.beats.items():
        session = table.sessions.get(session_id)
        if session is not None:
            session.beat_us = max(session.beat_us, beat_us)


def _worker(table: SessionTable, record: WorkerRecord) -> None:
    if record.pid or record.pidfs_inode:
        table.processes[record.worker_id] = record
    else:
        table.processes.pop(record.worker_id, None)


def _store(table: SessionTable, record: StoreRecord) -> None:
    for session_id, version in record.sent.items():
        session = table.sessions.get(session_id)
        if session is not None and session.base is not None and not session.base.sent:
            session.base = structs.replace(session.base, sent=version)
    for session_id, version in record.taken.items():
        session = table.sessions.get(session_id)
        base = None if session is None else session.base
        if session is not None and base is not None and 0 < (base.version or base.sent) <= version:
            session.base = None
            table.weigh(session)


def _base(table: SessionTable, record: BaseRecord) -> None:
    session = table.sessions.get(record.session_id)
    if session is not None and session.version == record.base.version:
        session.base = record.base
        table.weigh(session)


def _set_aside(table: SessionTable, record: SetAsideRecord) -> None:
    session_id, version = record.state.session_id, record.state.version
    session = table.sessions.get(session_id)
    if record.dropped:
        table.set_aside.drop(record)
        return
    table.set_aside.add(record)
    if session is not None and session.version <= version:  # else it has come back since
        table.drop(session_id)


def _removal(table: SessionTable, record: RemovalRecord) -> None:
    session_id, tombstones = record.session_id, table.tombstones
    table.drop(session_id)
    tombstone = Tombstone(record.version, record.epoch, {done.op: done.result for done in record.ops})
    if record.pending:
        tombstones.put(session_id, tombstone)
    else:
        tombstones.pop(session_id)
        tombstones.settle(session_id, tombstone)


def _part(table: SessionTable, record: PartRecord) -> None:
    if not record.number:
        table.parts[record.key] = []
    parts = table.parts.get(record.key, [])
    if len(parts) == record.number:
        parts.append((record.turns, record.count))


def _pieces(table: SessionTable, record: StateRecord) -> list[tuple[bytes, int]]:
    """The history of a session in parts."""
    parts = table.parts.pop(record.key, [])
    if len(parts) != record.parts:
        raise ValueError(f"session {record.session_id} has {record.parts} parts, and {len(parts)} of them are here")
    return [parts[number] for number in record.order] if record.order else parts


def _state(
    table: SessionTable, record: StateRecord, session: Session | None, pieces: list[tuple[bytes, int]]
) -> None:
    after = Session.of_record(record, session)
    if pieces:
        after.doc.replace_pieces(pieces)
    if session is None:
        table.insert(after)
    table.index.update(after)
    table.weigh(after)
    table.tombstones.pop(record.session_id)


def _turns(session: Session, record: TurnsRecord) -> None:
    session.doc.metrics = record.metrics
    session.doc.updated_us = record.updated_us
    session.beat_us = max(session.beat_us, record.updated_us)
    session.apply_turns(record.mode, record.turns, record.count, record.ops, record.index)
    session.version = record.version
    if session.base is not None:
        session.base = session.base.after(record.mode, record.index, record.count)


def all_dirty(table: SessionTable, now: float) -> None:
    """Mark everything dirty after a replay, as the store's state is unknown. `now`: monotonic seconds."""
    table.parts.clear()  # those whose session was not journaled any more
    for session in table.sessions.values():
        session.maybe_stored = True
        if session.base is None:
            session.base = session.based_on_this()
            table.weigh(session)
        session.base_derived = session.journaled_base is None
        table.dirty.mark(session.id, now, session.doc.size)
    for session_id in table.tombstones.pending:
        table.dirty.mark(session_id, now, 0)


def snapshot(table: SessionTable) -> Iterator[Record]:
    """Records of every hot session, and of every deletion that must survive a restart.

    The table may change while this is being consumed: each record is as of the moment it is yielded, and the log
    has what was added or removed since the start.
    """
    yield from [*table.processes.values()]
    for session_id in table.each_id():
        session = table.sessions.get(session_id)
        if session is not None:
            yield from in_parts(session, 0)
    for some in table.set_aside.order.chunks(IDS_AT_ONCE):
        for copies in some:
            yield from table.set_aside.of(copies.session_id)
    tombstones = table.tombstones
    pending = chain.from_iterable(tombstones.pending.chunks(IDS_AT_ONCE))
    yield from _removals(pending, tombstones.pending, pending=True)
    yield from _removals(tuple(tombstones.settled), tombstones.settled, pending=False)


def _removals(
    session_ids: Iterable[str], tombstones: Mapping[str, Tombstone], *, pending: bool
) -> Iterator[Record]:
    for session_id in session_ids:
        tombstone = tombstones.get(session_id)
        if tombstone is not None:
            yield removal(session_id, tombstone, pending=pending)


def removal(session_id: str, tombstone: Tombstone, *, pending: bool) -> RemovalRecord:
    """The journal record of a deletion; `pending`: it has still to be written to the store."""
    ops = [*starmap(OpResult, tombstone.ops.items())]
    return RemovalRecord(session_id, tombstone.version, tombstone.epoch, pending, ops)
