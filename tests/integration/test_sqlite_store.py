"""SqliteStore and SqliteBackend against real files: several processes, expiry, and the disk's bad days."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from callstate_client.engine.sessions.stored import (
    StoredMeta,
    StoreDownError,
    StoredSession,
    StoreRefusingError,
)
from callstate_client.engine.sessions.writes import Whole
from callstate_client.errors import InvalidParamsError, SessionNotFoundError, StoreUnavailableError
from callstate_client.model import SessionState
from callstate_sidecar.stores.backend import WriteOutcome
from callstate_sidecar.stores.sqlite import SqliteBackend, SqliteStore, expiry
from callstate_sidecar.stores.sqlite import writes as sqlite_writes
from callstate_sidecar.stores.sqlite.schema import SCHEMA_VERSION
from support.clock import ExpiryClock
from support.stores import all_active

DOCUMENT = b'{"id":"call-1","status":"active"}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
def clock() -> ExpiryClock:
    return ExpiryClock()


@pytest.fixture
async def store(path: Path, clock: ExpiryClock) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(path, ttl=100, clock=clock) as store:
        yield store


@pytest.fixture
async def backend(path: Path, clock: ExpiryClock) -> AsyncIterator[SqliteBackend]:
    backend = SqliteBackend(path, ttl_s=100, host_id="here", timeout_s=0.1, clock=clock)
    yield backend
    await backend.close()


def a_write(session_id: str = "call-1", version: int = 1, document: bytes | None = DOCUMENT) -> Whole:
    meta = StoredMeta(host="here", epoch=1, version=version)
    return Whole(session_id, document, meta, active=document is not None)


@contextmanager
def by_hand(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def count(path: Path) -> int:
    with by_hand(path) as connection:
        sessions: int = connection.execute("SELECT count(*) FROM session").fetchone()[0]
        documents = connection.execute("SELECT count(*) FROM session JOIN document USING (key)").fetchone()[0]
        assert connection.execute("SELECT count(*) FROM document").fetchone()[0] == documents == sessions
    return sessions


# -- the file -----------------------------------------------------------------------------------------------


async def test_making_a_store_touches_nothing_until_it_is_used(path: Path) -> None:
    store = SqliteStore(path)
    assert not path.exists()
    await store.ping()
    assert path.exists()
    await store.close()
    assert [entry.name for entry in path.parent.iterdir()] == ["sessions.db"]  # the log is merged and gone


async def test_the_file_is_its_users_alone_and_in_wal(store: SqliteStore, path: Path) -> None:
    mask = os.umask(0)
    try:
        await store.save(SessionState("call-1"))
    finally:
        os.umask(mask)
    for entry in path.parent.iterdir():
        assert stat.S_IMODE(entry.stat().st_mode) == 0o600, entry
    with by_hand(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


async def test_sessions_outlive_the_process(path: Path) -> None:
    code = f"""
import asyncio, os
from callstate_client.model import SessionState
from callstate_sidecar.stores.sqlite import SqliteStore

async def main():
    store = SqliteStore({str(path)!r})
    await store.save(SessionState("call-1", provider="sip"))
    os._exit(7)

asyncio.run(main())
"""
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], timeout=30)
    assert done.returncode == 7
    async with SqliteStore(path) as store:
        assert (await store.load("call-1")).provider == "sip"


def test_neither_redis_nor_uvloop_is_imported(path: Path) -> None:
    code = f"""
import asyncio, sys
sys.modules.update(redis=None, uvloop=None)
from callstate_client.model import SessionState
from callstate_sidecar.stores.sqlite import SqliteStore

async def main():
    async with SqliteStore({str(path)!r}) as store:
        await store.save(SessionState("call-1"))
        print(await store.list_active())

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout, done.stderr) == ("['call-1']\n", "")


@pytest.mark.system
def test_processes_that_start_together_share_a_new_file(path: Path) -> None:
    """Each writes as soon as its standard input ends, so that they meet while the file is being made."""
    code = f"""
import asyncio, sys
from callstate_client.model import SessionState
from callstate_sidecar.stores.sqlite import SqliteStore

async def main(name):
    async with SqliteStore({str(path)!r}, timeout_s=20) as store:
        for i in range(50):
            await store.save(SessionState(f"{{name}}-{{i}}"))

sys.stdin.read()
asyncio.run(main(sys.argv[1]))
"""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, name], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for name in "abc"
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
        writer.stdin = None
    for writer in writers:
        assert writer.communicate(timeout=50) == (None, "")
        assert writer.returncode == 0
    assert count(path) == 150


