"""SqliteBackend: the daemon's interface to a SQLite file. A batch is one transaction."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from callstate_client.engine.sessions.stored import Patch, Query, StoredMeta, StoreDownError, StoredSession, Write
from callstate_client.protocol.results import Finding
from callstate_sidecar.stores.backend import Deviation, Flaw, StoredVersion, WriteOutcome, WriteResult
from callstate_sidecar.stores.encoding import ops_text, parse_ops, ttl_ms
from callstate_sidecar.stores.fencing import Stamp, superseded_by, takes, unseen
from callstate_sidecar.stores.hosts import HostRegistry
from callstate_sidecar.stores.sqlite.database import ROW_ERRORS, Database, purge, put_document, transaction
from callstate_sidecar.stores.sqlite.expiry import since_boot
from callstate_sidecar.stores.sqlite.inspection import check_wal, find_ghosts, inspect_file
from callstate_sidecar.stores.sqlite.store import DEFAULT_TIMEOUT_S, ping

IDS_A_PAGE: Final = 1000
"""Ids in one page: the loop takes less than a millisecond to go through them."""

_META: Final = StoredMeta.__struct_fields__
"""Each field of meta has a column of the same name."""

_COLUMNS: Final = ("id", "active", "beat_ms", "expires_ms", "call_id", *_META)

# S608 suspects every composed statement; these are composed of constants only.
_WRITE: Final = f"""
    INSERT INTO session ({", ".join(_COLUMNS)}) VALUES ({", ".join(f":{name}" for name in _COLUMNS)})
    ON CONFLICT (id) DO UPDATE SET
        active = excluded.active, expires_ms = excluded.expires_ms, call_id = excluded.call_id,
        beat_ms = iif(excluded.active, max(beat_ms, excluded.beat_ms), 0),
        {", ".join(f"{name} = excluded.{name}" for name in _META)}
"""  # noqa: S608

_READ: Final = f"""
    SELECT body, beat_ms, {", ".join(_META)} FROM session LEFT JOIN document USING (key)
    WHERE id = ? AND expires_ms > ?
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
    ) -> None:
        self.hosts: HostRegistry | None = None
        """None: a file has one host."""
        self._ttl_ms = ttl_ms(ttl_s)
        self._host_id = host_id
        self.synced = synced
        self._database = Database(path, timeout_s=timeout_s, clock=clock, synced=synced)

    @property
    def name(self) -> str:
        """`sqlite`."""
        return "sqlite"

    @property
    def data_losses(self) -> int:
        """How often the file was found to be removed or replaced."""
        return self._database.replaced

    async def check_for_loss(self) -> None:
        """Check that the file is still in place, and recreate it if not."""
        await self._database.run(ping)

    async def read(self, session_id: str) -> StoredSession | None:
        """Read document, meta and last beat."""
        return await self._database.run(_read, session_id)

    async def write(self, batch: Sequence[Write]) -> list[WriteResult]:
        """Write a batch in one transaction, each session by the fencing rule."""
        if not batch:
            return []
        return await self._database.run(_write, batch, self._host_id, self._ttl_ms)

    async def check(self, sessions: Sequence[StoredVersion]) -> list[tuple[str, Deviation]]:
        """Compare sessions with the file, and renew TTLs of which a quarter has passed."""
        if not sessions:
            return []
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
        wal = database.path.with_name(database.path.name + "-wal")
        findings += await database.run(check_wal, wal, repair=repair)
        findings += await database.run(find_ghosts, repair=repair)
        for finding in findings:
            yield finding

    async def write_beats(self, beats: Mapping[str, int]) -> None:
        """Write last heartbeats of active sessions; an older one never replaces a newer one."""
        if beats:
            await self._database.run(_write_beats, dict(beats))

    async def active_ids(self, cursor: str = "") -> tuple[list[str], str]:
        """A page of the active sessions."""
        return await self._database.run(_active_ids, cursor)

    async def find(self, query: Query, cursor: str, limit: int) -> tuple[list[tuple[str, StoredSession]], str]:
        """A page of matching sessions: by an index if the query has a call id, else by scanning the meta
        columns."""
        return await self._database.run(_find, query, cursor, limit)

    async def ping(self) -> None:
        """Read from the file."""
        await self._database.run(ping)

    async def close(self) -> None:
        """Close the file; may be called twice."""
        await self._database.close()


def _read(connection: sqlite3.Connection, now_ms: int, session_id: str) -> StoredSession | None:
    row = connection.execute(_READ, (session_id, now_ms)).fetchone()
    return None if row is None else _stored(*row)


def _active_ids(connection: sqlite3.Connection, now_ms: int, cursor: str) -> tuple[list[str], str]:
    # keys never change their order, so a session active throughout is returned exactly once
    rows = connection.execute(
        "SELECT key, id FROM session WHERE key > ? AND active = 1 AND expires_ms > ? ORDER BY key LIMIT ?",
        (_key(cursor), now_ms, IDS_A_PAGE),
    ).fetchall()
    return [session_id for _, session_id in rows], str(rows[-1][0]) if len(rows) == IDS_A_PAGE else ""


