"""Erasing what an SQLite file has of a deleted session: in rows, free pages, and the write-ahead log."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from callstate_client.engine.sessions.stored import StoreRefusingError
from callstate_sidecar.stores.sqlite.transactions import transaction

RETRY_S: Final = 0.02
"""How often it is tried to empty the log. SQLite itself does not wait for another connection's checkpoint."""


def erase(path: Path, session_id: str, timeout_s: float) -> None:
    """Write the file anew without what is in no row of it, and empty the write-ahead log.

    The document was deleted with the session. Its bytes may still be in free pages, in unused parts of others, and
    in the log. Overwriting what is deleted (`secure_delete`) reaches neither what was freed earlier nor copies that
    SQLite has left behind when it moved rows to other pages, so all rows are copied to new pages (VACUUM). That
    happens over a connection of its own: reads go on meanwhile. What does not fit into memory passes through an
    unnamed file beside the database, not in the system's directory for temporary files.

    Args:
        path: the file.
        session_id: whose.
        timeout_s: how long to wait for other connections, seconds.

    Raises:
        StoreRefusingError: another connection uses the file for longer than that.
        sqlite3.Error: the file can't be written.
    """
    deadline = time.monotonic() + timeout_s
    with closing(
        sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=timeout_s, isolation_level=None)
    ) as connection:
        connection.execute("PRAGMA secure_delete = ON")
        directory = str(path.parent).replace("'", "''")
        connection.execute(f"PRAGMA temp_store_directory = '{directory}'")
        with transaction(connection):
            connection.execute(
                "DELETE FROM document_set_aside WHERE key IN (SELECT key FROM session WHERE id = ?)", (session_id,)
            )
        connection.execute("VACUUM")
        while not _empty_log(connection):
            if time.monotonic() >= deadline:
                raise StoreRefusingError(f"{path}-wal can't be emptied: another program keeps reading the file")
            time.sleep(RETRY_S)


def _empty_log(connection: sqlite3.Connection) -> bool:
    (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy
