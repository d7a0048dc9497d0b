"""How much memory things take, estimated: sessions, tombstones, copies set aside.

The constants are measured, not derived: the growth of a daemon's resident memory (CPython 3.11, glibc, x86-64)
over thousands of sessions, once the store has them, divided by their number:

    20,000 sessions without turns, 150 bytes of `fields`          2,040 bytes each
    10,000 with 10 labels                                         +152 for each label of 14 characters
    10,000 with 20 turns of 230 bytes, in one save                +230 for each turn
    10,000 with the same turns, one at a time                     +294 for each turn, so 64 for each chunk
     5,000 with 16 kept results of repeatable turns               +190 for each of 60 characters
       200 with 480 KiB in one save, 300 grown to it              +2 to 4 %

`tests/system/test_hot_memory.py` holds the sum against the growth of a daemon.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from callstate_client.engine.sessions.facts import NO_FACTS, Facts
from callstate_client.engine.sessions.head import Head
from callstate_client.engine.sessions.ops import op_weight
from callstate_client.engine.sessions.records import StateRecord
from callstate_client.engine.sessions.session import Session

SESSION_BYTES: Final = 1800
"""A session without its text: its objects, and its entries in the table, indexes, queues and deadlines."""

CHUNK_BYTES: Final = 64
"""A chunk of the history beside its text: the object, its place in the list, and what the allocator rounds up."""

LABEL_BYTES: Final = 140
"""A label beside its text."""

BASE_BYTES: Final = 300
"""A merge base beside the head that it may have of its own."""

TOMBSTONE_BYTES: Final = 600
"""A deletion beside its id and kept results, with its entries in the queues of the store."""

COPY_BYTES: Final = 1200
"""A copy set aside beside its text."""


def weight(session: Session) -> int:
    """Bytes that a hot session takes, in constant time unless its facts have changed."""
    doc, facts, ops = session.doc, session.facts, session.ops
    fields = doc.fields
    if facts is not session.weighed_facts:
        session.weighed_facts, session.facts_bytes = facts, facts_weight(facts)
    if ops is not session.weighed_ops:
        session.weighed_ops, session.ops_bytes = ops, ops_weight(ops)
    size = (
        SESSION_BYTES + len(fields) + len(doc.metrics.extra) + doc.history_bytes + len(doc.chunks) * CHUNK_BYTES
        + session.facts_bytes + session.ops_bytes
    )  # fmt: skip
    base, stored = session.base, session.in_store
    if base is not None:
        size += BASE_BYTES
        if base.fields is not fields:
            size += len(base.fields)
    if stored is not None and stored.fields is not fields and (base is None or stored.fields is not base.fields):
        size += len(stored.fields)
    return size


def head_growth(session: Session, head: Head) -> int:
    """Bytes by which a session grows with another head; the present one may have to stay for the store."""
    fields, base, stored = session.doc.fields, session.base, session.in_store
    if head.fields is fields:
        return head.size - session.doc.head_size
    stays = (base is not None and base.fields is fields) or (stored is not None and stored.fields is fields)
    return head.size if stays else head.size - session.doc.head_size


def facts_weight(facts: Facts) -> int:
    """Bytes of the texts in a session's facts."""
    if facts is NO_FACTS:
        return 0
    return labels_weight(facts.labels) + len(facts.ended_detail) + len(facts.owner) + len(facts.instance)


def labels_weight(labels: Mapping[str, str]) -> int:
    """Bytes of labels."""
    return sum(LABEL_BYTES + len(name) + len(value) for name, value in labels.items())


def ops_weight(ops: Mapping[str, bytes]) -> int:
    """Bytes of kept results."""
    return sum(op_weight(op, result) for op, result in ops.items())


def copy_weight(state: StateRecord) -> int:
    """Bytes of a copy set aside."""
    ops = sum(op_weight(done.op, done.result) for done in state.ops)
    head = len(state.fields) + len(state.metrics.extra)
    return COPY_BYTES + head + len(state.turns) + facts_weight(state.facts) + ops
