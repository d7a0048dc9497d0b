"""A session's form in the store: written whole or as a patch, and read back.

Another program, such as the Go package, may have written the document, with or without our meta, or something that
can't be read. An unreadable document becomes a placeholder, so that the session can still be replaced or deleted.
Pure: no clock, no I/O.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator

from callstate_client.engine.reasons import SILENT
from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.facts import NOT_ENDED, Facts
from callstate_client.engine.sessions.head import head_of
from callstate_client.engine.sessions.layout import InStore
from callstate_client.engine.sessions.long_document import read_in_steps
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.steps import finished
from callstate_client.engine.sessions.stored import ENDED, SUSPECT, StoredMeta, StoredSession
from callstate_client.engine.sessions.writes import Patch, Whole, Write, meta_of
from callstate_client.errors import DocumentError, UnreadableError
from callstate_client.model import documents
from callstate_client.model.times import MAX_US, is_time, parse_us


class FoundUnreadableError(Exception):
    """A read of the store found a document that can't be read.

    Args:
        error: the answer to requests for it.
        session: its placeholder.
    """

    def __init__(self, error: UnreadableError, session: Session) -> None:
        super().__init__(error.message)
        self.error = error
        self.session = session


# -- writing --------------------------------------------------------------------------------------------------


def write_of(session: Session, host_id: str) -> Write:
    """The write of a session's current state: a patch if the store's document can be changed in place."""
    state, known = session.state, session.in_store
    patch = None if known is None or state == ENDED else _patch(session, known, state, host_id)
    return _whole(session, state, host_id) if patch is None else patch


def _patch(session: Session, known: InStore, state: str, host_id: str) -> Patch | None:
    """What changes in the store's document of a live session; None if it has to be written whole.

    Args:
        session: the session.
        known: what the store has.
        state: `Session.state`.
        host_id: this host.
    """
    doc = session.doc
    if session.base is not None or known.state == ENDED or known.call_id != doc.call_id:
        return None
    changes = doc.changes_since(known)
    if changes is None:
        return None
    offset, head, end, turns = changes
    version = session.version
    result = InStore(
        version, known.room, doc.fields, doc.lineage, doc.history_bytes, session.facts, session.ops, doc.call_id,
        state,
    )  # fmt: skip
    size = len(head) + len(turns)
    return Patch(
        session.id, host_id, version, known, result, offset, head, end, turns, size, session.beat_us // 1000
    )  # fmt: skip


def _whole(session: Session, state: str, host_id: str) -> Whole:
    doc, base = session.doc, session.base
    document, room = doc.for_store()
    result = InStore(
        session.version, room, doc.fields, doc.lineage, doc.history_bytes, session.facts, session.ops, doc.call_id,
        state,
    )  # fmt: skip
    return Whole(
        session.id, document, meta_of(result, host_id), active=state != ENDED, beat_ms=session.beat_us // 1000,
        seen=None if base is None else base.version, call_id=doc.call_id,
        is_new=session.version != session.stored_version, result=result, seen_stamp=session.seen_stamp,
    )  # fmt: skip


# -- reading --------------------------------------------------------------------------------------------------


def session_of(session_id: str, stored: StoredSession, host_id: str) -> Session | None:
    """Like `session_in_steps`, in one go."""
    return finished(session_in_steps(session_id, stored, host_id))


def session_in_steps(session_id: str, stored: StoredSession, host_id: str) -> Generator[None, None, Session | None]:
    """The session as it is in the store, read in steps if it is long; None for a tombstone, or if it was deleted
    and written back.

    Raises:
        UnreadableError: it is not a session document, one with another id, or too long to be read.
    """
    if stored.document is None:
        return None
    if stored.unread_bytes:
        why = f"the document has {stored.unread_bytes} bytes, more than a session may have"
        raise UnreadableError(why, version=_seen_version(stored))
    try:
        read = yield from read_in_steps(stored.document, session_id)
    except DocumentError as error:
        raise UnreadableError(str(error), version=_seen_version(stored)) from error
    parts, pieces = read.parts, read.pieces
    head = head_of(parts, read.extra, read.metrics_extra)
    session = Session(session_id, Document(head, head.updated_us))
    session.doc.updated_text = parts.head.updated_at, head.updated_us
    if pieces:
        session.doc.replace_pieces(pieces)
    else:
        session.doc.replace_history(parts.history, parts.turn_count)
    if stored.beat_ms > 0:  # 0: none; a document may be older than 1970, as one with Go's zero time
        session.beat_us = max(session.doc.updated_us, min(stored.beat_ms * 1000, MAX_US))
    if stored.tombstone and 0 < _created_us(session) <= stored.tombstone:
        return None  # other software wrote back what it had read before the deletion
    _take_meta(session, stored.meta, host_id)
    if stored.foreign_stamp and session.facts.ended_us and not session.ended:
        # other software wrote back what it had read before the end: that does not revive the call
        session.doc.status = "ended"
    if stored.meta is not None and _is_revived(stored.meta) and not stored.foreign_stamp:
        session.doc.status = stored.meta.status_before
    return session


def placeholder_of(session_id: str, stored: StoredSession, host_id: str) -> Session:
    """A placeholder for a session whose document can't be read: its meta and an empty document."""
    session = Session(session_id, Document(head_of(documents.read(b'{"id":""}')), 0))
    _take_meta(session, stored.meta, host_id)
    session.version = session.stored_version = _seen_version(stored)
    session.change_facts(**NOT_ENDED)
    return session


def _take_meta(session: Session, meta: StoredMeta | None, host_id: str) -> None:
    """Set what the store keeps beside the document."""
    if meta is None:  # another program wrote it, such as the Go package
        session.host = ""
        # never 0, which means that there is none; and a new one whenever they write again
        session.version = session.stored_version = max(1, session.doc.updated_us)
        return
    session.host = None if meta.host == host_id else meta.host
    session.version = session.stored_version = meta.version
    session.ops = {**meta.ops}
    session.facts = Facts(
        epoch=meta.epoch, owner=meta.owner, labels=meta.labels, heartbeat_timeout_s=meta.heartbeat_timeout_s,
        max_duration_s=meta.max_duration_s, ended_reason=meta.ended_reason, ended_detail=meta.ended_detail,
        ended_us=parse_us(meta.ended_at) if is_time(meta.ended_at) else 0, reaped=meta.reaped,
        orphan=meta.orphan, status_before=meta.status_before if meta.reaped else "", uid=meta.uid, gid=meta.gid,
    )  # fmt: skip
    session.suspected = SILENT if meta.state == SUSPECT else ""


def _is_revived(meta: StoredMeta) -> bool:
    """Whether a host has revived a reaped session, but not written its document yet: that says it has ended."""
    return bool(meta.status_before) and not meta.reaped and not meta.ended_at


def _created_us(session: Session) -> int:
    """When the call began, microseconds since 1970; 0 if the document does not say."""
    text = session.doc.created_at
    return parse_us(text) if is_time(text) else 0


def _seen_version(stored: StoredSession) -> int:
    """The version of a document that can't be read: that of its meta; without meta a hash of its bytes, so that
    another document has another version. Never 0, which means that there is none."""
    if stored.meta is not None:
        return max(1, stored.meta.version)
    seen = stored.document or b"%d" % stored.unread_bytes
    digest = hashlib.blake2b(seen, digest_size=6).digest()  # below any version by the clock
    return max(1, int.from_bytes(digest))
