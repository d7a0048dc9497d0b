"""Erasing what an SQLite file has of a deleted session: in rows, free pages, and the write-ahead log."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from callstate_client.engine.sessions.stored import StoreRefusingError
from callstate_sidecar.stores.sqlite.transactions import transaction


def erase(path: Path, session_id: str, timeout_s: float) -> None:
    """Write the file anew without what is in no row of it, and empty the write-ahead log.

    The document was deleted with the session. Its bytes may still be in free pages, in unused parts of others, and
    in the log. Overwriting what is deleted from now on (`secure_delete`) does not reach what was freed earlier, so
    all rows are copied to new pages (VACUUM). That happens over a connection of its own: reads go on meanwhile.

    Args:
        path: the file.
        session_id: whose.
        timeout_s: how long to wait for other connections, seconds.

    Raises:
        StoreRefusingError: another connection uses the file for longer than that.
        sqlite3.Error: the file can't be written.
    """
    with closing(
        sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=timeout_s, isolation_level=None)
    ) as connection:
        connection.execute("PRAGMA secure_delete = ON")
        with transaction(connection):
            connection.execute(
                "DELETE FROM document_set_aside WHERE key IN (SELECT key FROM session WHERE id = ?)", (session_id,)
            )
        connection.execute("VACUUM")
        (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise StoreRefusingError(f"{path}-wal can't be emptied: another program keeps reading the file")