async def test_stores_of_one_file_see_each_others_sessions(
    store: SqliteStore, path: Path, clock: ExpiryClock
) -> None:
    async with SqliteStore(path, clock=clock) as other:
        await store.save(SessionState("call-1"))
        assert await other.list_active() == ["call-1"]
        await other.save(SessionState("call-1", status="ended"))
        assert await store.list_active() == []


async def test_a_newer_file_is_refused_with_a_clear_message(
    store: SqliteStore, backend: SqliteBackend, path: Path
) -> None:
    with by_hand(path) as connection:
        connection.execute("PRAGMA user_version = 3")
    with pytest.raises(StoreUnavailableError, match=r"schema 3, made by a newer callstate; this one supports 2"):
        await store.list_active()
    with pytest.raises(StoreRefusingError, match="newer"):
        await backend.ping()
    with by_hand(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)


async def test_a_file_of_before_there_were_ops_gets_them(backend: SqliteBackend, path: Path) -> None:
    await backend.write([a_write()])
    await backend.close()
    with by_hand(path) as connection:
        connection.execute("ALTER TABLE session DROP COLUMN ops")
    later = SqliteBackend(path, ttl_s=100, host_id="here", clock=ExpiryClock())
    write = a_write(version=2)
    write.meta.ops = {"op-1": b'{"version":2}'}
    (result,) = await later.write([write])
    assert result.outcome is WriteOutcome.WRITTEN
    assert await later.read("call-1") == StoredSession(DOCUMENT, write.meta, 0)
    await later.close()


# -- time ---------------------------------------------------------------------------------------------------


