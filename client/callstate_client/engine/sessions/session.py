"""One hot session: its document, what is known beside it, and its forms for the journal and the store.

A session has four kinds of state, by what becomes of them when a change is undone (see transaction.py):

    doc, version, facts, ops, host, base,      what changes make: `mark` and `restore` take it back
    journaled, fenced_epoch, known_timeout_s
    beat_us, restored, suspected, born         what was observed: it stays, for it happened
    stored_version, in_store, seen_stamp,      what is known of the store: it stays
    maybe_stored, quarantined
    counted, owner_counted, seq                where the indexes have it: they follow

`facts`, `base`, `ops` and the parts of the document are replaced, never changed in place, so a mark is a tuple of
references.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import starmap
from typing import Any, Final

from msgspec import structs

from callstate_client.engine.reasons import SILENT
from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.facts import NO_FACTS, NOT_ENDED, Facts
from callstate_client.engine.sessions.head import Head, head_of
from callstate_client.engine.sessions.layout import InStore
from callstate_client.engine.sessions.records import HistoryMode, MergeBase, OpResult, StateRecord
from callstate_client.engine.sessions.stored import (
    ENDED,
    LIVE,
    ORPHAN,
    SUSPECT,
    Patch,
    StoredMeta,
    StoredSession,
    Write,
)
from callstate_client.errors import DocumentError, UnreadableError
from callstate_client.model import documents
from callstate_client.model.times import MAX_US, format_us, is_time, parse_us

KEPT_OPS: Final = 16
"""Results of the last so many repeatable mutations of a session are kept for a repeat (the wire contract)."""


class Session:
    """One hot session."""

    __slots__ = (
        "base", "beat_us", "born", "born_of", "counted", "doc", "facts", "fenced_epoch", "host", "id", "in_store",
        "journaled",
        "known_timeout_s", "maybe_stored", "ops", "owner_counted", "quarantined", "restored", "seen_stamp", "seq",
        "stored_version", "suspected", "version",
    )  # fmt: skip

    def __init__(self, session_id: str, doc: Document, facts: Facts = NO_FACTS) -> None:
        self.id = session_id
        self.doc = doc
        self.version = 0
        self.facts = facts
        self.ops: dict[str, bytes] = {}
        """Results of repeatable mutations by their `op`, oldest first. Replaced, never changed."""
        self.host: str | None = None
        """None: ours. Another host's id: theirs. Empty: nobody's, such as one that the Go package wrote."""
        self.base: MergeBase | None = None
        """While the store may have changes that are not in here: what both come from. Replaced, never changed."""
        self.journaled = False
        """The journal has it whole, so that a change may be told as a difference."""
        self.fenced_epoch = -1
        """The epoch in which a caller was last refused as fenced: the first of an epoch is an event."""
        self.known_timeout_s: float | None = None
        """The timeout before, while the owner has not been told that another caller has changed it."""
        self.beat_us = doc.updated_us
        """The last sign of life, wall clock."""
        self.restored = False
        """From the journal, and no sign of life since."""
        self.suspected = ""
        """Why it is a suspect; empty while it is none."""
        self.born = 0.0
        self.born_of = ""
        """When the call began, seconds of the clock that deadlines go by, as reckoned from this `created_at`."""
        self.stored_version = 0
        """The last version that the store is known to have."""
        self.in_store: InStore | None = None
        """What the store has, as far as a patch of it can be made; None: the next write is the whole document."""
        self.seen_stamp = b""
        """The stamp of other software's document that was taken into account, until the store has ours."""
        self.maybe_stored = False
        """The store may have a state of it that `stored_version` does not tell of."""
        self.quarantined = ""
        """Why the store does not take it; empty while it does."""
        self.counted: str | None = None
        """The status that the index has it under; None while it is not hot."""
        self.owner_counted = ""
        """The owner that the index has it under; empty for an orphan, and while it is not hot."""
        self.seq = 0
        """Raised from session to session as they become hot: what a listing goes by."""

    # -- reading ------------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether its status is `ended`."""
        return self.doc.status == "ended"

    @property
    def state(self) -> str:
        """What other hosts are told of its life (`StoredMeta.state`)."""
        if self.ended:
            return ENDED
        if self.suspected:
            return SUSPECT
        return ORPHAN if self.facts.orphan else LIVE

    @property
    def awaited_s(self) -> float | None:
        """Silence after which it is suspected: not before its owner could know that it shall be."""
        timeout_s, known_s = self.facts.heartbeat_timeout_s, self.known_timeout_s
        return timeout_s if timeout_s is None or known_s is None else max(timeout_s, known_s)

    @property
    def updated_us(self) -> int:
        """The later of the document's last change and the last beat; of an ended one, its last change."""
        return self.doc.updated_us if self.ended else max(self.doc.updated_us, self.beat_us)

    @property
    def unverified(self) -> bool:
        """Whether it was saved while the store could not be asked, and has not been compared with it since."""
        return self.base is not None and self.base.version == 0

    @property
    def journaled_base(self) -> MergeBase | None:
        """The merge base where the journal has to know it: a replay makes one of the session itself, where nothing
        was changed since."""
        return None if self.base is None or self.version == self.base.version else self.base

    def is_epoch(self, epoch: int) -> bool:
        """Whether this is its epoch, or the one that its owner was given before a merge raised it."""
        return epoch == self.facts.epoch or self.facts.raised == (self.facts.epoch, epoch)

    # -- changing -----------------------------------------------------------------------------------------

    def change_facts(self, **changes: Any) -> None:
        """Put other values of some facts (members of Facts, by name) in place."""
        self.facts = structs.replace(self.facts, **changes)

    def next_version(self, now_us: int) -> int:
        """Raise the version: always up, and of the wall clock where that is up."""
        self.version = max(self.version + 1, now_us)
        return self.version

    def rise_above(self, version: int, epoch: int, now_us: int) -> None:
        """Be newer than this in the store; the holder goes on with the epoch that it was given."""
        before = self.facts.epoch
        if epoch >= before:
            self.change_facts(epoch=epoch + 1, raised=(epoch + 1, before))
        self.version = max(self.version, version)
        self.next_version(now_us)

    def keep_op(self, op: str | None, result: bytes) -> list[OpResult]:
        """Remember a repeatable mutation's result; gives what the journal must hear of it."""
        if op is None:
            return []
        ops = self.ops.copy()  # a mark has the old one
        if len(ops) >= KEPT_OPS:
            del ops[next(iter(ops))]
        ops[op] = result
        self.ops = ops
        return [OpResult(op, result)]

    def based_on_this(self) -> MergeBase:
        """A merge base of how it is now."""
        doc, facts = self.doc, self.facts
        return MergeBase(
            version=self.version, epoch=facts.epoch, owner=facts.owner, status=doc.status, labels=facts.labels,
            heartbeat_timeout_s=facts.heartbeat_timeout_s, max_duration_s=facts.max_duration_s, fields=doc.fields,
            metrics=doc.metrics, turns=doc.turn_count,
        )  # fmt: skip

    # -- undo ---------------------------------------------------------------------------------------------

    def mark(self) -> tuple[Any, ...]:
        """What `restore` needs to come back to now."""
        return (
            self.version, self.facts, self.ops, self.host, self.base, self.journaled, self.fenced_epoch,
            self.known_timeout_s, self.doc.mark(),
        )  # fmt: skip

    def restore(self, mark: tuple[Any, ...]) -> None:
        """Undo everything since the mark."""
        (
            self.version, self.facts, self.ops, self.host, self.base, self.journaled, self.fenced_epoch,
            self.known_timeout_s, doc,
        ) = mark  # fmt: skip
        self.doc.restore(doc)

    # -- the journal's form -------------------------------------------------------------------------------

    def record(self, mode: HistoryMode, turns: bytes, count: int, ops: list[OpResult]) -> StateRecord:
        """The journal's record of this session's head, with this change of its history."""
        doc = self.doc
        return StateRecord(
            session_id=self.id, version=self.version, updated_us=doc.updated_us, beat_us=self.beat_us,
            status=doc.status, fields=doc.fields, provider=doc.provider, call_id=doc.call_id, metrics=doc.metrics,
            mode=mode, turns=turns, count=count, facts=self.facts, maybe_stored=self.maybe_stored, ops=ops,
            base=self.journaled_base,
        )  # fmt: skip

    def snapshot(self) -> StateRecord:
        """The whole session as one record."""
        doc = self.doc
        return self.record(
            HistoryMode.REPLACE, b",".join(doc.chunks), doc.turn_count, list(starmap(OpResult, self.ops.items()))
        )

    @classmethod
    def of_record(cls, record: StateRecord, before: Session | None) -> Session:
        """The session after a record, built on what the log said of it so far."""
        head = Head(
            record.session_id,
            record.fields,
            record.provider,
            record.call_id,
            record.status,
            record.metrics,
            None,
        )
        if before is None:
            session = cls(record.session_id, Document(head, record.updated_us))
        else:
            session = before
            session.doc.take_head(head, record.updated_us)
        session.apply_turns(record.mode, record.turns, record.count, record.ops)
        session.version, session.facts, session.base = record.version, record.facts, record.base
        session.maybe_stored = record.maybe_stored
        session.journaled = True
        session.beat_us = max(session.beat_us, record.beat_us)
        return session

    def apply_turns(self, mode: int, turns: bytes, count: int, ops: list[OpResult], index: int = -1) -> None:
        """What a record says of history and ops."""
        if mode == HistoryMode.REPLACE:
            self.doc.replace_history(turns, count)
        elif mode == HistoryMode.APPEND:
            self.doc.append(turns, count)
        elif mode == HistoryMode.AMEND:
            self.doc.replace_turn(self.doc.find_turn(index), turns)
        for done in ops:
            self.keep_op(done.op, done.result)

    # -- the store's form ---------------------------------------------------------------------------------

    def write(self, host_id: str) -> Write:
        """The session as the store is to have it: a patch where the store's document can be changed in place."""
        doc, known, document = self.doc, self.in_store, b""
        patch = None if known is None else self._patch(known, host_id)
        if known is None or patch is None:
            document, room = doc.for_store()
            length = len(document)
        else:
            room, length = known.room, patch.new_length
        meta = _meta(self.facts, self.ops, self.version, host_id, self.state)
        return Write(
            self.id, document, meta, active=not self.ended, beat_ms=self.beat_us // 1000,
            seen=None if self.base is None else self.base.version, call_id=doc.call_id, patch=patch,
            is_new=self.version != self.stored_version,
            result=InStore(
                version=self.version, room=room, length=length, fields=doc.fields, lineage=doc.lineage,
                history_bytes=doc.history_bytes, facts=self.facts, ops=self.ops, call_id=doc.call_id,
                ended=self.ended, state=self.state,
            ),
            seen_stamp=self.seen_stamp,
        )  # fmt: skip

    def _patch(self, known: InStore, host_id: str) -> Patch | None:
        """What changes in the store's document; None where it has to be written whole."""
        if self.base is not None or known.ended or self.ended or known.call_id != self.doc.call_id:
            return None
        changes = self.doc.changes_since(known)
        base = _meta(known.facts, known.ops, known.version, host_id, known.state)
        return None if changes is None else Patch(base, known.length, changes)

    @classmethod
    def of_stored(cls, session_id: str, stored: StoredSession, host_id: str) -> Session | None:
        """The session a store has; None where that is a tombstone.

        Raises:
            UnreadableError: the document is none, or another session's.
        """
        if stored.document is None:
            return None
        try:
            parts = documents.read_stored(stored.document, session_id)
        except DocumentError as error:
            raise UnreadableError(str(error), version=_seen_version(stored)) from error
        head = head_of(parts)
        session = cls(session_id, Document(head, head.updated_us))
        session.doc.updated_text = parts.head.updated_at, head.updated_us
        session.doc.replace_history(parts.history, parts.turn_count)
        session.beat_us = max(session.doc.updated_us, min(stored.beat_ms * 1000, MAX_US))
        session._take_meta(stored.meta, host_id)
        if stored.foreign_stamp and session.facts.ended_us and not session.ended:
            # other software wrote back what it had read before the end: that does not revive the call
            session.doc.status = "ended"
        return session

    @classmethod
    def unreadable(cls, session_id: str, stored: StoredSession, host_id: str) -> Session:
        """What stands for a session whose document can't be read, while it is replaced or deleted: what is kept
        beside the document, and an empty one."""
        session = cls(session_id, Document(head_of(documents.read(b'{"id":""}')), 0))
        session._take_meta(stored.meta, host_id)
        session.version = session.stored_version = _seen_version(stored)
        session.change_facts(**NOT_ENDED)
        return session

    def _take_meta(self, meta: StoredMeta | None, host_id: str) -> None:
        """What is kept beside the document."""
        if meta is None:  # another program wrote it, such as the Go package
            self.host = ""
            # never 0, which says that there is none; and another one when they write again
            self.version = self.stored_version = max(1, self.doc.updated_us)
            return
        self.host = None if meta.host == host_id else meta.host
        self.version = self.stored_version = meta.version
        self.ops = {**meta.ops}
        self.facts = Facts(
            epoch=meta.epoch, owner=meta.owner, labels=meta.labels, heartbeat_timeout_s=meta.heartbeat_timeout_s,
            max_duration_s=meta.max_duration_s, ended_reason=meta.ended_reason, ended_detail=meta.ended_detail,
            ended_us=parse_us(meta.ended_at) if is_time(meta.ended_at) else 0, reaped=meta.reaped,
            orphan=meta.orphan,
        )  # fmt: skip
        self.suspected = SILENT if meta.state == SUSPECT else ""


