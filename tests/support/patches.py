"""Patches made by hand, for what a backend was given by hand."""

from __future__ import annotations

from msgspec import structs

from callstate_client.engine.sessions.facts import Facts
from callstate_client.engine.sessions.layout import END, HISTORY, InStore
from callstate_client.engine.sessions.stored import StoredMeta
from callstate_client.engine.sessions.writes import Patch


def in_store(meta: StoredMeta, document: bytes) -> InStore:
    """What a daemon knows of a session that the store has like this; a document without history is all head."""
    head, opening, rest = document.partition(HISTORY)
    facts = Facts(
        epoch=meta.epoch, owner=meta.owner, labels=meta.labels, heartbeat_timeout_s=meta.heartbeat_timeout_s,
        max_duration_s=meta.max_duration_s, uid=meta.uid, gid=meta.gid,
    )  # fmt: skip
    history_bytes = len(rest) - len(END) if opening else 0
    return InStore(meta.version, len(head), b"", 0, history_bytes, facts, {**meta.ops}, "", meta.state)


def length_of(known: InStore) -> int:
    """How long its document is, bytes."""
    return known.room + len(HISTORY) + known.history_bytes + len(END)


def a_patch(
    base: StoredMeta, document: bytes, meta: StoredMeta, turns: bytes = b"", *, head: bytes = b"", offset: int = 0
) -> Patch:
    """A patch of `call-1`.

    Args:
        base: the meta that the store is to have.
        document: likewise.
        meta: what it gets.
        turns: appended to the history, with a comma if there are some before; empty for none.
        head: the document from `offset` to the history; empty for all of it as it is.
        offset: where the head is changed from.
    """
    before = in_store(base, document)
    head = head or document[offset : before.room]
    after = structs.replace(in_store(meta, document), history_bytes=before.history_bytes + len(turns))
    end = len(document) - len(END)
    added = turns + END if turns else b""
    return Patch("call-1", base.host, meta.version, before, after, offset, head, end, added, len(head) + len(added))
