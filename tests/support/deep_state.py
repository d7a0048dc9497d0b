"""All of an engine that a rollback has to restore, to be compared with what it was before the group."""

from __future__ import annotations

from typing import Any

from callstate_client.engine.engine import Engine
from callstate_client.engine.sessions.session import Session

OBSERVED = frozenset({
    "beat_us", "born", "born_of", "restored", "fenced_epoch",  # learned, or counted anew
    "seq", "queue", "weighed", "weighed_facts", "facts_bytes", "weighed_ops", "ops_bytes", "written",
})  # fmt: skip
"""What of a session stays as the undone group has left it: it was observed, or says nothing about the session."""


def deep_state(engine: Engine) -> dict[str, Any]:
    """Sessions, indexes, queues, marks and deadlines.

    Left out are the orders of sessions and dirty marks, as those of undone deletions come last, and what a rollback
    is known to renew: the time of each deadline.
    """
    table, liveness = engine.table, engine.liveness
    quarantined, index, dirty = table.quarantined, table.index, table.dirty
    return {
        "sessions": {session_id: of_session(session) for session_id, session in table.sessions.items()},
        "phases": {session_id: _deadline(session) for session_id, session in table.sessions.items()},
        "limited": sorted(session.id for session in liveness.limited),
        "suspects": [*liveness.suspects],
        "orphans": [*index.orphans],
        "by_status": dict(index.by_status),
        "by_uid": dict(index.by_uid),
        "owned": {worker: sorted(each.id for each in owned) for worker, owned in index.owned.items()},
        "pending": dict(table.tombstones.pending),
        "settled": dict(table.tombstones.settled),
        "marks": dict(dirty.marks),
        "in_flight": dict(dirty.in_flight),
        "dirty_bytes": dirty.size_bytes,
        "earlier": dict(dirty._earlier),
        "refused": {
            each: (found.why, found.attempts, found.due) for each in quarantined if (found := quarantined.get(each))
        },
        "set_aside": {each: [copy.state for copy in table.set_aside.of(each)] for each in table.set_aside},
        "departures": dict(engine.departures.pending),
    }


def of_session(session: Session) -> dict[str, Any]:
    """Each of its attributes, its document as bytes and in parts."""
    doc = session.doc
    kept = {name: getattr(session, name) for name in Session.__slots__ if name not in OBSERVED and name != "doc"}
    return kept | {
        "object": id(session),
        "ops": [*session.ops.items()],
        "document": doc.to_json(doc.updated_us),
        "lengths": (doc.turn_count, sum(doc.counts), doc.history_bytes, len(b",".join(doc.chunks))),
        "beside": (doc.provider, doc.call_id, doc.lineage, doc.updated_text),
    }


def _deadline(session: Session) -> Any:
    return None if session.queue is None else (session.queue.phase, session.queue.lane.span_s)
