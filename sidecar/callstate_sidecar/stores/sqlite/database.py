"""The SQLite file: its schema, and the one thread that uses the connection.

A session is a row of `session` (meta, expiry, last beat) and a row of `document`, so that a heartbeat does not
rewrite the transcript. The file may be removed or replaced while it is open: SQLite would go on writing to the
unlinked inode, so every operation checks the inode afterwards, and is repeated on a new file if it changed.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from callstate_client.engine.sessions.stored import StoreDownError, StoreError, StoreRefusingError
from callstate_sidecar.stores.sqlite import expiry

P = ParamSpec("P")
T = TypeVar("T")

SCHEMA_VERSION: Final = 1
"""Increased when an older callstate would misread the file."""

_SCHEMA: Final = (
    # `version` is NULL if no daemon wrote the session; a row with `deleted` is a tombstone
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
    # a table of its own: SQLite writes whole rows, and a heartbeat must not copy the transcript
    "CREATE TABLE document (key INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    """
    CREATE TRIGGER session_gone AFTER DELETE ON session
    BEGIN DELETE FROM document WHERE key = old.key; END
    """,
    "CREATE INDEX session_active ON session (id, expires_ms) WHERE active = 1",
    "CREATE INDEX session_expires ON session (expires_ms)",
)

_ADDED_COLUMNS: Final[dict[str, str]] = dict.fromkeys(
    ("ops", "call_id", "state", "orphan"), "TEXT NOT NULL DEFAULT ''"
)
"""Columns of `session` missing from files of earlier versions. An older callstate ignores them, so they don't
increase the schema version."""

_CALL_INDEX: Final = "CREATE INDEX session_call ON session (call_id) WHERE call_id != ''"

# once, for files of earlier versions; their documents are JSON unless other software wrote them
_FILL_CALL_IDS: Final = """
    UPDATE session SET call_id = coalesce((
        SELECT CAST(json_extract(CAST(body AS TEXT), '$.call_id') AS TEXT) FROM document
        WHERE document.key = session.key AND json_valid(CAST(body AS TEXT))
    ), '')
"""

WAL_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""Size to which the write-ahead log is truncated after a burst."""

_NOWHERE: Final = (-1, -1)

_PURGE_ROWS: Final = 100
"""Expired rows removed with each write: more than a write can add, and few enough not to delay it."""

_REFUSING: Final = frozenset(
    (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_AUTH,
    )
)

# Errors that concern one row, not the whole file.
ROW_ERRORS: Final = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    OverflowError,
    UnicodeError,
)


