"""The tables of the SQLite file, and how a file of an earlier version gets them.

A session is a row of `session` (meta, expiry, last beat) and a document, in tables of their own: SQLite writes
whole rows, and a heartbeat must not copy the transcript. Nor may a turn: documents are in parts (documents.py).
"""

from __future__ import annotations

import sqlite3
from typing import Final

from callstate_client.engine.sessions.stored import StoreRefusingError
from callstate_sidecar.stores.sqlite import expiry
from callstate_sidecar.stores.sqlite.transactions import transaction

SCHEMA_VERSION: Final = 2
"""Increased when an older callstate would misread the file. 2: documents in parts, and `foreign_stamp`."""

_SCHEMA: Final = (
    # `version` is NULL if no daemon wrote the session. Without a document it was deleted: if `deleted`, by a
    # daemon, and the row is a tombstone; else by other software, and to all but the daemon there is nothing
    """
    CREATE TABLE session (
        key INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        active INTEGER NOT NULL,
        beat_ms INTEGER NOT NULL DEFAULT 0,
        expires_ms INTEGER NOT NULL,
        host TEXT NOT NULL DEFAULT '',
        epoch INTEGER NOT NULL DEFAULT 0,
        version INTEGER,
        owner TEXT NOT NULL DEFAULT '',
        ended_reason TEXT NOT NULL DEFAULT '',
        ended_detail TEXT NOT NULL DEFAULT '',
        ended_at TEXT NOT NULL DEFAULT '',
        labels TEXT NOT NULL DEFAULT '{}',
        heartbeat_timeout_s REAL,
        max_duration_s REAL,
        reaped INTEGER NOT NULL DEFAULT 0,
        deleted INTEGER NOT NULL DEFAULT 0
    )
    """,
    "CREATE TABLE document (key INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    "CREATE INDEX session_active ON session (id, expires_ms) WHERE active = 1",
    "CREATE INDEX session_expires ON session (expires_ms)",
)

_PARTS: Final = (
    """
    CREATE TABLE document_tail (key INTEGER NOT NULL, position INTEGER NOT NULL, bytes BLOB NOT NULL,
        PRIMARY KEY (key, position)) WITHOUT ROWID
    """,
    "CREATE TABLE document_set_aside (key INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    "DROP TRIGGER IF EXISTS session_gone",
    """
    CREATE TRIGGER session_gone AFTER DELETE ON session BEGIN
        DELETE FROM document WHERE key = old.key;
        DELETE FROM document_tail WHERE key = old.key;
        DELETE FROM document_set_aside WHERE key = old.key;
    END
    """,
)

_ADDED_COLUMNS: Final[dict[str, str]] = dict.fromkeys(
    ("ops", "call_id", "state", "orphan", "status_before", "foreign_stamp"), "TEXT NOT NULL DEFAULT ''"
) | {
    "head_position": "INTEGER NOT NULL DEFAULT 0",
    "head": "BLOB",
    "uid": "INTEGER NOT NULL DEFAULT -1",
    "gid": "INTEGER NOT NULL DEFAULT -1",
}
"""Columns of `session` missing from files of earlier versions."""

_CALL_INDEX: Final = "CREATE INDEX session_call ON session (call_id) WHERE call_id != ''"

# once, for files of earlier versions; their documents are JSON unless other software wrote them
_FILL_CALL_IDS: Final = """
    UPDATE session SET call_id = coalesce((
        SELECT CAST(json_extract(CAST(body AS TEXT), '$.call_id') AS TEXT) FROM document
        WHERE document.key = session.key AND json_valid(CAST(body AS TEXT))
    ), '')
"""


def prepare(connection: sqlite3.Connection) -> None:
    """Create what the file lacks.

    Raises:
        StoreRefusingError: a newer callstate made it.
    """
    if _version(connection) < SCHEMA_VERSION:
        with transaction(connection):
            found = _version(connection)  # another process may have been first
            for statement in (*(_SCHEMA if found == 0 else ()), *(_PARTS if found < SCHEMA_VERSION else ())):
                connection.execute(statement)
            if found < SCHEMA_VERSION:
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    if (version := _version(connection)) > SCHEMA_VERSION:
        raise StoreRefusingError(
            f"the database is of schema {version}, made by a newer callstate; this one supports {SCHEMA_VERSION}"
        )
    if _lacking(connection):
        with transaction(connection):
            lacking = _lacking(connection)
            for name in sorted(lacking):
                connection.execute(f"ALTER TABLE session ADD COLUMN {name} {_ADDED_COLUMNS[name]}")
            if "call_id" in lacking:
                connection.execute(_FILL_CALL_IDS)
                connection.execute(_CALL_INDEX)
    connection.execute(expiry.TABLE)


def _lacking(connection: sqlite3.Connection) -> set[str]:
    return _ADDED_COLUMNS.keys() - {column for _, column, *_ in connection.execute("PRAGMA table_info(session)")}


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version
