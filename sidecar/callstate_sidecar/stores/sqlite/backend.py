"""SqliteBackend: the daemon's interface to a SQLite file. A batch is one transaction."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from callstate_client.engine.sessions.stored import (
    UNREADABLE,
    Query,
    StoredMeta,
    StoreDownError,
    StoredSession,
    StoreError,
    StoreRefusingError,
)
from callstate_client.engine.sessions.stored_meta import UnreadableMetaError, checked_meta
from callstate_client.engine.sessions.writes import Write
from callstate_client.protocol.results import Finding
from callstate_sidecar.stores.backend import (
    DOCUMENT_BYTES,
    TOGETHER_BYTES,
    Deviation,
    Flaw,
    StoredVersion,
    WriteResult,
)
from callstate_sidecar.stores.encoding import parse_labels, parse_ops, plain_beat, ttl_ms
from callstate_sidecar.stores.hosts import HostRegistry
from callstate_sidecar.stores.sqlite.database import Database
from callstate_sidecar.stores.sqlite.documents import Changed, together
from callstate_sidecar.stores.sqlite.erasure import erase
from callstate_sidecar.stores.sqlite.inspection import check_wal, find_ghosts, inspect_file
from callstate_sidecar.stores.sqlite.store import DEFAULT_TIMEOUT_S, ping
from callstate_sidecar.stores.sqlite.transactions import snapshot, transaction
from callstate_sidecar.stores.sqlite.writes import META, is_renewal_due, write_batch
from callstate_sidecar.system.clock import since_boot

IDS_A_PAGE: Final = 1000
"""Ids in one page: the loop takes less than a millisecond to go through them."""

# S608 suspects every composed statement; these are composed of constants only.
_STORED: Final = f"""
    key, CASE WHEN length(body) <= :most THEN body END, length(body),
    head_position, head, foreign_stamp, beat_ms, {", ".join(META)}
"""
_READ: Final = f"""
    SELECT {_STORED} FROM session LEFT JOIN document USING (key) WHERE id = :id AND expires_ms > :now_ms
"""  # noqa: S608
_READ_EACH: Final = f"""
    SELECT id, {_STORED} FROM session LEFT JOIN document USING (key)
    WHERE id IN (SELECT value FROM json_each(:ids)) AND expires_ms > :now_ms
