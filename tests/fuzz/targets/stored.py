"""A session as the store has it, written by Go, by another version, or by a hand.

Input: a document; then, each after a NUL, fields of its meta as `name=value`. A field whose value begins with `i:`,
`f:`, `b:` or `n:` is an integer, a float, bytes or NULL in SQLite, whose columns take any type. What is read
has the values that Go reads, and can be journaled and written again; what is not is an `UnreadableError`.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import suppress
from functools import cache
from typing import Any

from callstate_client.engine.sessions.records import HistoryMode, decode_record, encode_record
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.store_form import placeholder_of, session_of
from callstate_client.engine.sessions.stored import StoredSession
from callstate_client.engine.table.replay import replay, snapshot
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.errors import UnreadableError
from callstate_client.protocol.messages import encode_json
from callstate_sidecar.stores.redis import backend as redis_backend
from callstate_sidecar.stores.sqlite import backend as sqlite_backend
from callstate_sidecar.stores.sqlite.schema import prepare
from callstate_sidecar.stores.sqlite.writes import META
from fuzz import reference
from support.core import HOST, durable_state
from support.go_reader import read_as_go

ID = "c1"
OTHERS = ("head_position", "head", "foreign_stamp", "beat_ms")


def check(data: bytes) -> None:
    """Read one session from both stores."""
    document, *rest = data.split(b"\0")
    fields = {name: value for name, _, value in (part.partition(b"=") for part in rest)}
    values = [part for item in fields.items() for part in item]
    beat = fields.get(b"beat_ms")
    stored = redis_backend._stored([document, values, beat, fields.get(b"foreign"), 0])
    assert stored is not None
    _check_stored(stored, b"" if fields.get(b"foreign") else document)
    _check_row(document, fields)


def _check_stored(stored: StoredSession, document: bytes) -> None:
    try:
        session = session_of(ID, stored, HOST)
    except UnreadableError:
        session = placeholder_of(ID, stored, HOST)
    else:
        if session is not None and not _repeats_a_name(document):
            _check_equal(session, document)
    if session is not None:
        _check_kept(session)


def _repeats_a_name(document: bytes) -> bool:
    """Whether an object has a member twice.

    Nobody writes that, and readers differ in what they make of it (RFC 8259, section 4): here the last one counts,
    while Go merges objects, and refuses the first one for its type.
    """
    repeats = False

    def note(members: list[tuple[str, Any]]) -> None:
        nonlocal repeats
        repeats |= len({name for name, _ in members}) < len(members)

    with suppress(ValueError, RecursionError):
        json.loads(document.decode(errors="replace"), object_pairs_hook=note)
    return repeats


def _check_equal(session: Session, document: bytes) -> None:
    """Check that a session that was read is what Go reads of its document."""
    ours = read_as_go(session.doc.to_json(session.doc.updated_us))
    theirs = read_as_go(document)
    ours["status"] = theirs["status"]  # its meta may know better
    if not theirs["recovery_data"]:
        theirs["recovery_data"] = None
    try:
        assert reference.canonical(ours) == reference.canonical(theirs)
    except RecursionError:
        return
    reference.read(session.doc.to_json(session.doc.updated_us))


def _check_kept(session: Session) -> None:
    """Check that it can be journaled, and that what is told of it is JSON."""
    table, again = SessionTable(), SessionTable()
    session.doc.updated_text = ("", 0)  # what is finer than a microsecond lasts as long as the session is hot
    table.insert(session)
    for record in snapshot(table):
        replay(again, decode_record(encode_record(record)))
    assert durable_state(again) == durable_state(table), "a restart restores something else"
    record = session.record(HistoryMode.KEEP, b"", 0, [])
    assert decode_record(encode_record(record)) == record
    reference.read(encode_json(session.facts))
    for result in session.ops.values():
        reference.read(result)


def _check_row(document: bytes, fields: dict[bytes, bytes]) -> None:
    connection = _database()
    row: dict[str, Any] = {"id": ID, "active": 1, "expires_ms": 2**62, "version": 1, "host": HOST}
    for name in (*META, *OTHERS):
        if name.encode() in fields:
            row[name] = _sql_value(fields[name.encode()])
    columns, places = ", ".join(row), ", ".join("?" * len(row))
    connection.execute("SAVEPOINT row")
    try:
        connection.execute(f"INSERT INTO session ({columns}) VALUES ({places})", [*row.values()])  # noqa: S608
        key = connection.execute("SELECT key FROM session").fetchone()[0]
        connection.execute("INSERT INTO document VALUES (?, ?)", (key, document))
        found = connection.execute(sqlite_backend._READ, {"id": ID, "now_ms": 0, "most": len(document)}).fetchone()
        stored = sqlite_backend._stored(connection, *found)
    except sqlite3.Error:
        return  # the database refuses the row, and a read that fails is the store's fault
    finally:
        connection.execute("ROLLBACK TO row")
    _check_stored(stored, stored.document or b"")


def _sql_value(text: bytes) -> Any:
    kind, value = text[:2], text[2:]
    try:
        if kind == b"i:":
            return max(-(2**63), min(int(value), 2**63 - 1))
        if kind == b"f:":
            return float(value)
    except ValueError:
        return None
    if kind == b"b:":
        return value
    return None if kind == b"n:" else text.decode("utf-8", "replace")


@cache
def _database() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    prepare(connection)
    return connection
