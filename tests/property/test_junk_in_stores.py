"""Whatever is in a store, requests get well-formed replies or declared errors, and a flush and a replay work."""

from __future__ import annotations

import json
import sqlite3
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from callstate_client.errors import InternalError, TooLargeError, UnreadableError, WireError
from callstate_client.model.go_json import decode_any
from callstate_client.protocol.messages import encode_json
from callstate_sidecar.config.schema import LimitsConfig
from callstate_sidecar.stores.document_store import DocumentStore
from callstate_sidecar.stores.redis import RedisBackend, RedisStore
from callstate_sidecar.stores.sqlite import SqliteBackend, SqliteStore
from callstate_sidecar.stores.sqlite.writes import META
from support.budget import examples
from support.core import HOST, Core
from support.redis_server import RedisServer

ID: Final = "a"

PHASES: Final = (Phase.explicit, Phase.reuse, Phase.generate)
"""Not Phase.shrink: an example takes tens of milliseconds, and names the junk that it consists of anyway."""


def deep(levels: int) -> bytes:
    """A document with this nesting, of which the document itself is the first level."""
    inner = levels - 1
    return b'{"id":"a","recovery_data":{"x":%b}}' % (b"[" * (inner - 1) + b"]" * (inner - 1))


DOCUMENTS: Final[Mapping[str, bytes]] = {
    "usual": b'{"id":"a","status":"active","history":[{"role":"user","content":"hi"}]}',
    "of go": b'{"id":"a","history":null,"created_at":"0001-01-01T00:00:00Z","x":18446744073709551615}',
    "ended": b'{"id":"a","status":"ended"}',
    "deep": deep(65),
    "very deep": deep(2000),
    "as deep as go": deep(9_996),  # the reply to session.list has it three levels deeper
    "deeper than go": deep(10_001),
    "of another id": b'{"id":"b","status":"active"}',
    "without an id": b"{}",
    "bad utf-8": b'{"id":"a","from":"\xff"}',
    "bad utf-8 passed through": b'{"id":"a","x":{"y":"\xc3"}}',
    "surrogate": b'{"id":"a","from":"\\ud800"}',
    "surrogate passed through": b'{"id":"a","x":["\\udfff"]}',
    "surrogate in a name": b'{"id":"a","x":{"\\ud800":1}}',
    "surrogate in a turn": b'{"id":"a","history":[{"role":"user","x":"\\ud800"}]}',
    "nan": b'{"id":"a","x":NaN}',
    "large number": b'{"id":"a","x":1e999}',
    "half": b'{"id":"a","history":[{"role"',
    "after the end": b'{"id":"a"}}',
    "no object": b'"a"',
    "array": b"[[]]",
    "empty": b"",
    "null": b"null",
    "zeros": bytes(40),
    "spaces": b' \n{"id":"a"}\t ',
    "twice": b'{"id":"a","id":"b"}',
    "other case": b'{"ID":"a","Status":"ended","HISTORY":[]}',
    "control character": b'{"id":"a","from":"\x01"}',
    "counters": b'{"id":"a","metrics":{"turn_count":99999999999999999999}}',
}
READABLE: Final = {"usual", "of go", "ended", "deep", "very deep", "as deep as go", "spaces", "other case"}

