"""One hot session: its document, the facts kept beside it, and its form for the journal.

A rollback (see transaction.py) treats the four kinds of state in a session differently:

    doc, version, facts, ops, host, base,      made by changes: `mark` and `restore` undo it
    base_derived, journaled, fenced_epoch,
    known_timeout_s, seen_stamp
    beat_us, restored, suspected, born         observed: it stays, except what the transaction saved
    stored_version, in_store, maybe_stored,    known about the store: it stays
    quarantined
    written                                    known about the journal: it stays
    counted, owner_counted, uid_counted,       its entries in the indexes: updated to match
    seq, weighed, queue

`facts`, `base`, `ops` and the parts of the document are replaced and never changed in place, so a mark is a tuple
of references.
"""

from __future__ import annotations

from itertools import starmap
from typing import Any, Final

from msgspec import structs

from callstate_client.engine.evidence_queue import Queue
from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.facts import NO_FACTS, Facts
from callstate_client.engine.sessions.head import Head
from callstate_client.engine.sessions.layout import InStore
from callstate_client.engine.sessions.ops import KEPT_OPS, op_weight
from callstate_client.engine.sessions.records import HistoryMode, MergeBase, OpResult, StateRecord
from callstate_client.engine.sessions.stored import ENDED, LIVE, ORPHAN, SUSPECT
from callstate_client.engine.sessions.turn_search import find_turn
from callstate_client.engine.sessions.written_parts import WrittenParts

_REPLACE, _APPEND, _AMEND = HistoryMode.REPLACE, HistoryMode.APPEND, HistoryMode.AMEND
"""Looked up once: a member of an enum takes several times as long as a global name."""


NEVER_FENCED: Final = -1
"""In place of the epoch in which a caller was fenced."""