"""  # noqa: S608


class SqliteBackend:
    """Sessions in one SQLite file, as the daemon reads and writes them.

    Args:
        path: the file; created if absent, in an existing directory.
        ttl_s: how long a session stays after its last write, seconds.
        host_id: the host to write where a session's meta names none.
        timeout_s: how long to wait for another process's lock, seconds.
        clock: a steady clock for expiry, seconds; unaffected by changes of the wall clock.
        synced: a write counts only once it is on disk.
        document_bytes: longer documents are not read.

    Raises:
        ValueError: the ttl is not between a millisecond and ten years.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        ttl_s: float,
        host_id: str,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        clock: Callable[[], float] = since_boot,
        synced: bool = False,
        document_bytes: int = DOCUMENT_BYTES,
    ) -> None:
        self._document_bytes = document_bytes
        self.hosts: HostRegistry | None = None
        """None: a file has one host."""
        self._ttl_ms = ttl_ms(ttl_s)
        self._host_id = host_id
        self.synced = synced
        self._database = Database(path, timeout_s=timeout_s, clock=clock, synced=synced)
        self._changing = asyncio.Lock()  # changes wait while the file is written anew, and are not refused

    @property
    def name(self) -> str:
        """`sqlite`."""
        return "sqlite"

    @property
    def away(self) -> str:
        """Nothing: the store is one file."""
        return ""

    @property
    def data_losses(self) -> int:
        """How often the file was found to be removed or replaced."""
        return self._database.replaced

    async def check_for_loss(self) -> None:
        """Check that the file is still in place, and recreate it if not."""
        await self._database.run(ping)

    async def read(self, session_id: str) -> StoredSession | None:
        """Read document, meta and last beat."""
        return await self._database.run(_read, session_id, self._document_bytes)

    async def read_each(self, session_ids: Sequence[str]) -> Sequence[StoredSession | StoreError | None]:
        """Like `read`, by one query."""
        return await self._database.run(_read_each, session_ids)

    async def write(self, batch: Sequence[Write]) -> list[WriteResult]:
        """Write a batch in one transaction, each session by the fencing rule."""
        if not batch:
            return []
        async with self._changing:
            return await self._database.run(write_batch, batch, self._host_id, self._ttl_ms)

    async def check(self, sessions: Sequence[StoredVersion]) -> list[tuple[str, Deviation]]:
        """Compare sessions with the file, and renew TTLs of which a quarter has passed."""
        if not sessions:
            return []
        async with self._changing:  # of the TTLs
            return await self._database.run(_check, sessions, self._host_id, self._ttl_ms)

    async def examine(self, sessions: Sequence[StoredVersion]) -> list[tuple[str, Flaw]]:
        """Nothing: a row has one type and always a TTL, and `check` compares the rest."""
        return []

    async def inspect(self, wall_us: Callable[[], int], *, repair: bool) -> AsyncIterator[Finding]:
        """What is not as it should be with the file."""
        database = self._database
        await database.run(ping)
        try:
            findings = await asyncio.to_thread(inspect_file, database.path, repair=repair)
        except (sqlite3.Error, OSError) as error:
            raise StoreDownError(f"{database.path}: {error}") from error
        for finding in findings:  # before the file is used, which fails if it is damaged
            yield finding
        wal = database.path.with_name(database.path.name + "-wal")
        for finding in await database.run(check_wal, wal, repair=repair):
            yield finding
        for finding in await database.run(find_ghosts, repair=repair):
            yield finding

    async def erase(self, session_id: str, timeout_s: float) -> list[str]:
        """Write the file anew, without what is in no row of it."""
        path = self._database.path
        await self._database.run(ping)
        try:
            async with self._changing:
                await asyncio.to_thread(erase, path, session_id, timeout_s)
        except (sqlite3.Error, OSError) as error:
            raise StoreRefusingError(f"{path}: {error}") from error
        return []

    async def write_beats(self, beats: Mapping[str, int]) -> None:
        """Write last heartbeats of active sessions; an older one never replaces a newer one."""
        if beats:
            async with self._changing:
                await self._database.run(_write_beats, dict(beats))

    async def active_ids(self, cursor: str = "") -> tuple[list[str], str]:
        """A page of the active sessions."""
        return await self._database.run(_active_ids, cursor)

    async def find(self, query: Query, cursor: str, limit: int) -> tuple[list[str], str]:
        """The ids of a page of matching sessions: by an index if the query has a call id, else by scanning the meta
        columns."""
        return await self._database.run(_find, query, cursor, limit)

    async def ping(self) -> None:
        """Read from the file."""
        await self._database.run(ping)

    async def close(self) -> None:
        """Close the file; may be called twice."""
        await self._database.close()


def _read(connection: sqlite3.Connection, now_ms: int, session_id: str, most: int) -> StoredSession | None:
    with snapshot(connection):
        row = connection.execute(_READ, {"id": session_id, "now_ms": now_ms, "most": most}).fetchone()
        return None if row is None else _present(_stored(connection, *row))


def _read_each(
    connection: sqlite3.Connection, now_ms: int, session_ids: Sequence[str]
) -> list[StoredSession | StoreError | None]:
    with snapshot(connection):
        values = {"ids": msgspec.json.encode(session_ids).decode(), "now_ms": now_ms, "most": TOGETHER_BYTES}
        rows = connection.execute(_READ_EACH, values).fetchall()
        found = {session_id: _present(_stored(connection, *row)) for session_id, *row in rows}
    return [found.get(session_id) for session_id in session_ids]


def _present(stored: StoredSession) -> StoredSession | None:
    """None for what other software has deleted."""
    is_gone = stored.document is None and not (stored.meta and stored.meta.deleted)
    return None if is_gone else stored


def _active_ids(connection: sqlite3.Connection, now_ms: int, cursor: str) -> tuple[list[str], str]:
    # keys never change their order, so a session active throughout is returned exactly once
    rows = connection.execute(
        "SELECT key, id FROM session WHERE key > ? AND active = 1 AND expires_ms > ? ORDER BY key LIMIT ?",
        (_key(cursor), now_ms, IDS_A_PAGE),
    ).fetchall()
    return [session_id for _, session_id in rows], str(rows[-1][0]) if len(rows) == IDS_A_PAGE else ""


