"""Erasing from an SQLite file while it is used: nobody is refused, and nothing is left, here or elsewhere."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from callstate_client.engine.sessions.stored import StoredMeta
from callstate_client.engine.sessions.writes import Whole
from callstate_sidecar.stores.backend import WriteOutcome
from callstate_sidecar.stores.sqlite import SqliteBackend, erasure

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

SAID = b"erase-me-turn"
TEMPORARY = "etilqs_"
"""What SQLite's temporary files are called; it removes their names at once."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "it's here").mkdir()
    return tmp_path / "it's here" / "callstate.db"


@pytest.fixture
async def backend(path: Path) -> AsyncIterator[SqliteBackend]:
    """A file of some 8 MB, too large for SQLite's cache. It does not wait long for other connections."""
    backend = SqliteBackend(path, ttl_s=100, host_id="here", timeout_s=0.05)
    await backend.write([write(f"other-{number}", b"kept" * 50_000) for number in range(40)])
    await backend.write([write("c1", SAID * 10_000)])
    await backend.write([Whole("c1", None, StoredMeta(host="here", version=2, deleted=True), active=False)])
    yield backend
    await backend.close()


def write(session_id: str, said: bytes, version: int = 1) -> Whole:
    document = b'{"id":"%b","status":"active","x":"%b"}' % (session_id.encode(), said)
    return Whole(session_id, document, StoredMeta(host="here", version=version), active=True)


def content(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


async def test_changes_wait_meanwhile_and_reads_do_not(backend: SqliteBackend, path: Path) -> None:
    erasing = asyncio.ensure_future(backend.erase("c1", 20.0))
    written = read = 0
    while not erasing.done():
        results = await backend.write([write("live", b"x" * 100, written + 1)])
        assert [result.outcome for result in results] == [WriteOutcome.WRITTEN]
        written += 1
        await backend.write_beats({"live": written})
        assert await backend.read("other-1") is not None
        read += 1
    assert await erasing == []
    assert min(written, read) > 0
    assert SAID not in content(path)
    assert b"kept" in content(path)


async def test_other_software_that_writes_all_the_time_is_waited_for(backend: SqliteBackend, path: Path) -> None:
    stop = threading.Event()

    def work() -> None:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=20)) as connection:
            connection.execute("PRAGMA wal_autocheckpoint = 1")
            connection.execute("CREATE TABLE theirs (x)")
            while not stop.is_set():
                with suppress(sqlite3.OperationalError):  # locked
                    connection.execute("INSERT INTO theirs VALUES (1)")

    other = threading.Thread(target=work)
    other.start()
    try:
        assert await backend.erase("c1", 45.0) == []  # SQLite has no queue for who waits: it may take long
    finally:
        stop.set()
        other.join()
    assert SAID not in content(path)


async def test_rows_pass_through_no_file_elsewhere(
    backend: SqliteBackend, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[Path] = set()

    def look() -> None:
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers that may be gone
            with suppress(OSError):
                seen.add(Path(f"/proc/self/fd/{name}").readlink())

    def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = made(*args, **kwargs)
        connection.set_progress_handler(look, 100)
        return connection

    made = sqlite3.connect
    monkeypatch.setattr(erasure.sqlite3, "connect", connect)
    await backend.erase("c1", 20.0)
    temporary = {file.parent for file in seen if file.name.startswith(TEMPORARY)}
    assert temporary == {path.parent}