class Session:
    """One hot session."""

    __slots__ = (
        "base", "base_derived", "beat_us", "born", "born_of", "counted", "doc", "facts", "facts_bytes",
        "fenced_epoch", "host", "id", "in_store", "journaled", "known_timeout_s", "maybe_stored", "ops",
        "ops_bytes", "owner_counted", "quarantined", "queue", "restored", "seen_stamp", "seq", "stored_version",
        "suspected", "uid_counted", "version", "weighed", "weighed_facts", "weighed_ops", "written",
    )  # fmt: skip

    def __init__(self, session_id: str, doc: Document, facts: Facts = NO_FACTS) -> None:
        self.id = session_id
        self.doc = doc
        self.version = 0
        self.facts = facts
        self.ops: dict[str, bytes] = {}
        """Results of repeatable mutations by `op`, oldest first. Replaced, never changed in place."""
        self.host: str | None = None
        """The host it belongs to. None: this one. Empty: none, for example after a write by the Go package."""
        self.base: MergeBase | None = None
        """The common ancestor, while the store may have changes that are missing here. Replaced, never changed."""
        self.journaled = self.base_derived = False
        """The journal has the whole session, so that a change can be journaled as a difference; but not its merge
        base, which a replay derives from the session as long as nothing has changed."""
        self.fenced_epoch = NEVER_FENCED
        """The epoch in which a caller was last fenced: only the first refusal of an epoch is an event."""
        self.known_timeout_s: float | None = None
        """The previous timeout, until the owner learns that another caller has changed it."""
        self.beat_us = doc.updated_us
        """The last sign of life, wall clock."""
        self.restored = False
        """Replayed from the journal, without a sign of life since."""
        self.suspected = ""
        """Why it is a suspect; empty if it is not."""
        self.born = 0.0
        self.born_of = ""
        """When the call began, in seconds of the clock used for deadlines, computed from this `created_at`."""
        self.stored_version = 0
        """The last version known to be in the store."""
        self.in_store: InStore | None = None
        """What the store has, as far as a patch of it can be made; None: the next write is the whole document."""
        self.seen_stamp = b""
        """The stamp of other software's document that was taken into account, until the store has ours."""
        self.maybe_stored = False
        """The store may have a state that `stored_version` does not cover."""
        self.quarantined = ""
        """Why the store refuses it; empty if it does not."""
        self.counted: str | None = None
        """The status under which it is indexed; None while it is not hot."""
        self.owner_counted = ""
        """The owner under which it is indexed; empty for an orphan, and while it is not hot."""
        self.uid_counted: int | None = None
        """The creator's uid under which it is counted; None while it is not hot."""
        self.queue: Queue[Session] | None = None
        """The queue that has its deadline; None: it is not watched."""
        self.seq = self.weighed = 0
        """Sequence number, assigned when it becomes hot: the order of listings; and the bytes that the table counts
        for it, 0 while it is not hot."""
        self.weighed_facts, self.facts_bytes, self.weighed_ops, self.ops_bytes = NO_FACTS, 0, self.ops, 0
        """The facts and the kept results last weighed, and their bytes."""
        self.written: WrittenParts | None = None
        """What is in the journal already of a history with which the session is about to be journaled."""

    # -- reading ------------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether its status is `ended`."""
        return self.doc.status == "ended"

    @property
    def state(self) -> str:
        """Its liveness as other hosts see it (`StoredMeta.state`)."""
        if self.ended:
            return ENDED
        if self.suspected:
            return SUSPECT
        return ORPHAN if self.facts.orphan else LIVE

    @property
    def awaited_s(self) -> float | None:
        """Silence after which it is suspected: while its owner has not learned of a shorter timeout, the longer."""
        timeout_s, known_s = self.facts.heartbeat_timeout_s, self.known_timeout_s
        return timeout_s if timeout_s is None or known_s is None else max(timeout_s, known_s)

    @property
    def updated_us(self) -> int:
        """The later of the document's last change and the last heartbeat; once it has ended, its last change."""
        return self.doc.updated_us if self.ended else max(self.doc.updated_us, self.beat_us)

    @property
    def ended_us(self) -> int:
        """When it ended; if other software ended it, which does not note that: when it was changed last."""
        return self.facts.ended_us or self.doc.updated_us

    @property
    def unverified(self) -> bool:
        """Whether it was created while the store was unreachable, and has not been compared with it since."""
        return self.base is not None and self.base.version == 0

    @property
    def journaled_base(self) -> MergeBase | None:
        """The merge base if it has to be journaled: a replay derives it from the session if nothing has changed
        since."""
        return None if self.base is None or self.version == self.base.version else self.base

    def is_epoch(self, epoch: int) -> bool:
        """Whether this is its epoch, or the one that its owner still uses after a merge raised it."""
        return epoch == self.facts.epoch or self.facts.raised == (self.facts.epoch, epoch)

    # -- changing -----------------------------------------------------------------------------------------

    def change_facts(self, **changes: Any) -> None:
        """Replace some facts (members of Facts, by name)."""
        self.facts = structs.replace(self.facts, **changes)

    def next_version(self, now_us: int) -> int:
        """Raise the version to the wall clock's time, or by one if that would not raise it."""
        self.version = max(self.version + 1, now_us)
        return self.version

    def rise_above(self, version: int, epoch: int, now_us: int) -> None:
        """Exceed this version and epoch of the store; the owner's epoch stays valid."""
        before = self.facts.epoch
        if epoch >= before:
            self.change_facts(epoch=epoch + 1, raised=(epoch + 1, before))
        self.version = max(self.version, version)
        self.next_version(now_us)

    def keep_op(self, op: str | None, result: bytes) -> list[OpResult]:
        """Keep the result of a repeatable mutation; returns what has to be journaled."""
        if op is None:
            return []
        size = self.ops_bytes if self.weighed_ops is self.ops else -1
        ops = self.ops.copy()  # a mark refers to the old one
        if len(ops) >= KEPT_OPS:
            oldest = next(iter(ops))
            size -= op_weight(oldest, ops.pop(oldest))
        if size >= 0 and op not in ops:  # else they are weighed anew
            self.weighed_ops, self.ops_bytes = ops, size + op_weight(op, result)
        ops[op] = result
        self.ops = ops
        return [OpResult(op, result)]

    def based_on_this(self) -> MergeBase:
        """A merge base of its present state."""
        doc, facts = self.doc, self.facts
        return MergeBase(
            version=self.version, epoch=facts.epoch, owner=facts.owner, status=doc.status, labels=facts.labels,
            heartbeat_timeout_s=facts.heartbeat_timeout_s, max_duration_s=facts.max_duration_s, fields=doc.fields,
            metrics=doc.metrics, turns=doc.turn_count,
        )  # fmt: skip

    # -- undo ---------------------------------------------------------------------------------------------

    def mark(self) -> tuple[Any, ...]:
        """Save the current state for `restore`."""
        return (
            self.version, self.facts, self.ops, self.host, self.base, self.base_derived, self.journaled,
            self.fenced_epoch, self.known_timeout_s, self.seen_stamp, self.doc.mark(),
        )  # fmt: skip

    def restore(self, mark: tuple[Any, ...]) -> None:
        """Undo everything since the mark."""
        (
            self.version, self.facts, self.ops, self.host, self.base, self.base_derived, self.journaled,
            self.fenced_epoch, self.known_timeout_s, self.seen_stamp, doc,
        ) = mark  # fmt: skip
        self.doc.restore(doc)

    @staticmethod
    def facts_in(mark: tuple[Any, ...]) -> Facts:
        """The facts at the time of a mark."""
        facts: Facts = mark[1]
        return facts

    # -- the journal's form -------------------------------------------------------------------------------

    def record(self, mode: HistoryMode, turns: bytes, count: int, ops: list[OpResult]) -> StateRecord:
        """The journal record of the session's head and of this change to its history."""
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
        """The session after a record, applied to its state from the log so far."""
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
        """Apply a record's history and ops."""
        if mode == _APPEND:
            self.doc.append(turns, count)
        elif mode == _REPLACE:
            self.doc.replace_history(turns, count)
        elif mode == _AMEND:
            self.doc.replace_turn(find_turn(self.doc, index), turns)
        for done in ops:
            self.keep_op(done.op, done.result)