JUNK: Final = [
    b"", b"0", b"1", b"7", b"-1", b"00012", b"9223372036854775807", b"9223372036854775808", b"18446744073709551615",
    b"9" * 20, b"1e300", b"1e-300", b"nan", b"inf", b"1.5", b"\xff\xfe", b"x", b"x" * 5000, b"{", b"{}",
    b"[]", b"[1]", b'{"a":1}', b'{"a":"b"}', b'{"\xff":"b"}', b'{"":""}', b'"\\ud800"', b"null", b"[" * 300, b"\0",
    b"5 {}", b"5 x", b'5 {"version":1}', b"5 \xff", b"5 " + b"[" * 300, b"5 " + b"9" * 5000,
    b"2026-01-01T00:00:00Z", b"9999-12-31T23:59:59.999999999Z", b"0001-01-01T00:00:00Z", b"0000-00-00",
    b"live", b"suspect", b"orphan", b"ended", b"active", b'{"a":"%b"}' % (b"y" * 5000),
    json.dumps({f"l{index}": "v" for index in range(100)}).encode(),
    '{"größe":"ü"}'.encode(), "größe".encode(),
]  # fmt: skip
FIELDS: Final = [
    "epoch", "owner", "ended_reason", "ended_detail", "ended_at", "labels", "heartbeat_timeout_s", "max_duration_s",
    "reaped", "status_before", "state", "orphan", "uid", "gid", "deleted", "ops",
]  # fmt: skip
USUAL: Final = {"host": HOST.encode(), "version": b"7", "epoch": b"3", "state": b"live"}

junk = st.sampled_from(JUNK) | st.binary(max_size=20)
meta = st.dictionaries(st.sampled_from([*FIELDS, "op:o1", "op:\xff", "stamp", "x"]), junk, max_size=5).flatmap(
    lambda fields: st.fixed_dictionaries({"host": st.sampled_from([HOST.encode(), b"other", b"\xff", b""]),
                                          "version": st.just(b"7") | junk}).map(lambda first: {**first, **fields})
)  # fmt: skip

REQUESTS: Final[list[tuple[str, dict[str, Any]]]] = [
    ("session.load", {"session_id": ID}),
    ("session.load", {"session_id": ID, "history": 1}),
    ("session.list", {"scope": "all"}),
    ("session.list_active", {"scope": "all"}),
    ("session.heartbeat", {"session_id": ID}),
    ("session.heartbeat", {"session_ids": [ID, "b"]}),
    ("session.save", {"session": {"id": ID}, "if_version": 0}),
    ("session.add_turn", {"session_id": ID, "turn": {"role": "user", "content": "x"}, "op": "o1"}),
    ("session.update", {"session_id": ID, "set": {"status": "on_hold"}, "op": "o2"}),
    ("session.amend_turn", {"session_id": ID, "set": {"content": "y"}}),
    ("session.record_interruption", {"session_id": ID}),
    ("session.claim", {"session_id": ID, "worker_id": "w"}),
    ("session.claim_next", {"worker_id": "w"}),
    ("session.end", {"session_id": ID, "reason": "r"}),
    ("session.save", {"session": {"id": ID, "status": "active"}}),
    ("session.delete", {"session_id": ID, "op": "o3"}),
]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


async def asked(core: Core, method: str, params: dict[str, Any]) -> Any:
    """The result, or the error, which is a declared one and can be sent."""
    try:
        result = await core.raw(method, **params)
    except InternalError:
        raise
    except WireError as error:
        encode_json(error.data)
        return error
    result.decode()
    assert b"\n" not in result
    return decode_any(result)


async def check(core: Core, order: list[int]) -> None:
    """Send requests in some order, flush in between, and replay."""
    for index in order:
        await asked(core, *REQUESTS[index])
        await core.writer.write_round()
    core.advance(1000.0)
    await core.writer.write_round()
    for session in core.replayed().sessions.values():
        decode_any(session.doc.to_json(session.updated_us))


async def check_store(store: DocumentStore) -> None:
    """The same of the stores without a daemon."""
    await store.list_active()
    for work in (store.load, store.update_heartbeat):
        try:
            found = await work(ID)
        except InternalError:
            raise
        except WireError:
            pass
        else:
            if found is not None:
                decode_any(found.to_json())


documents = st.sampled_from([*DOCUMENTS.values(), None])
beats = st.sampled_from([0, -1, 1e300, 1e15])
order = st.lists(st.integers(0, len(REQUESTS) - 1), max_size=6)


