"""One hot session: its document, what is known beside it, and its two other forms (journal record, store write)."""

from __future__ import annotations

import hashlib
from itertools import starmap
from typing import Any, Final

from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import Head, head_of
from callstate_client.engine.sessions.records import (
    HistoryMode,
    MergeBase,
    OpResult,
    StateRecord,
)
from callstate_client.engine.sessions.stored import (
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
    """One hot session.

    `beat_us` is the last sign of life, wall clock; `stored_version` what the store is known to have;
    `reaped` tells an end by the reaper from one by a worker; `unverified` that the store may have more of it than
    `stored_version` says; `quarantined` why the store does not take it. `base` is there while the store may have
    what is not in here: what that has to be compared with (replaced, never changed). `raised` are the epoch that a
    merge raised it to, and the one before, which its owner was given and still goes by.
    """

    __slots__ = (
        "base", "beat_us", "born", "born_of", "claimed_us", "counted", "crashes", "doc", "ended_detail",
        "ended_reason", "ended_us", "epoch", "fenced_epoch", "handovers", "heartbeat_timeout_s", "host", "id",
        "instance", "journaled", "known_timeout_s", "labels", "max_duration_s", "ops", "orphan", "owner",
        "owner_counted", "quarantined", "raised", "reaped", "restored", "seq", "status_before",
        "stored_version", "suspected", "unverified", "version",
    )  # fmt: skip

    def __init__(self, session_id: str, doc: Document) -> None:
        self.id = session_id
        self.doc = doc
        self.version = self.epoch = self.ended_us = 0
        self.host: str | None = None
        """None: ours. Another host's id: theirs. Empty: nobody's, such as one that the Go package wrote."""
        self.owner = ""
        """The worker that holds it."""
        self.instance = ""
        """Which store of that worker: only it keeps the epoch. Empty where it did not say."""
        self.claimed_us = 0
        """When it was claimed by who holds it; 0 for who created it, and once that hold has been counted."""
        self.handovers = 0
        """How often in a row it was claimed and not held for a minute; see commands/handovers.py."""
        self.crashes = 0
        """How many of those claimers died."""
        self.orphan = ""
        """Why it has no owner any more; empty for one that has, or never had one."""
        self.suspected = ""
        """Why it is taken for dead at the moment; empty while it is not."""
        self.restored = False
        """From the journal, and no sign of life since."""
        self.fenced_epoch = -1
        """The epoch in which somebody was told to be fenced off: once is enough for an event."""
        self.labels: dict[str, str] = {}
        self.heartbeat_timeout_s: float | None = None
        self.known_timeout_s: float | None = None
        """The one before, while its owner has not been told that somebody else has changed it."""
        self.max_duration_s: float | None = None
        self.beat_us = doc.updated_us
        self.born = 0.0
        self.born_of = ""
        """When the call began, seconds of the clock that deadlines go by, as reckoned from this `created_at`."""
        self.ended_reason = ""
        self.ended_detail = ""
        """What the worker said beside the reason, as JSON."""
        self.reaped = False
        self.status_before = ""
        """What a reaped session's status was: it gets it back when somebody claims it in time."""
        self.unverified = False
        self.base: MergeBase | None = None
        self.raised = (-1, -1)
        self.ops: dict[str, bytes] = {}
        """Results of repeatable mutations by their `op`, oldest first. Replaced, never changed."""
        self.stored_version, self.quarantined, self.journaled = 0, "", False
        self.counted: str | None = None
        """The status it is counted under."""
        self.owner_counted = ""
        """The owner it is counted under; empty for an orphan, and while it is not hot."""
        self.seq = 0
        """Raised from session to session as they become hot: what a listing goes by."""

    @property
    def ended(self) -> bool:
        """Whether its status is `ended`."""
        return self.doc.status == "ended"

    @property
    def awaited_s(self) -> float | None:
        """After how much silence it is suspected: not before its owner could know that it shall be."""
        timeout_s, known_s = self.heartbeat_timeout_s, self.known_timeout_s
        return timeout_s if timeout_s is None or known_s is None else max(timeout_s, known_s)

    @property
    def updated_us(self) -> int:
        """The later of the document's last change and the last beat; of an ended one, its last change."""
        return self.doc.updated_us if self.ended else max(self.doc.updated_us, self.beat_us)

    @property
    def is_blind(self) -> bool:
        """Whether it was saved while the store could not be asked, and that has not been mended yet."""
        return self.base is not None and self.base.version == 0

    @property
    def journaled_base(self) -> MergeBase | None:
        """The merge base where the journal has to know it: a replay takes one that nothing was built upon from the
        session itself."""
        return None if self.base is None or self.version == self.base.version else self.base

    def based_on_this(self) -> MergeBase:
        """A merge base of how it is now."""
        doc = self.doc
        return MergeBase(
            self.version, self.epoch, self.owner, doc.status, self.labels, self.heartbeat_timeout_s,
            self.max_duration_s, doc.fields, doc.metrics, doc.turn_count,
        )  # fmt: skip

    def rise_above(self, version: int, epoch: int, now_us: int) -> None:
        """Be newer than this in the store; whoever holds the session goes on with the epoch that it was given."""
        if epoch >= self.epoch:
            self.raised = (epoch + 1, self.epoch)
            self.epoch = epoch + 1
        self.version = max(self.version, version)
        self.next_version(now_us)

    def is_epoch(self, epoch: int) -> bool:
        """Whether this is its epoch, or the one that its owner was given before a merge raised it."""
        return epoch == self.epoch or self.raised == (self.epoch, epoch)

    def next_version(self, now_us: int) -> int:
        """Raise the version: always up, and of the wall clock where that is up."""
        self.version = max(self.version + 1, now_us)
        return self.version

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

    # -- undo ---------------------------------------------------------------------------------------------

    def mark(self) -> tuple[Any, ...]:
        """What `restore` needs to come back to now."""
        doc = self.doc
        return (
            self.version, self.epoch, self.owner, self.labels, self.heartbeat_timeout_s,
            self.max_duration_s, self.ended_reason, self.ended_detail, self.ended_us, self.reaped,
            self.ops, self.host, self.journaled, self.orphan, self.status_before, self.fenced_epoch,
            self.instance, self.claimed_us, self.handovers, self.crashes, self.base, self.raised,
            doc.fields, doc.provider, doc.call_id, doc.status, doc.metrics, doc.updated_us,
            doc.chunks, len(doc.chunks), doc.turn_count, doc.history_bytes,
        )  # fmt: skip

    def restore(self, mark: tuple[Any, ...]) -> None:
        """Undo everything since the mark. Beats stay: they happened; so does what is known of the store."""
        doc = self.doc
        (
            self.version, self.epoch, self.owner, self.labels, self.heartbeat_timeout_s,
            self.max_duration_s, self.ended_reason, self.ended_detail, self.ended_us, self.reaped,
            self.ops, self.host, self.journaled, self.orphan, self.status_before, self.fenced_epoch,
            self.instance, self.claimed_us, self.handovers, self.crashes, self.base, self.raised,
            doc.fields, doc.provider, doc.call_id, doc.status, doc.metrics, doc.updated_us,
            doc.chunks, length, doc.turn_count, doc.history_bytes,
        ) = mark  # fmt: skip
        del doc.chunks[length:]

    # -- the journal's form -------------------------------------------------------------------------------

    def record(self, mode: HistoryMode, turns: bytes, count: int, ops: list[OpResult]) -> StateRecord:
        """The journal's record of this session's head, with this change of its history."""
        doc = self.doc
        return StateRecord(
            self.id, self.version, self.epoch, doc.updated_us, self.beat_us, doc.status, doc.fields, doc.provider,
            doc.call_id, doc.metrics, mode, turns, count, self.owner, self.labels, self.heartbeat_timeout_s,
            self.max_duration_s, self.ended_reason, self.ended_detail, self.ended_us, self.reaped,
            self.unverified, ops, self.orphan, self.status_before,
            self.claimed_us, self.handovers, self.crashes, self.journaled_base, self.raised, self.instance,
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
        session.version, session.epoch, session.owner, session.labels = (
            record.version,
            record.epoch,
            record.owner,
            record.labels,
        )
        session.heartbeat_timeout_s, session.max_duration_s = record.heartbeat_timeout_s, record.max_duration_s
        session.ended_reason, session.ended_detail = record.ended_reason, record.ended_detail
        session.ended_us, session.reaped = record.ended_us, record.reaped
        session.orphan, session.status_before, session.instance = (
            record.orphan,
            record.status_before,
            record.instance,
        )
        session.claimed_us, session.handovers, session.crashes = record.claimed_us, record.handovers, record.crashes
        session.unverified, session.base, session.raised = record.unverified, record.base, record.raised
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
        """The session as the store shall have it."""
        meta = StoredMeta(
            host=host_id, epoch=self.epoch, version=self.version, owner=self.owner, ended_reason=self.ended_reason,
            ended_at=format_us(self.ended_us) if self.ended_us else "", ended_detail=self.ended_detail,
            labels=self.labels, reaped=self.reaped,
            heartbeat_timeout_s=self.heartbeat_timeout_s, max_duration_s=self.max_duration_s, ops=self.ops,
        )  # fmt: skip
        document = self.doc.to_json(self.doc.updated_us)
        seen = None if self.base is None else self.base.version
        return Write(
            self.id, document, meta, active=not self.ended, beat_ms=self.beat_us // 1000, seen=seen,
            call_id=self.doc.call_id,
        )  # fmt: skip

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
        return session

    @classmethod
    def unreadable(cls, session_id: str, stored: StoredSession, host_id: str) -> Session:
        """What stands for a session whose document can't be read, while it is replaced or deleted: what is kept
        beside the document, and an empty one."""
        session = cls(session_id, Document(head_of(documents.read(b'{"id":""}')), 0))
        session._take_meta(stored.meta, host_id)
        session.version = session.stored_version = _seen_version(stored)
        session.reaped, session.ended_reason, session.ended_detail, session.ended_us = False, "", "", 0
        return session

    def _take_meta(self, meta: StoredMeta | None, host_id: str) -> None:
        """What is kept beside the document."""
        if meta is None:  # somebody else wrote it, such as the Go package
            self.host = ""
            # never 0, which says that there is none; and another one when they write again
            self.version = self.stored_version = max(1, self.doc.updated_us)
            return
        self.host = None if meta.host == host_id else meta.host
        self.version, self.epoch, self.owner, self.labels = (
            meta.version,
            meta.epoch,
            meta.owner,
            meta.labels,
        )
        self.heartbeat_timeout_s, self.max_duration_s = meta.heartbeat_timeout_s, meta.max_duration_s
        self.ended_reason, self.ended_detail, self.reaped = (
            meta.ended_reason,
            meta.ended_detail,
            meta.reaped,
        )
        self.ended_us = parse_us(meta.ended_at) if is_time(meta.ended_at) else 0
        self.stored_version = meta.version
        self.ops = {**meta.ops}


class FoundUnreadableError(Exception):
    """What a read of the store found: a document that can't be read.

    Args:
        error: for whoever asks for it.
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
