"""The SQLite file, and the one thread that uses the connection.

The file may be removed or replaced while it is open: SQLite would go on writing to the unlinked inode, so every
operation checks the inode afterwards, and is repeated on a new file if it changed.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from callstate_client.engine.sessions.stored import StoreDownError, StoreError, StoreRefusingError
from callstate_sidecar.stores.sqlite import expiry
from callstate_sidecar.stores.sqlite.schema import prepare
from callstate_sidecar.stores.sqlite.transactions import transaction
from callstate_sidecar.system.files import Files, open_kept

P = ParamSpec("P")
T = TypeVar("T")

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

_DAMAGED: Final = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB))

REMEDY: Final = "stop the daemon, move the file away and start it: everything in memory is written to a new one"
"""What to do about a damaged file."""

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
            connection.text_factory = _text
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
        """Create the file if absent; returns its device and inode. An empty one has replaced the one that was open
        before, even if it has the same inode."""
        # transcripts are private; SQLite gives its -wal and -shm files the same mode
        fd = open_kept(self._path)
        try:
            found = os.fstat(fd)
        finally:
            os.close(fd)
        if self._synced and not found.st_size:  # the name has to survive a power loss too
            Files().sync_directory(self._path.parent)
        if self._place is not None and not found.st_size:
            self._place = _NOWHERE
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
        is_damaged = code is not None and code & 0xFF in _DAMAGED
        return StoreDownError(f"{text}; {REMEDY}" if is_damaged else text)


def _text(raw: bytes) -> str:
    """Text of the file. Other software may write bytes there that are not UTF-8: one such row must not fail a whole
    statement."""
    return raw.decode("utf-8", "replace")


def purge(connection: sqlite3.Connection, now_ms: int) -> None:
    """Delete some of the expired sessions, and note the time."""
    expiry.note(connection, now_ms)
    connection.execute(
        "DELETE FROM session WHERE key IN (SELECT key FROM session WHERE expires_ms <= ? LIMIT ?)",
        (now_ms, _PURGE_ROWS),
    )


def _prepare(connection: sqlite3.Connection, *, synced: bool) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
    connection.execute("PRAGMA temp_store = MEMORY")  # no rows in the system's directory for temporary files
    connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
    prepare(connection)


def _expiry_offset(connection: sqlite3.Connection, steady_ms: int) -> int:
    found = expiry.offset(connection, steady_ms)
    if found is not None:
        return found
    with transaction(connection):
        found = expiry.offset(connection, steady_ms)  # another process may have been first
        return expiry.begin(connection, steady_ms) if found is None else found