def _find(
    connection: sqlite3.Connection, now_ms: int, query: Query, cursor: str, limit: int
) -> tuple[list[str], str]:
    conditions, values = _conditions(query)
    statement = f"""
        SELECT id, key FROM session JOIN document USING (key)
        WHERE key > ? AND expires_ms > ? {conditions} ORDER BY key LIMIT ?
    """  # noqa: S608 - the values are bound
    rows = connection.execute(statement, (_key(cursor), now_ms, *values, limit)).fetchall()
    return [session_id for session_id, _ in rows], str(rows[-1][1]) if len(rows) == limit else ""


def _key(cursor: str) -> int:
    """The key after which a page begins; a cursor that we never issued is past the end."""
    return min(int(cursor or 0), 2**63 - 1)


def _conditions(query: Query) -> tuple[str, list[str]]:
    conditions: dict[str, str | None] = {
        "call_id = ?": query.call_id,
        "owner = ?": query.owner,
        "(ended_at >= ? OR (ended_at = '' AND active = 0))": query.ended_since,
    }
    if query.status is not None:
        conditions["active = (? != 'ended')"] = query.status
    given = {condition: value for condition, value in conditions.items() if value is not None}
    text = "".join(f" AND {condition}" for condition in given)
    values = [*given.values()]
    for name, value in query.labels.items():
        text += " AND EXISTS (SELECT 1 FROM json_each(labels) WHERE json_each.key = ? AND json_each.value = ?)"
        values += (name, value)
    return text, values


def _stored(
    connection: sqlite3.Connection, key: int, body: bytes | None, length: int | None, position: int,
    head: bytes | None, foreign: str, beat_ms: int, *values: Any,
) -> StoredSession:  # fmt: skip
    unread_bytes = length if body is None and length is not None else 0
    try:
        document = None if body is None else together(connection, key, body, Changed(position, head))
    except (TypeError, ValueError):  # parts of other types than daemons write
        document = b""
    if unread_bytes:
        document = b""
    beat_ms = plain_beat(beat_ms)
    fields = dict(zip(META, values, strict=True))
    if fields["version"] is None:
        return StoredSession(document, None, beat_ms, unread_bytes=unread_bytes)
    fields["labels"] = parse_labels(fields["labels"])
    fields["ops"] = parse_ops(fields["ops"])
    fields["reaped"] = bool(fields["reaped"])
    deleted = bool(fields["deleted"])
    fields["deleted"] = deleted and document is None
    try:
        meta = checked_meta(StoredMeta(**fields))
    except UnreadableMetaError:
        return UNREADABLE
    tombstone = meta.version if deleted and document is not None else 0
    stamp = str(foreign).encode() if document is not None else b""
    return StoredSession(document, meta, beat_ms, stamp, tombstone, unread_bytes)


def _check(
    connection: sqlite3.Connection, now_ms: int, sessions: Sequence[StoredVersion], host_id: str, ttl: int
) -> list[tuple[str, Deviation]]:
    found: list[tuple[str, Deviation]] = []
    renew: list[tuple[int, str]] = []
    for session in sessions:
        row = connection.execute(
            "SELECT host, version, document.key, foreign_stamp, expires_ms, active"
            " FROM session LEFT JOIN document USING (key) WHERE id = ? AND expires_ms > ?",
            (session.session_id, now_ms),
        ).fetchone()
        if row is None:
            found.append((session.session_id, Deviation.MISSING))
        elif row[:2] != (host_id, session.version):
            found.append((session.session_id, Deviation.OTHER))
        elif row[2] is None:  # who deletes a session takes it from the active ones as well
            found.append((session.session_id, Deviation.MISSING if row[5] else Deviation.DELETED))
        elif row[3]:
            found.append((session.session_id, Deviation.CHANGED))
        elif session.live and is_renewal_due(row[4], now_ms, ttl):
            renew.append((now_ms + ttl, session.session_id))
    if renew:
        with transaction(connection):
            connection.executemany("UPDATE session SET expires_ms = ? WHERE id = ?", renew)
    return found


def _write_beats(connection: sqlite3.Connection, _now_ms: int, beats: Mapping[str, int]) -> None:
    with transaction(connection):
        connection.executemany(
            "UPDATE session SET beat_ms = max(beat_ms, ?) WHERE id = ? AND active = 1",
            ((at_ms, session_id) for session_id, at_ms in beats.items()),
        )