class Database:
    """One connection in one thread; opened by the first call, and again after a failure or when the file is
    replaced.

    Args:
        path: the file, in an existing directory. It is created with mode 0600.
        timeout_s: how long to wait for another process's lock, seconds.
        clock: a steady clock for expiry, seconds.
        synced: sync every commit to disk.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, timeout_s: float, clock: Callable[[], float], synced: bool = False
    ) -> None:
        self._path = Path(path).absolute()
        self._timeout_s = timeout_s
        self._clock = clock
        self._synced = synced
        self._offset_ms = 0
        self._place: tuple[int, int] | None = None
        self.replaced = 0
        """How often the file was found to be removed or replaced, with everything written before."""
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="callstate-sqlite")
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._path

    async def run(
        self,
        work: Callable[Concatenate[sqlite3.Connection, int, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call `work` in the thread, with the connection and the expiry clock's time in ms; returns its result.

        `work` may use one transaction at most. It is called again if the file was replaced meanwhile, for then the
        first call changed a file that nobody can open any more.

        Raises:
            StoreDownError: the file can't be read or written, or is not a database.
            StoreRefusingError: it is locked, full or read-only, or a newer callstate made it.
        """
        if self._closed:
            raise StoreDownError("the store is closed")

        def call() -> T:
            try:
                while True:
                    result = work(self._open(), self._now_ms(), *args, **kwargs)
                    if self._is_in_place():
                        return result
            except (sqlite3.Error, OSError) as error:
                raise self._translate(error) from error

        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def close(self) -> None:
        """Close the file once pending calls have finished; may be called twice."""
        if self._closed:
            return
        self._closed = True
        closing = asyncio.get_running_loop().run_in_executor(self._executor, self._drop)
        self._executor.shutdown(wait=False)
        await closing

    def _now_ms(self) -> int:
        return self._offset_ms + int(self._clock() * 1000)

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and not self._is_in_place():
            self._drop()
            self._place = _NOWHERE  # not a real inode: the next file may get the old one's
        if self._connection is None:
            place = self._make_file()
            connection = sqlite3.connect(self._path, timeout=self._timeout_s, isolation_level=None)
            try:
                _prepare(connection, synced=self._synced)
                self._offset_ms = _expiry_offset(connection, int(self._clock() * 1000))
            except BaseException:
                connection.close()
                raise
            if self._place not in (None, place):
                self.replaced += 1
            self._connection, self._place = connection, place
        return self._connection

    def _make_file(self) -> tuple[int, int]:
        """Create the file if absent; returns its device and inode."""
        # transcripts are private; SQLite gives its -wal and -shm files the same mode
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            found = os.fstat(fd)
        finally:
            os.close(fd)
        if self._synced and not found.st_size:  # the name has to survive a power loss too
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        return found.st_dev, found.st_ino

    def _is_in_place(self) -> bool:
        """Whether the open file is still the one at the path."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == self._place

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _translate(self, error: Exception) -> StoreError:
        code = getattr(error, "sqlite_errorcode", None)
        text = f"{self._path}: {error}"
        # the low byte is the primary code, the rest the extended code
        if code is not None and code & 0xFF in _REFUSING:
            return StoreRefusingError(text)
        self._drop()
        return StoreDownError(text)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A write transaction. It takes the write lock at once, because SQLite can't wait when a reader upgrades."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some errors, such as a full disk, roll back by themselves
            connection.rollback()
        raise


def purge(connection: sqlite3.Connection, now_ms: int) -> None:
    """Delete some of the expired sessions, and note the time."""
    expiry.note(connection, now_ms)
    connection.execute(
        "DELETE FROM session WHERE key IN (SELECT key FROM session WHERE expires_ms <= ? LIMIT ?)",
        (now_ms, _PURGE_ROWS),
    )


def put_document(connection: sqlite3.Connection, session_id: str, document: bytes) -> None:
    """Write the document of an existing session."""
    connection.execute(
        "INSERT OR REPLACE INTO document (key, body) SELECT key, ? FROM session WHERE id = ?",
        (document, session_id),
    )


def _prepare(connection: sqlite3.Connection, *, synced: bool) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
    if _version(connection) < SCHEMA_VERSION:
        with transaction(connection):
            if _version(connection) == 0:  # another process may have been first
                for statement in _SCHEMA:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    if (version := _version(connection)) > SCHEMA_VERSION:
        raise StoreRefusingError(
            f"the database is of schema {version}, made by a newer callstate; this one supports {SCHEMA_VERSION}"
        )
    if _lacking(connection):
        with transaction(connection):
            lacking = _lacking(connection)
            for name in lacking:
                connection.execute(f"ALTER TABLE session ADD COLUMN {name} {_ADDED_COLUMNS[name]}")
            if "call_id" in lacking:
                connection.execute(_FILL_CALL_IDS)
                connection.execute(_CALL_INDEX)
    connection.execute(expiry.TABLE)


def _expiry_offset(connection: sqlite3.Connection, steady_ms: int) -> int:
    found = expiry.offset(connection, steady_ms)
    if found is not None:
        return found
    with transaction(connection):
        found = expiry.offset(connection, steady_ms)  # another process may have been first
        return expiry.begin(connection, steady_ms) if found is None else found


def _lacking(connection: sqlite3.Connection) -> set[str]:
    return _ADDED_COLUMNS.keys() - {column for _, column, *_ in connection.execute("PRAGMA table_info(session)")}


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version