async def test_a_heartbeat_does_not_copy_the_transcript(store: SqliteStore, path: Path) -> None:
    state = SessionState("call-1")
    state.add_turn("user", "x" * 1_000_000)
    await store.save(state)
    with by_hand(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for _ in range(5):
        await store.update_heartbeat("call-1")
    assert 0 < path.with_name("sessions.db-wal").stat().st_size < 200_000


async def test_a_session_lasts_its_ttl_from_the_last_save_or_beat(store: SqliteStore, clock: ExpiryClock) -> None:
    await store.save(SessionState("saved"))
    await store.save(SessionState("beating"))
    await store.save(SessionState("silent"))
    clock.now += 99
    assert len(await store.list_active()) == 3
    await store.update_heartbeat("beating")
    await store.save(SessionState("saved"))
    clock.now += 1
    assert sorted(await store.list_active()) == ["beating", "saved"]
    with pytest.raises(SessionNotFoundError):
        await store.load("silent")
    with pytest.raises(SessionNotFoundError):
        await store.update_heartbeat("silent")
    clock.now += 99
    assert await store.list_active() == []


async def test_expired_rows_are_removed_a_slice_at_a_time(
    backend: SqliteBackend, path: Path, clock: ExpiryClock
) -> None:
    await backend.write([a_write(f"old-{i}") for i in range(250)])
    clock.now += 100
    assert await all_active(backend) == []
    assert count(path) == 250  # reading removes nothing
    await backend.write([a_write("new-1")])
    assert count(path) == 151
    await backend.write([a_write("new-2")])
    await backend.write([a_write("new-3")])
    assert count(path) == 3


async def test_a_save_removes_expired_rows_too(store: SqliteStore, path: Path, clock: ExpiryClock) -> None:
    await store.save(SessionState("old"))
    clock.now += 100
    await store.save(SessionState("new"))
    assert count(path) == 1


async def test_a_tombstone_lasts_as_long_as_a_session(backend: SqliteBackend, clock: ExpiryClock) -> None:
    await backend.write([a_write(version=5)])
    await backend.write([a_write(version=6, document=None)])
    clock.now += 99
    (result,) = await backend.write([a_write(version=5)])
    assert result.outcome is WriteOutcome.SUPERSEDED
    clock.now += 1
    (result,) = await backend.write([a_write(version=5)])
    assert result.outcome is WriteOutcome.WRITTEN


# -- what can't be written ----------------------------------------------------------------------------------


async def test_a_row_sqlite_can_not_take_is_rejected_alone(backend: SqliteBackend) -> None:
    results = await backend.write([a_write("call-1"), a_write("call-2", version=2**63), a_write("call-3")])
    assert [result.outcome for result in results] == [
        WriteOutcome.WRITTEN,
        WriteOutcome.REJECTED,
        WriteOutcome.WRITTEN,
    ]
    assert "OverflowError" in results[1].detail
    assert sorted(await all_active(backend)) == ["call-1", "call-3"]


@pytest.mark.parametrize("name", ["active", "@heartbeats", ""])
async def test_invalid_names_are_refused_or_not_found(store: SqliteStore, name: str) -> None:
    with pytest.raises(InvalidParamsError):
        await store.save(SessionState(name))
    with pytest.raises(SessionNotFoundError):
        await store.load(name)
    with pytest.raises(SessionNotFoundError):
        await store.delete(name)


async def test_an_id_that_is_not_text_is_never_found(store: SqliteStore) -> None:
    with pytest.raises(SessionNotFoundError):
        await store.load("\udcff")
    with pytest.raises(SessionNotFoundError):
        await store.update_heartbeat("\udcff")
    with pytest.raises(SessionNotFoundError):
        await store.delete("\udcff")


async def test_a_locked_file_refuses_after_its_timeout_and_recovers(backend: SqliteBackend, path: Path) -> None:
    await backend.ping()
    with by_hand(path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreRefusingError, match="locked"):
            await backend.write([a_write()])
        assert await backend.read("call-1") is None  # readers go on
        other.execute("ROLLBACK")
    (result,) = await backend.write([a_write()])
    assert result.outcome is WriteOutcome.WRITTEN


async def test_a_full_disk_refuses_the_whole_batch_and_recovers(
    backend: SqliteBackend, store: SqliteStore, path: Path
) -> None:
    """The file may not grow, as on a full disk."""
    await backend.write([a_write("call-1")])
    await backend._database.run(lambda connection, _: connection.execute("PRAGMA max_page_count = 1").fetchone())
    with pytest.raises(StoreRefusingError, match="full"):
        await backend.write([a_write("call-2"), a_write("call-3", document=b"x" * 100_000)])
    assert await all_active(backend) == ["call-1"]
    await backend._database.run(
        lambda connection, _: connection.execute("PRAGMA max_page_count = 100000").fetchone()
    )
    await backend.write([a_write("call-2"), a_write("call-3", document=b"x" * 100_000)])
    assert len(await store.list_active()) == 3


async def test_a_failing_write_to_the_disk_is_a_store_that_is_down_until_it_works(
    backend: SqliteBackend,
) -> None:
    """EFBIG from the kernel, by RLIMIT_FSIZE; Python ignores the signal that goes with it."""
    await backend.write([a_write("call-1")])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    try:
        with pytest.raises((StoreDownError, StoreRefusingError)):
            await backend.write([a_write("call-2", document=b"x" * 1_000_000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (result,) = await backend.write([a_write("call-2", document=b"x" * 1_000_000)])
    assert result.outcome is WriteOutcome.WRITTEN
    assert sorted(await all_active(backend)) == ["call-1", "call-2"]


async def test_a_directory_that_is_not_there_is_a_store_that_is_down(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "later" / "sessions.db")
    with pytest.raises(StoreUnavailableError, match="later"):
        await store.save(SessionState("call-1"))
    (tmp_path / "later").mkdir()
    await store.save(SessionState("call-1"))
    assert await store.list_active() == ["call-1"]
    await store.close()


async def test_a_file_that_is_not_a_database_is_left_unchanged(backend: SqliteBackend, path: Path) -> None:
    path.write_bytes(b"a letter to the editor, and no database at all\n" * 100)
    before = path.read_bytes()
    with pytest.raises(StoreDownError, match="not a database"):
        await backend.write([a_write()])
    assert path.read_bytes() == before
    path.unlink()
    await backend.write([a_write()])


# -- the loop and the thread --------------------------------------------------------------------------------


async def test_the_loop_goes_on_while_the_file_is_busy(backend: SqliteBackend, path: Path) -> None:
    await backend.ping()
    with by_hand(path) as other:
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(backend.write([a_write()]))
        turns = 0
        while not writing.done():
            await asyncio.sleep(0)
            turns += 1
        with pytest.raises(StoreRefusingError):
            await writing
    assert turns > 100


async def test_closing_waits_for_work_in_progress_and_ends_the_thread(path: Path) -> None:
    store = SqliteStore(path)
    saving = asyncio.create_task(store.save(SessionState("call-1")))
    await asyncio.sleep(0)  # the save is with the thread now
    (thread,) = [thread for thread in threading.enumerate() if thread.name.startswith("callstate-sqlite")]
    await store.close()
    await saving
    assert count(path) == 1
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()


async def test_a_cancelled_save_leaves_the_store_in_order(store: SqliteStore) -> None:
    saving = asyncio.create_task(store.save(SessionState("call-1")))
    await asyncio.sleep(0)
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    await store.save(SessionState("call-1", provider="sip"))
    assert (await store.load("call-1")).provider == "sip"


def test_arguments_that_are_refused(path: Path) -> None:
    for ttl in (0, -1, float("nan"), timedelta(days=5000)):
        with pytest.raises(ValueError, match="ttl"):
            SqliteStore(path, ttl=ttl)


# -- a file that goes, a clock that jumps, power that fails ---------------------------------------------------


async def test_a_new_file_with_the_inode_of_a_failed_one_is_noticed(backend: SqliteBackend, path: Path) -> None:
    """Nothing holds the inode of a file that was closed after an error, as before an operator removes it."""

    def broken(_connection: sqlite3.Connection, _now_ms: int) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    await backend.write([a_write("call-1")])
    with pytest.raises(StoreDownError):
        await backend._database.run(broken)
    path.write_bytes(b"")  # the closed connection has removed the other two files
    await backend.check_for_loss()
    assert backend.data_losses == 1
    assert await backend.read("call-1") is None


@pytest.mark.parametrize("how", ["removed", "replaced", "all of it"])
async def test_a_missing_file_is_created_again_and_reported(backend: SqliteBackend, path: Path, how: str) -> None:
    await backend.write([a_write("call-1")])
    assert backend.data_losses == 0
    if how == "replaced":
        path.with_name("empty").touch()
        path.with_name("empty").rename(path)
    else:
        path.unlink()
    if how == "all of it":
        path.with_name("sessions.db-wal").unlink()
        path.with_name("sessions.db-shm").unlink()
    await backend.check_for_loss()
    assert backend.data_losses == 1
    (result,) = await backend.write([a_write("call-2")])
    assert result.outcome is WriteOutcome.WRITTEN
    async with SqliteStore(path) as other:
        assert await other.list_active() == ["call-2"]
    await backend.check_for_loss()
    assert backend.data_losses == 1


async def test_writes_to_a_file_that_was_removed_are_repeated_to_the_new_one(
    backend: SqliteBackend, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.write([a_write("call-1")])
    real, calls = sqlite_writes.purge, 0

    def purge(connection: sqlite3.Connection, now_ms: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            path.unlink()
        real(connection, now_ms)

    monkeypatch.setattr(sqlite_writes, "purge", purge)
    await backend.write([a_write("call-2")])
    assert (calls, backend.data_losses) == (2, 1)
    async with SqliteStore(path) as other:
        assert await other.list_active() == ["call-2"]


@pytest.mark.parametrize("boot", ["the same", "another", ""])
async def test_a_wall_clock_that_jumps_ahead_ends_no_sessions_time(
    path: Path, clock: ExpiryClock, monkeypatch: pytest.MonkeyPatch, boot: str
) -> None:
    """While the store runs, over a restart, and over a boot with a bad clock chip."""

    def opened() -> SqliteBackend:
        return SqliteBackend(path, ttl_s=100, host_id="here", clock=clock)

    monkeypatch.setattr(expiry, "boot_id", lambda: "" if not boot else "boot-1")
    before = opened()
    await before.write([a_write("call-1")])
    wall_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: wall_ns + 10**18)
    monkeypatch.setattr(time, "time", lambda: wall_ns / 1e9 + 10**9)
    await before.write([a_write("call-2")])
    assert len(await all_active(before)) == 2
    await before.close()
    if boot == "another":
        monkeypatch.setattr(expiry, "boot_id", lambda: "boot-2")
        clock.now = 7.0
    after = opened()
    await after.write([a_write("call-3")])
    assert len(await all_active(after)) == 3
    clock.now += 99
    assert len(await all_active(after)) == 3
    clock.now += 1
    assert await all_active(after) == [], "time that goes by counts as ever"
    await after.close()


@pytest.mark.parametrize(("synced", "level"), [(False, 1), (True, 2)])
async def test_a_confirmed_write_is_on_disk_if_configured(path: Path, synced: bool, level: int) -> None:
    backend = SqliteBackend(path, ttl_s=100, host_id="here", synced=synced)
    await backend.write([a_write()])
    asked = await backend._database.run(lambda connection, _: connection.execute("PRAGMA synchronous").fetchone())
    assert asked == (level,), "NORMAL, FULL"
    await backend.close()