class InRedis:
    def __init__(self, raw: Redis, prefix: str) -> None:
        self._raw, self._prefix = raw, prefix

    async def put(self, document: bytes | None, fields: Mapping[str, bytes], beat: float = 0) -> None:
        raw, prefix = self._raw, self._prefix
        if document is not None:
            await raw.set(f"{prefix}{ID}", document)
        if fields:
            named = {name.encode("latin-1"): value for name, value in fields.items()}
            await raw.hset(f"{{{prefix}{ID}}}:meta", mapping=named)  # type: ignore[misc]
        await raw.sadd(f"{prefix}active", ID, b"\xff", b"", b"{}", b"x" * 3000, b"@heartbeats", "b")  # type: ignore[misc]
        await raw.zadd(f"{prefix}@heartbeats", {ID: beat})


def sql_value(value: bytes) -> Any:
    """As SQLite is asked to store it: a number if it is one, text if it is that, else a BLOB."""
    if value == b"nan":
        return "nan"  # SQLite has no NaN
    for convert in (int, float, bytes.decode):
        try:
            found = convert(value)
        except ValueError:
            continue
        if not isinstance(found, int) or abs(found) < 2**63:
            return found
    return value


async def put_in_sqlite(path: Path, document: bytes | None, fields: Mapping[str, bytes], beat: float = 0) -> None:
    async with SqliteStore(path) as store:
        await store.ping()
    columns: dict[str, Any] = {"id": ID, "active": 1, "expires_ms": 2**60, "beat_ms": beat}
    columns |= {name: sql_value(value) for name, value in fields.items() if name in META}
    marks = ", ".join("?" * len(columns))
    with closing(sqlite3.connect(path)) as connection, connection:
        insert = f"INSERT INTO session ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - names of columns
        connection.execute(insert, [*columns.values()])
        connection.execute(
            "INSERT INTO session (id, active, expires_ms) VALUES (CAST(x'ff' AS TEXT), 1, ?)", (2**60,)
        )
        if document is not None:
            connection.execute("INSERT INTO document SELECT key, ? FROM session WHERE id = ?", (document, ID))


@given(fields=meta, document=documents, beat=beats, order=order)
@settings(max_examples=examples(40), phases=PHASES)
async def test_junk_in_redis_is_answered(
    redis_server: RedisServer, fields: dict[str, bytes], document: bytes | None, beat: float, order: list[int]
) -> None:
    prefix = f"{uuid.uuid4()}:"
    backend = RedisBackend(redis_server.url, prefix=prefix, ttl_s=1000, timeout_s=5, host_id=HOST)
    async with Redis.from_url(redis_server.url, protocol=2) as raw:
        await InRedis(raw, prefix).put(document, fields, beat)
        await check(Core(backend=backend), order)
    await backend.close()
    async with RedisStore.from_url(redis_server.url, prefix=prefix) as store:
        await check_store(store)


@given(fields=meta, document=documents, beat=beats, order=order)
@settings(max_examples=examples(40), phases=PHASES)
async def test_junk_in_sqlite_is_answered(
    directory: Path, fields: dict[str, bytes], document: bytes | None, beat: float, order: list[int]
) -> None:
    path = directory / f"{uuid.uuid4()}.db"
    await put_in_sqlite(path, document, fields, beat)
    async with SqliteStore(path) as store:
        await check_store(store)
    backend = SqliteBackend(path, ttl_s=1000, host_id=HOST)
    await check(Core(backend=backend), order)
    await backend.close()


UNREADABLE_META: Final[list[dict[str, bytes]]] = [
    {"version": b"x"}, {"version": b"-1"}, {"version": b"1.5"}, {"version": b"9" * 20}, {"version": b"\xff"},
    {"epoch": b"x"}, {"epoch": b"-1"}, {"epoch": b"9223372036854775808"}, {"host": b"h" * 65},
]  # fmt: skip


