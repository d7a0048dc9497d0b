"""The bytes that an engine keeps, counted anew from what it has: the oracle of the running sum."""

from __future__ import annotations

from collections.abc import Mapping

from callstate_client.engine.event_ring import KEPT_BYTES
from callstate_client.engine.events import Events
from callstate_client.engine.sessions import weight
from callstate_client.engine.sessions.facts import Facts
from callstate_client.engine.sessions.ops import OP_BYTES
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.table.dirty_set import DirtySet
from callstate_client.engine.table.session_table import SessionTable


def recounted(table: SessionTable, events: Events | None = None) -> int:
    """Everything, from nothing but the constants."""
    total = sum(_session(session) for session in table.sessions.values())
    tombstones = table.tombstones
    for buried in (tombstones.pending, tombstones.settled, {i: miss[1] for i, miss in tombstones._misses.items()}):
        total += sum(weight.TOMBSTONE_BYTES + len(i) + _ops(tombstone.ops) for i, tombstone in buried.items())
    for session_id in table.set_aside:
        for copy in table.set_aside.of(session_id):
            state = copy.state
            ops = {done.op: done.result for done in state.ops}
            head = len(state.fields) + len(state.metrics.extra)
            total += weight.COPY_BYTES + head + len(state.turns) + _facts(state.facts) + _ops(ops)
    if events is not None:
        total += sum(KEPT_BYTES + len(kept.line) for kept in events.ring)
    return total


def recounted_dirty(dirty: DirtySet) -> int:
    """What the store does not have yet: of each session its newest state."""
    flying = {session_id: flight.size for session_id, flight in dirty.in_flight.items()}
    return sum((flying | {session_id: mark.size for session_id, mark in dirty.marks.items()}).values())


def _session(session: Session) -> int:
    doc = session.doc
    heads = {id(doc.fields): doc.fields}
    if session.in_store is not None:
        heads[id(session.in_store.fields)] = session.in_store.fields
    total = weight.SESSION_BYTES + sum(map(len, doc.chunks)) + max(0, len(doc.chunks) - 1)
    if session.base is not None:
        heads[id(session.base.fields)] = session.base.fields
        total += weight.BASE_BYTES
    total += len(doc.chunks) * weight.CHUNK_BYTES + len(doc.metrics.extra)
    return total + sum(map(len, heads.values())) + _facts(session.facts) + _ops(session.ops)


def _ops(ops: Mapping[str, bytes]) -> int:
    return sum(OP_BYTES + len(op) + len(result) for op, result in ops.items())


def _facts(facts: Facts) -> int:
    labels = sum(weight.LABEL_BYTES + len(name) + len(value) for name, value in facts.labels.items())
    return labels + len(facts.ended_detail) + len(facts.owner) + len(facts.instance)
