"""The inspection of the SQLite file for `callstate doctor`: integrity, who may read it, and the space left."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from callstate_client.new_files import PRIVATE_FILE
from callstate_client.protocol.results import Finding
from callstate_sidecar.stores.sqlite.database import REMEDY, WAL_LIMIT_BYTES
from callstate_sidecar.stores.sqlite.transactions import transaction
from callstate_sidecar.system.files import open_existing

MAX_FAULTS: Final = 10
"""Lines of an integrity check that are reported; the first says enough."""

FREE_BYTES: Final = 256 * 1024 * 1024
"""Less free space than this is a finding: a burst makes the write-ahead log grow by 64 MiB and more."""

WAL_LARGE_BYTES: Final = 4 * WAL_LIMIT_BYTES
"""After a burst the write-ahead log is truncated to a quarter of this, unless another program keeps reading."""

_GHOSTS: Final = "FROM session LEFT JOIN document USING (key) WHERE active = 1 AND document.key IS NULL"


def inspect_file(path: Path, *, repair: bool) -> list[Finding]:
    """What is not as it should be with the file. It reads over a connection of its own, so that writes go on.

    Raises:
        sqlite3.Error, OSError: it can't be read.
    """
    findings = [*_integrity(path), *_mode(path, repair=repair), *_owner(path)]
    free = os.statvfs(path.parent)
    free_bytes = free.f_bavail * free.f_frsize
    if free_bytes < FREE_BYTES:
        detail = f"{free_bytes // 2**20} MiB are free where {path} is"
        findings.append(Finding("disk_space", detail, "make room, or move the state directory"))
    return findings


def _integrity(path: Path) -> list[Finding]:
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            lines = [str(row[0]) for row in connection.execute(f"PRAGMA quick_check({MAX_FAULTS})")]
    except sqlite3.DatabaseError as error:
        lines = [str(error)]
    return [Finding("corrupt", f"{path}: {line}", REMEDY) for line in lines if line != "ok"]


def _mode(path: Path, *, repair: bool) -> list[Finding]:
    findings: list[Finding] = []
    for file in (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))):
        if file.exists() and (mode := file.stat().st_mode & 0o7777) & 0o077:
            if repair:
                _make_private(file)
            detail = f"{file} has mode {mode:04o}: others may read or change transcripts"
            findings.append(Finding("file_mode", detail, f"chmod 600 {file}, or --repair", repaired=repair))
    return findings


def _make_private(file: Path) -> None:
    fd = open_existing(file)
    try:
        os.fchmod(fd, PRIVATE_FILE)
    finally:
        os.close(fd)


def _owner(path: Path) -> list[Finding]:
    owner = path.stat().st_uid
    if owner == os.geteuid():
        return []
    detail = f"{path} belongs to uid {owner}, and the daemon runs as {os.geteuid()}"
    return [Finding("file_owner", detail, f"chown {os.geteuid()} {path}")]


def find_ghosts(connection: sqlite3.Connection, _now_ms: int, *, repair: bool) -> list[Finding]:
    """Rows of active sessions without a document."""
    ids = [row[0] for row in connection.execute(f"SELECT id {_GHOSTS}")]
    if repair and ids:
        with transaction(connection):
            connection.execute(f"DELETE FROM session WHERE key IN (SELECT session.key {_GHOSTS})")  # noqa: S608
    return [
        Finding("ghost", "it is active, and has no document", "run with --repair", session_id, repaired=repair)
        for session_id in ids
    ]


def check_wal(connection: sqlite3.Connection, _now_ms: int, wal: Path, *, repair: bool) -> list[Finding]:
    """A write-ahead log that is not truncated any more."""
    size = wal.stat().st_size if wal.exists() else 0
    if size <= WAL_LARGE_BYTES:
        return []
    if repair:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    is_small = not wal.exists() or wal.stat().st_size <= WAL_LARGE_BYTES
    detail = f"{wal} has {size // 2**20} MiB: some program has been reading the file for long"
    return [Finding("wal_size", detail, "end that program, then run with --repair", repaired=repair and is_small)]