@pytest.mark.parametrize("fields", UNREADABLE_META, ids=str)
@pytest.mark.parametrize("kind", ["redis", "sqlite"])
@pytest.mark.parametrize("document", ["usual", None])
@pytest.mark.parametrize("deleted", [False, True])
async def test_what_does_not_say_whose_it_is_is_unreadable_until_somebody_replaces_it(
    redis_server: RedisServer,
    directory: Path,
    kind: str,
    fields: dict[str, bytes],
    document: str | None,
    deleted: bool,
) -> None:
    prefix, path = f"{uuid.uuid4()}:", directory / f"{uuid.uuid4()}.db"
    found = None if document is None else DOCUMENTS[document]
    beside = USUAL | {"deleted": b"0" if document else b"1"} | fields
    async with Redis.from_url(redis_server.url, protocol=2) as raw:
        if kind == "redis":
            await InRedis(raw, prefix).put(found, beside)
            backend: Any = RedisBackend(redis_server.url, prefix=prefix, ttl_s=1000, timeout_s=5, host_id=HOST)
        else:
            await put_in_sqlite(path, found, beside)
            backend = SqliteBackend(path, ttl_s=1000, host_id=HOST)
        core = Core(backend=backend)
        assert isinstance(await asked(core, "session.load", {"session_id": ID}), UnreadableError)
        created = await asked(core, "session.save", {"session": {"id": ID}, "if_version": 0})
        assert isinstance(created, WireError)
        await core.writer.write_round()
        seen = await asked(core, "session.load", {"session_id": ID})
        assert isinstance(seen, UnreadableError)
        if deleted:
            assert await asked(core, "session.delete", {"session_id": ID}) == {}
        else:
            save = {"session": {"id": ID, "to": "x"}, "if_version": seen.data["version"]}
            assert (await asked(core, "session.save", save))["version"]
        await core.writer.write_round()
        assert not core.table.dirty.marks
        stored = await backend.read(ID)
        assert stored is not None
        assert stored.meta is not None
        assert (stored.document is None) is deleted
        assert stored.meta.deleted is deleted
        await backend.close()


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("kind", ["redis", "sqlite"])
async def test_a_document_is_served_as_it_is_or_unreadable_and_never_replaced(
    redis_server: RedisServer, directory: Path, name: str, kind: str
) -> None:
    document = DOCUMENTS[name]
    prefix, path = f"{uuid.uuid4()}:", directory / f"{uuid.uuid4()}.db"
    async with Redis.from_url(redis_server.url, protocol=2) as raw:
        store: DocumentStore
        if kind == "redis":
            await InRedis(raw, prefix).put(document, USUAL)
            backend: Any = RedisBackend(redis_server.url, prefix=prefix, ttl_s=1000, timeout_s=5, host_id=HOST)
            store = RedisStore.from_url(redis_server.url, prefix=prefix)
        else:
            await put_in_sqlite(path, document, USUAL)
            backend = SqliteBackend(path, ttl_s=1000, host_id=HOST)
            store = SqliteStore(path)
        core = Core(backend=backend)
        found = await asked(core, "session.load", {"session_id": ID})
        if name in READABLE:
            assert found["session"]["id"] == ID
            assert (await store.load(ID)).id == ID
        else:
            assert isinstance(found, UnreadableError)
            with pytest.raises(UnreadableError):
                await store.load(ID)
            created = await asked(core, "session.save", {"session": {"id": ID}, "if_version": 0})
            assert isinstance(created, WireError)
            await core.writer.write_round()
            stored = await backend.read(ID)
            assert stored is not None
            assert stored.document == document
        await store.close()
        await backend.close()


async def test_a_document_beyond_the_limit_is_served_and_may_end_and_does_not_grow() -> None:
    """Go has no limit."""
    core = Core(limits=LimitsConfig(session_bytes=4096))
    core.memory.put(ID, b'{"id":"a","status":"active","to":"%b"}' % (b"x" * 10_000), None)
    assert len((await asked(core, "session.load", {"session_id": ID}))["session"]["to"]) == 10_000
    turn = {"session_id": ID, "turn": {"role": "user", "content": "x"}}
    assert isinstance(await asked(core, "session.add_turn", turn), TooLargeError)
    assert (await asked(core, "session.end", {"session_id": ID, "reason": "r"}))["version"]
