"""Documents in parts in the SQLite file: what a turn costs there, and what becomes of the parts."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from callstate_client import SessionState, connect
from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import read_head
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.store_form import write_of
from callstate_client.engine.sessions.stored import StoredSession
from callstate_client.engine.sessions.writes import Patch, Whole
from callstate_sidecar.stores.backend import WriteOutcome
from callstate_sidecar.stores.sqlite import SqliteBackend, SqliteStore
from callstate_sidecar.stores.sqlite.schema import SCHEMA_VERSION
from support.clock import START_US, ExpiryClock
from support.core import HOST, TIME
from support.daemon import Daemon

TURN = b'{"role":"user","content":"%b"}' % (b"a table for four, please " * 6)
TTL_S = 100

# what the first version made
FIRST_SCHEMA = """
    CREATE TABLE session (
        key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, active INTEGER NOT NULL,
        beat_ms INTEGER NOT NULL DEFAULT 0, expires_ms INTEGER NOT NULL, host TEXT NOT NULL DEFAULT '',
        epoch INTEGER NOT NULL DEFAULT 0, version INTEGER, owner TEXT NOT NULL DEFAULT '',
        ended_reason TEXT NOT NULL DEFAULT '', ended_detail TEXT NOT NULL DEFAULT '',
        ended_at TEXT NOT NULL DEFAULT '', labels TEXT NOT NULL DEFAULT '{}', heartbeat_timeout_s REAL,
        max_duration_s REAL, reaped INTEGER NOT NULL DEFAULT 0, deleted INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE document (key INTEGER PRIMARY KEY, body BLOB NOT NULL);
    CREATE TRIGGER session_gone AFTER DELETE ON session BEGIN DELETE FROM document WHERE key = old.key; END;
    CREATE INDEX session_active ON session (id, expires_ms) WHERE active = 1;
    CREATE INDEX session_expires ON session (expires_ms);
    PRAGMA user_version = 1;
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
def clock() -> ExpiryClock:
    return ExpiryClock()


@pytest.fixture
async def backend(path: Path, clock: ExpiryClock) -> AsyncIterator[SqliteBackend]:
    backend = SqliteBackend(path, ttl_s=TTL_S, host_id=HOST, clock=clock)
    yield backend
    await backend.close()


@contextmanager
def by_hand(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def a_session(turns: int, session_id: str = "a") -> Session:
    document = b'{"id":"%b","status":"active","created_at":"%b"}' % (session_id.encode(), TIME.encode())
    head = read_head(document, "$", lambda _: TIME)
    session = Session(session_id, Document(head, START_US))
    for _ in range(turns):
        session.doc.append(TURN, 1)
    session.next_version(START_US)
    return session


async def flush(backend: SqliteBackend, session: Session) -> None:
    """Write the session and note what the store has then."""
    write = write_of(session, HOST)
    (result,) = await backend.write([write])
    assert result.outcome is WriteOutcome.WRITTEN
    session.in_store, session.stored_version = write.result, session.version


def a_turn_later(session: Session, turn: bytes = TURN) -> None:
    session.doc.append(turn, 1)
    session.doc.updated_us += 1_000_000
    session.next_version(session.doc.updated_us)


async def stored(backend: SqliteBackend, session_id: str = "a") -> StoredSession:
    found = await backend.read(session_id)
    assert found is not None
    return found


def parts(path: Path) -> int:
    with by_hand(path) as connection:
        return int(connection.execute("SELECT count(*) FROM document_tail").fetchone()[0])


def wal_bytes(path: Path) -> int:
    return path.with_name(path.name + "-wal").stat().st_size


@pytest.mark.parametrize("turns", [20, 2000])
async def test_a_turn_costs_a_few_pages_however_long_the_history(
    backend: SqliteBackend, path: Path, turns: int
) -> None:
    session = a_session(turns)
    await flush(backend, session)
    with by_hand(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for _ in range(10):
        a_turn_later(session)
        await flush(backend, session)
    assert wal_bytes(path) < 10 * 4 * 4200, "the session's page, the tail's, and now and then one that is split"
    found = await stored(backend)
    assert json.loads(found.document or b"") == json.loads(session.doc.to_json(session.doc.updated_us))


async def test_the_end_of_a_call_makes_one_document_of_its_parts(backend: SqliteBackend, path: Path) -> None:
    session = a_session(1)
    await flush(backend, session)
    for _ in range(5):
        a_turn_later(session)
        await flush(backend, session)
    assert parts(path) == 5
    session.doc.status = "ended"
    session.next_version(START_US)
    await flush(backend, session)
    assert parts(path) == 0
    assert json.loads((await stored(backend)).document or b"")["status"] == "ended"


async def test_deleted_and_expired_sessions_leave_no_parts(
    backend: SqliteBackend, path: Path, clock: ExpiryClock
) -> None:
    for name in ("deleted", "expired"):
        session = a_session(1, name)
        await flush(backend, session)
        a_turn_later(session)
        await flush(backend, session)
    async with SqliteStore(path, ttl=TTL_S, clock=clock) as store:
        await store.delete("deleted")
    assert parts(path) == 1
    clock.now += TTL_S
    await flush(backend, a_session(1, "another"))
    assert parts(path) == 0


async def test_the_file_is_hardly_larger_than_what_is_in_it(backend: SqliteBackend, path: Path) -> None:
    sessions = [a_session(0, f"call-{number}") for number in range(20)]
    for _ in range(100):
        for session in sessions:
            a_turn_later(session)
        writes = [write_of(session, HOST) for session in sessions]
        assert all(result.outcome is WriteOutcome.WRITTEN for result in await backend.write(writes))
        for session, write in zip(sessions, writes, strict=True):
            session.in_store = write.result
    size = sum(session.doc.size for session in sessions)
    with by_hand(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert size < path.stat().st_size < 2.5 * size


async def test_a_large_change_of_the_head_is_not_kept_where_heartbeats_write(
    backend: SqliteBackend, path: Path
) -> None:
    session = a_session(3)
    session.doc.fields += b',"recovery_data":{"note":"%b"}' % (b"x" * 5000)
    await flush(backend, session)
    a_turn_later(session)
    await flush(backend, session)
    session.doc.fields = session.doc.fields.replace(b"xx", b"yy")
    a_turn_later(session)
    assert isinstance(write_of(session, HOST), Patch)
    await flush(backend, session)
    assert parts(path) == 0
    a_turn_later(session)
    await flush(backend, session)
    found = json.loads((await stored(backend)).document or b"")
    assert found == json.loads(session.doc.to_json(session.doc.updated_us))
    assert found["recovery_data"] == {"note": "y" * 5000}
    with by_hand(path) as connection:
        assert connection.execute("SELECT max(length(head)) FROM session").fetchone()[0] < 500


async def test_fields_and_counters_are_patched_in_any_order(backend: SqliteBackend) -> None:
    session = a_session(3)
    session.doc.fields += b',"recovery_data":{"node":"greet"}'
    await flush(backend, session)
    for node in (b"greet", b"offer", b"offer", b"close", b"close"):
        session.doc.fields = session.doc.fields[: session.doc.fields.index(b',"recovery')]
        session.doc.fields += b',"recovery_data":{"node":"%b"}' % node
        a_turn_later(session)
        assert isinstance(write_of(session, HOST), Patch)
        await flush(backend, session)
        found = json.loads((await stored(backend)).document or b"")
        assert found == json.loads(session.doc.to_json(session.doc.updated_us))


async def test_a_turn_renews_the_ttl_only_when_a_quarter_has_passed(
    backend: SqliteBackend, path: Path, clock: ExpiryClock
) -> None:
    def expires_ms() -> int:
        with by_hand(path) as connection:
            return int(connection.execute("SELECT expires_ms FROM session").fetchone()[0])

    session = a_session(1)
    await flush(backend, session)
    first = expires_ms()
    clock.now += TTL_S * 0.2
    a_turn_later(session)
    await flush(backend, session)
    assert expires_ms() == first
    clock.now += TTL_S * 0.1
    a_turn_later(session)
    await flush(backend, session)
    assert expires_ms() == first + TTL_S * 300


async def test_a_file_of_the_first_version_gets_parts(path: Path, clock: ExpiryClock) -> None:
    session = a_session(3)
    session.version = 7
    write = write_of(session, HOST)
    assert isinstance(write, Whole)
    document = write.document
    with by_hand(path) as connection:
        connection.executescript(FIRST_SCHEMA)
        connection.execute(
            "INSERT INTO session (key, id, active, expires_ms, host, version) VALUES (5, 'a', 1, 1 << 62, ?, 7)",
            (HOST,),
        )
        connection.execute("INSERT INTO document VALUES (5, ?)", (document,))
    backend = SqliteBackend(path, ttl_s=TTL_S, host_id=HOST, clock=clock)
    found = await stored(backend)
    assert (found.document, found.foreign_stamp) == (document, b"")
    await flush(backend, session)
    a_turn_later(session)
    await flush(backend, session)
    assert parts(path) == 1
    found = await stored(backend)
    assert json.loads(found.document or b"") == json.loads(session.doc.to_json(session.doc.updated_us))
    with by_hand(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        connection.execute("DELETE FROM session")
    assert parts(path) == 0
    await backend.close()


@pytest.mark.system
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_the_daemon_takes_what_others_do_to_the_file() -> None:
    options = ("--set", "store.beat_interval_s=0.1", "--set", "store.flush_interval_s=0.02")
    with Daemon(*options) as daemon:
        async with (
            connect(daemon.socket) as store,
            SqliteStore(daemon.state_dir / "callstate.db") as other,
            store.events("recovered", "deleted") as events,
        ):
            heard = aiter(events)
            for name in ("changed", "deleted"):
                await store.save(SessionState(name, status="active"))
                await store.add_turn(name, "user", "hello")
                await store.flush(timeout_s=20.0)
                await store.add_turn(name, "agent", "hello")
            assert (await store.flush(timeout_s=20.0)).unflushed == 0
            theirs = await other.load("changed")
            assert len(theirs.history) == 2
            theirs.extra["note"] = "theirs"
            await other.save(theirs)
            event = await anext(heard)
            assert (event.type, event.session_id, event.reason) == ("recovered", "changed", "foreign_write")
            record = await store.load("changed")
            assert (record.extra["note"], len(record.history)) == ("theirs", 2)
            await other.delete("deleted")
            event = await anext(heard)
            assert (event.type, event.session_id) == ("deleted", "deleted")
            assert await store.list_active() == ["changed"]
        daemon.close(expect="other software")
