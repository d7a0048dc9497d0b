"""Fenced writes of the daemon to the SQLite file: whole documents, patches, and deletions."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from callstate_client.engine.sessions.stored import StoredMeta
from callstate_client.engine.sessions.stored_meta import is_readable
from callstate_client.engine.sessions.writes import Patch, Whole, Write
from callstate_sidecar.stores.backend import WriteOutcome, WriteResult
from callstate_sidecar.stores.encoding import ops_text
from callstate_sidecar.stores.fencing import Stamp, superseded_by, takes, unseen
from callstate_sidecar.stores.sqlite.database import ROW_ERRORS, purge
from callstate_sidecar.stores.sqlite.documents import (
    Changed,
    drop_document,
    patch_document,
    put_document,
    set_aside,
)
from callstate_sidecar.stores.sqlite.transactions import savepoint, transaction

META: Final = StoredMeta.__struct_fields__
"""Each field of meta has a column of the same name."""

_RENEWED_BELOW: Final = 0.75
"""The TTL of a live session is renewed when less than this share of it is left."""

_COLUMNS: Final = ("id", "active", "beat_ms", "expires_ms", "call_id", *META)

# S608 suspects every composed statement; these are composed of constants only.
_WRITE: Final = f"""
    INSERT INTO session ({", ".join(_COLUMNS)}) VALUES ({", ".join(f":{name}" for name in _COLUMNS)})
    ON CONFLICT (id) DO UPDATE SET
        active = excluded.active, expires_ms = excluded.expires_ms, call_id = excluded.call_id,
        beat_ms = iif(excluded.active, max(beat_ms, excluded.beat_ms), 0),
        foreign_stamp = '', head_position = 0, head = NULL,
        {", ".join(f"{name} = excluded.{name}" for name in META)}
"""  # noqa: S608

# no column of an index: SQLite would write the index as well, even where the value is the same
_PATCH: Final = f"""
    UPDATE session SET
        beat_ms = max(beat_ms, :beat_ms), head_position = :head_position, head = :head,
        {", ".join(f"{name} = :{name}" for name in META)}
    WHERE key = :key
"""  # noqa: S608

_HELD: Final = """
    SELECT key, host, epoch, version, document.key IS NOT NULL, deleted, foreign_stamp, expires_ms, head_position,
        head
    FROM session LEFT JOIN document USING (key) WHERE id = ?
"""


class _Held(NamedTuple):
    """What the file has of a session."""

    key: int
    host: str
    epoch: int
    version: int | None
    has_document: bool
    deleted: bool
    foreign_stamp: str
    expires_ms: int
    head_position: int
    head: bytes | None

    @property
    def stamp(self) -> Stamp | None:
        """The daemon's stamp; None if no daemon wrote it, or other software has deleted it."""
        if self.version is None or self.is_gone:
            return None
        return Stamp(self.host, self.epoch, self.version)

    @property
    def is_gone(self) -> bool:
        """Whether other software has deleted it."""
        return not self.has_document and not self.deleted

    @property
    def is_foreign(self) -> bool:
        """Whether other software has changed the document since a daemon wrote it."""
        return self.has_document and bool(self.foreign_stamp)


def is_renewal_due(expires_ms: int, now_ms: int, ttl: int) -> bool:
    """Whether a quarter of a live session's TTL has passed.

    Args:
        expires_ms: when it expires as it is.
        now_ms: the time of the expiry clock.
        ttl: a session's TTL, milliseconds.
    """
    return expires_ms - now_ms < ttl * _RENEWED_BELOW


