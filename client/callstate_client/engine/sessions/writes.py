"""What is sent to the store for one session: all of it, or what has changed of what the store has.

Most writes are of a turn, and of those most sessions of a busy host: so a patch is made of what the store has and
what it gets, and everything that follows from the two is computed by the store that wants to know it.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from callstate_client.engine.sessions.layout import InStore
from callstate_client.engine.sessions.stored import ORPHAN, SUSPECT, StoredMeta
from callstate_client.model.times import format_us


class Whole(Struct):
    """A session as it is to be in the store, or its deletion.

    Args:
        document: the whole document; None deletes it.
        active: whether the session has not ended.
        beat_ms: last heartbeat, milliseconds since 1970; 0 for none.
        seen: write only if the store has nothing of this host above this version; 0: nothing at all; None: do not
            check.
        call_id: the call id that the session can be found by; empty for none.
        is_new: whether it has changes that the store was never known to have; else it is written again.
        result: what the session is known to be in the store once this is written; None for a deletion.
        seen_stamp: of the document of other software that this takes into account; empty for none.
    """

    session_id: str
    document: bytes | None
    meta: StoredMeta
    active: bool
    beat_ms: int = 0
    seen: int | None = None
    call_id: str = ""
    is_new: bool = True
    result: InStore | None = None
    seen_stamp: bytes = b""

    @property
    def version(self) -> int:
        """The version that the store has then."""
        return self.meta.version

    @property
    def size(self) -> int:
        """About how many bytes of documents are sent."""
        return len(self.document or b"")


class Patch(Struct, frozen=True):
    """A change in place of a live session that the store has; see layout.py.

    Args:
        host: which must have it in the store.
        version: the version that the store has then.
        base: what the store must have; it checks version and epoch.
        result: what it has then.
        offset: where `head` belongs, bytes from the document's beginning.
        head: the end of the head, with its padding.
        end: where the closing brackets are, bytes from the document's beginning.
        turns: what is written over them, and ends with such brackets again; empty for no new turns.
        size: length of `head` and `turns` together, bytes.
        beat_ms: last heartbeat, milliseconds since 1970; 0 for none.
    """

    session_id: str
    host: str
    version: int
    base: InStore
    result: InStore
    offset: int
    head: bytes
    end: int
    turns: bytes
    size: int
    beat_ms: int = 0

    @property
    def meta(self) -> StoredMeta:
        """All that the store has beside the document then."""
        return meta_of(self.result, self.host)

    def apply(self, document: bytes) -> bytes:
        """The document with the changes made."""
        changed = bytearray(document)
        changed[self.offset : self.offset + len(self.head)] = self.head
        if self.turns:
            changed[self.end :] = self.turns
        return bytes(changed)


Write: TypeAlias = Whole | Patch


def is_deletion(write: Write) -> bool:
    """Whether the session is to be deleted from the store."""
    return isinstance(write, Whole) and write.document is None


def meta_of(known: InStore, host: str) -> StoredMeta:
    """What the store keeps beside the document of a session that it has like this."""
    facts, state = known.facts, known.state
    return StoredMeta(
        host=host, epoch=facts.epoch, version=known.version, owner=facts.owner, ended_reason=facts.ended_reason,
        ended_at=format_us(facts.ended_us) if facts.ended_us else "", ended_detail=facts.ended_detail,
        labels=facts.labels, reaped=facts.reaped, heartbeat_timeout_s=facts.heartbeat_timeout_s,
        max_duration_s=facts.max_duration_s, ops=known.ops, state=state,
        status_before=facts.status_before if facts.reaped else "",
        orphan=facts.orphan if state in (ORPHAN, SUSPECT) else "", uid=facts.uid, gid=facts.gid,
    )  # fmt: skip
