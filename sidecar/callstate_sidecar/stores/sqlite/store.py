"""SqliteStore: sessions in a file, for use without a daemon; several processes may share one file."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from callstate_sidecar.stores.document_store import DEFAULT_TTL_S, Beat, BeatResult, DocumentStore
from callstate_sidecar.stores.encoding import ttl_ms
from callstate_sidecar.stores.sqlite.database import Database, purge
from callstate_sidecar.stores.sqlite.documents import Changed, drop_document, put_document, together
from callstate_sidecar.stores.sqlite.transactions import snapshot, transaction
from callstate_sidecar.system.clock import since_boot

DEFAULT_TIMEOUT_S: Final = 5.0


class SqliteStore(DocumentStore):
    """Sessions in one SQLite file, opened on first use.

    Args:
        path: the file; created if absent, in an existing directory.
        ttl: how long a session stays after its last save or heartbeat, seconds or a timedelta.
        timeout_s: how long to wait for another process's lock, seconds.
        clock: a steady clock for expiry, seconds; unaffected by changes of the wall clock.

    Raises:
        ValueError: the ttl is not between a millisecond and ten years.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        ttl: float | timedelta = DEFAULT_TTL_S,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        clock: Callable[[], float] = since_boot,
    ) -> None:
        super().__init__()
        self._ttl_ms = ttl_ms(ttl)
        self._database = Database(path, timeout_s=timeout_s, clock=clock)

    @property
    def name(self) -> str:
        """`sqlite`."""
        return "sqlite"

    async def _put(self, session_id: str, document: bytes, *, active: bool, call_id: str = "") -> None:
        await self._database.run(_put, session_id, document, active=active, call_id=call_id, ttl=self._ttl_ms)

    async def _get(self, session_id: str) -> tuple[bytes, int] | None:
        if not _is_text(session_id):
            return None
        return await self._database.run(_get, session_id)

    async def _remove(self, session_id: str) -> bool:
        return _is_text(session_id) and await self._database.run(_remove, session_id)

    async def _active(self) -> list[str]:
        return await self._database.run(active_ids)

    async def _beat(self, session_id: str, at_ms: int) -> Beat:
        if not _is_text(session_id):
            return Beat(BeatResult.MISSING)
        return await self._database.run(_beat, session_id, at_ms, self._ttl_ms)

    async def _ping(self) -> None:
        await self._database.run(ping)

    async def _release(self) -> None:
        await self._database.close()


def _is_text(session_id: str) -> bool:
    """Whether SQLite can store this id: one with a lone surrogate can't be there."""
    try:
        session_id.encode()
    except UnicodeEncodeError:
        return False
    return True


def _put(
    connection: sqlite3.Connection, now_ms: int, session_id: str, document: bytes, *,
    active: bool, call_id: str, ttl: int,
) -> None:  # fmt: skip
    with transaction(connection):
        purge(connection, now_ms)
        connection.execute(
            """
            DELETE FROM session WHERE id = ? AND (expires_ms <= ?
                OR (deleted = 0 AND NOT EXISTS (SELECT 1 FROM document WHERE document.key = session.key)))
            """,
            (session_id, now_ms),
        )
        # meta stays: it belongs to the daemon, which finds by `foreign_stamp` that the document is another
        connection.execute(
            """
            INSERT INTO session (id, active, expires_ms, call_id) VALUES (:id, :active, :expires_ms, :call_id)
            ON CONFLICT (id) DO UPDATE SET
                active = excluded.active,
                call_id = excluded.call_id,
                beat_ms = iif(excluded.active, beat_ms, 0),
                expires_ms = excluded.expires_ms,
                foreign_stamp = lower(hex(randomblob(8))),
                head_position = 0,
                head = NULL
            """,
            {"id": session_id, "active": active, "expires_ms": now_ms + ttl, "call_id": call_id},
        )
        (key,) = connection.execute("SELECT key FROM session WHERE id = ?", (session_id,)).fetchone()
        put_document(connection, key, document)


def _get(connection: sqlite3.Connection, now_ms: int, session_id: str) -> tuple[bytes, int] | None:
    with snapshot(connection):
        row = connection.execute(
            "SELECT key, body, head_position, head, beat_ms FROM session JOIN document USING (key)"
            " WHERE id = ? AND expires_ms > ?",
            (session_id, now_ms),
        ).fetchone()
        if row is None:
            return None
        key, body, position, head, beat_ms = row
        return together(connection, key, body, Changed(position, head)), beat_ms


def _remove(connection: sqlite3.Connection, now_ms: int, session_id: str) -> bool:
    with transaction(connection):
        row = connection.execute(
            "SELECT key, version FROM session JOIN document USING (key) WHERE id = ? AND expires_ms > ?",
            (session_id, now_ms),
        ).fetchone()
        if row is None:
            return False  # a daemon's tombstone stays
        key, version = row
        if version is None:
            connection.execute("DELETE FROM session WHERE key = ?", (key,))
        else:  # the row stays without a document, and tells the daemon that another has deleted it
            connection.execute("UPDATE session SET active = 0, beat_ms = 0 WHERE key = ?", (key,))
            drop_document(connection, key)
        return True


def _beat(connection: sqlite3.Connection, now_ms: int, session_id: str, at_ms: int, ttl: int) -> Beat:
    noted = connection.execute(
        """
        UPDATE session SET beat_ms = max(beat_ms, ?), expires_ms = max(expires_ms, ?)
        WHERE id = ? AND active = 1 AND expires_ms > ?
        """,
        (at_ms, now_ms + ttl, session_id, now_ms),
    ).rowcount
    if noted:
        return Beat(BeatResult.NOTED)
    ended = connection.execute(
        "SELECT ended_at, ended_reason FROM session JOIN document USING (key) WHERE id = ? AND expires_ms > ?",
        (session_id, now_ms),
    ).fetchone()
    return Beat(BeatResult.MISSING) if ended is None else Beat(BeatResult.ENDED, *ended)


def active_ids(connection: sqlite3.Connection, now_ms: int) -> list[str]:
    """The ids of all sessions that have neither ended nor expired."""
    rows = connection.execute("SELECT id FROM session WHERE active = 1 AND expires_ms > ?", (now_ms,))
    return [session_id for (session_id,) in rows]


def ping(connection: sqlite3.Connection, _now_ms: int) -> None:
    """Read from the file, which fails if it is missing or not a database."""
    connection.execute("SELECT 1 FROM session LIMIT 1").fetchone()