def write_batch(
    connection: sqlite3.Connection, now_ms: int, batch: Sequence[Write], host_id: str, ttl: int
) -> list[WriteResult]:
    """Write a batch in one transaction; one result each, in order.

    Args:
        connection: to the file.
        now_ms: the time of the expiry clock.
        batch: the writes.
        host_id: the host to write where a session's meta names none.
        ttl: of the sessions, milliseconds.
    """
    results: list[WriteResult] = []
    with transaction(connection):
        purge(connection, now_ms)
        for write in batch:
            try:
                with savepoint(connection):  # SQLite itself rolls back only the statement that fails
                    results.append(_write(connection, write, host_id, now_ms, ttl))
            except ROW_ERRORS as error:
                results.append(WriteResult(WriteOutcome.REJECTED, f"{type(error).__name__}: {error}"))
    return results


def _write(connection: sqlite3.Connection, write: Write, host_id: str, now_ms: int, ttl: int) -> WriteResult:
    meta = write.meta
    new = Stamp(meta.host or host_id, meta.epoch, meta.version)
    connection.execute("DELETE FROM session WHERE id = ? AND expires_ms <= ?", (write.session_id, now_ms))
    row = connection.execute(_HELD, (write.session_id,)).fetchone()
    held = None if row is None else _Held(*row)
    stamp = None if held is None else held.stamp
    if stamp is not None and not is_readable(*stamp):
        stamp = None  # whoever replaces what can't be read has looked at it, or else finds that something is there
    seen = None if isinstance(write, Patch) else write.seen
    if unseen(stamp, new, seen, there=held is not None and not held.is_gone):
        return WriteResult(WriteOutcome.UNSEEN)
    if stamp is not None and not takes(stamp, new):
        return WriteResult(WriteOutcome.SUPERSEDED, superseded_by(stamp))
    if isinstance(write, Patch):
        if held is None or not _is_base(write, held):
            return WriteResult(WriteOutcome.NOT_BASE)
        _patch(connection, held, write, meta)
        if is_renewal_due(held.expires_ms, now_ms, ttl):
            connection.execute("UPDATE session SET expires_ms = ? WHERE key = ?", (now_ms + ttl, held.key))
        return WriteResult(WriteOutcome.WRITTEN)
    foreign = held is not None and held.is_foreign and held.foreign_stamp.encode() != write.seen_stamp
    if foreign and not write.is_new:
        return WriteResult(WriteOutcome.UNSEEN)
    if held is not None and foreign:
        set_aside(connection, held.key)
    _write_whole(connection, held, write, host_id, now_ms + ttl)
    return WriteResult(WriteOutcome.WRITTEN, set_aside=foreign)


def _is_base(patch: Patch, held: _Held) -> bool:
    """Whether the file has what the patch was made for."""
    is_version = (held.host, held.version) == (patch.host, patch.base.version)
    return is_version and held.has_document and not held.foreign_stamp


def _patch(connection: sqlite3.Connection, held: _Held, patch: Patch, meta: StoredMeta) -> None:
    position, head = patch_document(connection, held.key, Changed(held.head_position, held.head), patch)
    columns = _meta(meta, patch.host) | {"key": held.key, "beat_ms": patch.beat_ms}
    connection.execute(_PATCH, columns | {"head_position": position, "head": head})


def _write_whole(
    connection: sqlite3.Connection, held: _Held | None, write: Whole, host_id: str, expires_ms: int
) -> None:
    deleted = write.document is None
    active = write.active and not deleted
    written = connection.execute(
        _WRITE,
        _meta(write.meta, host_id) | {
            "id": write.session_id,
            "active": active,
            "beat_ms": write.beat_ms if active else 0,
            "expires_ms": expires_ms,
            "call_id": write.call_id,
            "deleted": deleted,
        },
    )  # fmt: skip
    key = written.lastrowid if held is None else held.key
    assert key is not None  # noqa: S101 - a row was inserted
    if write.document is None:
        drop_document(connection, key)
    else:
        put_document(connection, key, write.document)


def _meta(meta: StoredMeta, host_id: str) -> dict[str, Any]:
    """The columns of meta."""
    return msgspec.structs.asdict(meta) | {
        "host": meta.host or host_id,
        "labels": msgspec.json.encode(meta.labels).decode(),
        "ops": ops_text(meta.ops).decode(),
    }