def _meta(facts: Facts, ops: Mapping[str, bytes], version: int, host_id: str, state: str) -> StoredMeta:
    return StoredMeta(
        host=host_id, epoch=facts.epoch, version=version, owner=facts.owner, ended_reason=facts.ended_reason,
        ended_at=format_us(facts.ended_us) if facts.ended_us else "", ended_detail=facts.ended_detail,
        labels=facts.labels, reaped=facts.reaped, heartbeat_timeout_s=facts.heartbeat_timeout_s,
        max_duration_s=facts.max_duration_s, ops=ops, state=state,
        orphan=facts.orphan if state in (ORPHAN, SUSPECT) else "",
    )  # fmt: skip


class FoundUnreadableError(Exception):
    """What a read of the store found: a document that can't be read.

    Args:
        error: what a request for it is answered with.
        session: what stands for it.
    """

    def __init__(self, error: UnreadableError, session: Session) -> None:
        super().__init__(error.message)
        self.error = error
        self.session = session


def _seen_version(stored: StoredSession) -> int:
    """What names a document that can't be read: its meta's version; without meta what its bytes hash to, so that
    another document has another. Never 0, which says that there is none."""
    if stored.meta is not None:
        return max(1, stored.meta.version)
    digest = hashlib.blake2b(stored.document or b"", digest_size=6).digest()  # below any version by the clock
    return max(1, int.from_bytes(digest))