def _find(
    connection: sqlite3.Connection, now_ms: int, query: Query, cursor: str, limit: int
) -> tuple[list[tuple[str, StoredSession]], str]:
    conditions, values = _conditions(query)
    statement = f"""
        SELECT key, id, body, beat_ms, {", ".join(_META)} FROM session JOIN document USING (key)
        WHERE key > ? AND expires_ms > ? AND deleted = 0 {conditions} ORDER BY key LIMIT ?
    """  # noqa: S608 - the values are bound
    rows = connection.execute(statement, (_key(cursor), now_ms, *values, limit)).fetchall()
    found = [(session_id, _stored(*row)) for _, session_id, *row in rows]
    return found, str(rows[-1][0]) if len(rows) == limit else ""


def _key(cursor: str) -> int:
    """The key after which a page begins; a cursor that we never issued is past the end."""
    return min(int(cursor or 0), 2**63 - 1)


def _conditions(query: Query) -> tuple[str, list[str]]:
    conditions: dict[str, str | None] = {
        "call_id = ?": query.call_id,
        "owner = ?": query.owner,
        "ended_at >= ?": query.ended_since,
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


def _stored(document: bytes | None, beat_ms: int, *values: Any) -> StoredSession:
    fields = dict(zip(_META, values, strict=True))
    if fields["version"] is None:
        return StoredSession(document, None, beat_ms)
    fields["labels"] = msgspec.json.decode(fields["labels"], type=dict[str, str])
    fields["ops"] = parse_ops(fields["ops"])
    fields["reaped"] = bool(fields["reaped"])
    fields["deleted"] = bool(fields["deleted"])
    return StoredSession(document, StoredMeta(**fields), beat_ms)


def _write(
    connection: sqlite3.Connection, now_ms: int, batch: Sequence[Write], host_id: str, ttl: int
) -> list[WriteResult]:
    results: list[WriteResult] = []
    with transaction(connection):
        purge(connection, now_ms)
        for write in batch:
            try:
                results.append(_write_one(connection, write, host_id, now_ms, now_ms + ttl))
            except ROW_ERRORS as error:  # only the statement is rolled back; the transaction continues
                results.append(WriteResult(WriteOutcome.REJECTED, f"{type(error).__name__}: {error}"))
    return results


def _write_one(
    connection: sqlite3.Connection, write: Write, host_id: str, now_ms: int, expires_ms: int
) -> WriteResult:
    meta = write.meta
    new = Stamp(meta.host or host_id, meta.epoch, meta.version)
    connection.execute("DELETE FROM session WHERE id = ? AND expires_ms <= ?", (write.session_id, now_ms))
    row = connection.execute(
        "SELECT host, epoch, version FROM session WHERE id = ?", (write.session_id,)
    ).fetchone()
    held = None if row is None or row[2] is None else Stamp(*row)
    if unseen(held, new, write.seen, there=row is not None):
        return WriteResult(WriteOutcome.UNSEEN)
    if held is not None and not takes(held, new):
        return WriteResult(WriteOutcome.SUPERSEDED, superseded_by(held))
    document = write.document
    if write.patch is not None:
        document = _document(connection, write.session_id)
        if held is None or document is None or not _is_base(write.patch, held, len(document)):
            return WriteResult(WriteOutcome.NOT_BASE)
        document = write.patch.apply(document)
    deleted = document is None
    active = write.active and not deleted
    connection.execute(
        _WRITE,
        {
            "id": write.session_id,
            "active": active,
            "beat_ms": write.beat_ms if active else 0,
            "expires_ms": expires_ms,
            "call_id": write.call_id,
            **msgspec.structs.asdict(meta),
            "host": new.host,
            "labels": msgspec.json.encode(meta.labels).decode(),
            "deleted": deleted,
            "ops": ops_text(meta.ops).decode(),
        },
    )
    if document is None:
        connection.execute(
            "DELETE FROM document WHERE key = (SELECT key FROM session WHERE id = ?)", (write.session_id,)
        )
    else:
        put_document(connection, write.session_id, document)
    return WriteResult(WriteOutcome.WRITTEN)


def _is_base(patch: Patch, held: Stamp, length: int) -> bool:
    """Whether the file has what the patch was made for. SqliteStore changes the document and not the stamp."""
    return (held.host, held.version, length) == (patch.base.host, patch.base.version, patch.length)


def _document(connection: sqlite3.Connection, session_id: str) -> bytes | None:
    row: tuple[bytes] | None = connection.execute(
        "SELECT body FROM document JOIN session USING (key) WHERE id = ?", (session_id,)
    ).fetchone()
    return None if row is None else row[0]


def _check(
    connection: sqlite3.Connection, now_ms: int, sessions: Sequence[StoredVersion], host_id: str, ttl: int
) -> list[tuple[str, Deviation]]:
    found: list[tuple[str, Deviation]] = []
    renew: list[tuple[int, str]] = []
    for session in sessions:
        row = connection.execute(
            "SELECT host, version, document.key, expires_ms FROM session LEFT JOIN document USING (key)"
            " WHERE id = ? AND expires_ms > ?",
            (session.session_id, now_ms),
        ).fetchone()
        if row is None:
            found.append((session.session_id, Deviation.MISSING))
        elif row[:2] != (host_id, session.version) or row[2] is None:
            found.append((session.session_id, Deviation.OTHER))
        elif session.live and row[3] - now_ms < ttl * 0.75:
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
