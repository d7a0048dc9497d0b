"""RedisStore and RedisBackend against a real server: the keys they leave, and the server's bad days."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, ResponseError

from callstate_client.engine.sessions.store_form import session_of
from callstate_client.engine.sessions.stored import (
    StoredMeta,
    StoreDownError,
    StoredSession,
    StoreRefusingError,
)
from callstate_client.engine.sessions.writes import Patch, Whole
from callstate_client.errors import (
    InvalidParamsError,
    SessionEndedError,
    SessionNotFoundError,
    StoreUnavailableError,
    UnreadableError,
)
from callstate_client.model import SessionState
from callstate_sidecar.stores.backend import WriteOutcome
from callstate_sidecar.stores.redis import RedisBackend, RedisStore
from callstate_sidecar.stores.redis import backend as redis_backend
from callstate_sidecar.stores.redis.errors import fault_of_all, is_refusal
from support.documents import go_document
from support.patches import a_patch
from support.redis_server import RedisServer, binaries
from support.stores import all_active

PATIENT_S = 10.0  # no pause of the machine takes that long
IMPATIENT_S = 1.0  # where a server does not answer, and the limit is waited for
DOCUMENT = b'{"id":"call-1","status":"active"}'


@pytest.fixture
def prefix() -> str:
    return f"{uuid.uuid4()}:"


@pytest.fixture
async def raw(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_server.url, protocol=2) as client:
        yield client


@pytest.fixture
async def store(redis_server: RedisServer, prefix: str) -> AsyncIterator[RedisStore]:
    async with RedisStore.from_url(redis_server.url, prefix=prefix, ttl=1000) as store:
        yield store


@pytest.fixture
async def backend(redis_server: RedisServer, prefix: str) -> AsyncIterator[RedisBackend]:
    backend = RedisBackend(redis_server.url, prefix=prefix, ttl_s=1000, timeout_s=5, host_id="here")
    yield backend
    await backend.close()


@asynccontextmanager
async def both(
    url: str, password: str | None = None, timeout_s: float = PATIENT_S
) -> AsyncIterator[tuple[RedisStore, RedisBackend]]:
    store = RedisStore.from_url(url, timeout_s=timeout_s)
    backend = RedisBackend(url, ttl_s=1000, timeout_s=timeout_s, host_id="here", password=password)
    try:
        yield store, backend
    finally:
        await store.close()
        await backend.close()


def a_write(session_id: str = "call-1", version: int = 1, document: bytes | None = DOCUMENT) -> Whole:
    meta = StoredMeta(host="here", epoch=1, version=version)
    return Whole(session_id, document, meta, active=document is not None, beat_ms=5)


def patch_of(session_id: str) -> Patch:
    """The document of version 1 with its bytes written anew."""
    base, meta = (StoredMeta(host="here", epoch=1, version=version) for version in (1, 2))
    return structs.replace(a_patch(base, DOCUMENT, meta), session_id=session_id)


async def keys_under(raw: Redis, prefix: str) -> set[str]:
    keys = {key.decode().replace(prefix, "P:") for key in await raw.keys(f"*{prefix}*")}
    return {key for key in keys if not key.startswith("P:@mark:")}


# -- the layout ---------------------------------------------------------------------------------------------


async def test_a_save_leaves_the_go_packages_keys(store: RedisStore, raw: Redis, prefix: str) -> None:
    state = SessionState("call-1", provider="twilio")
    await store.save(state)
    assert await keys_under(raw, prefix) == {"P:call-1", "P:active"}
    assert await raw.get(prefix + "call-1") == state.to_json()
    assert await raw.smembers(prefix + "active") == {b"call-1"}
    assert 990_000 < await raw.pttl(prefix + "call-1") <= 1_000_000
    assert await raw.ttl(prefix + "active") == -1


async def test_a_heartbeat_renews_what_lives_and_shortens_nothing(
    store: RedisStore, raw: Redis, prefix: str
) -> None:
    await store.save(SessionState("call-1"))
    document = await raw.get(prefix + "call-1")
    await raw.pexpire(prefix + "call-1", 5_000)
    await store.update_heartbeat("call-1")
    assert await raw.pttl(prefix + "call-1") > 990_000
    assert 990_000 < await raw.pttl(prefix + "@heartbeats") <= 1_000_000
    assert await raw.get(prefix + "call-1") == document
    await raw.pexpire(prefix + "call-1", 5_000_000)
    await raw.pexpire(prefix + "@heartbeats", 5_000_000)
    await store.update_heartbeat("call-1")
    assert await raw.pttl(prefix + "call-1") > 4_000_000
    assert await raw.pttl(prefix + "@heartbeats") > 4_000_000
    await raw.persist(prefix + "call-1")
    await store.update_heartbeat("call-1")
    assert await raw.pttl(prefix + "call-1") == -1


async def test_an_end_takes_the_beat_out_and_a_delete_leaves_no_trace(
    store: RedisStore, backend: RedisBackend, raw: Redis, prefix: str
) -> None:
    await backend.write([a_write()])
    await store.update_heartbeat("call-1")
    assert await keys_under(raw, prefix) == {
        "P:call-1", "P:active", "{P:call-1}:meta", "P:@heartbeats", "P:@host:here:sessions"
    }  # fmt: skip
    await store.delete("call-1")
    assert await keys_under(raw, prefix) == set()
    await store.save(SessionState("call-1"))
    await store.update_heartbeat("call-1")
    await store.save(SessionState("call-1", status="ended"))
    assert await keys_under(raw, prefix) == {"P:call-1"}


async def test_a_write_leaves_meta_beside_the_document(backend: RedisBackend, raw: Redis, prefix: str) -> None:
    document = b'{"id":"call-1","pad":"' + b"\xc3\xbc" * 600 + b'"}'
    meta = StoredMeta(host="", epoch=7, version=2**63 - 1, owner="w-1", labels={"app": "sales"})
    await backend.write([Whole("call-1", document, meta, active=True, beat_ms=1_700_000_000_123)])
    assert await raw.hgetall(f"{{{prefix}call-1}}:meta") == {
        b"host": b"here",
        b"epoch": b"7",
        b"version": b"9223372036854775807",
        b"owner": b"w-1",
        b"ended_reason": b"",
        b"ended_detail": b"",
        b"reaped": b"0",
        b"status_before": b"",
        b"ended_at": b"",
        b"labels": b'{"app":"sales"}',
        b"deleted": b"0",
        b"stamp": b"%d:%b" % (len(document), document[:512]),
        b"heartbeat_timeout_s": b"",
        b"max_duration_s": b"",
        b"state": b"",
        b"orphan": b"",
    }
    assert await raw.zscore(prefix + "@heartbeats", "call-1") == 1_700_000_000_123
    assert await raw.smembers(prefix + "@host:here:sessions") == {b"call-1"}
    for key in ("call-1", "@host:here:sessions", "@heartbeats"):
        assert 990_000 < await raw.pttl(prefix + key) <= 1_000_000
    assert 990_000 < await raw.pttl(f"{{{prefix}call-1}}:meta") <= 1_000_000


@pytest.mark.parametrize("what", ["loss", "beats", "write"])
async def test_who_has_to_wait_for_a_batch_waits_for_no_connection(
    backend: RedisBackend, redis_server: RedisServer, what: str
) -> None:
    """That wait has a limit, and what fails at it counts as a store that is down, though it answers the batch."""
    await backend.check_for_loss()
    pool: Any = backend._writing._servers._client.connection_pool  # type: ignore[attr-defined]
    redis_server.pause()
    try:
        writing = asyncio.ensure_future(backend.write([a_write("call-1")]))
        while not pool._in_use_connections:
            await asyncio.sleep(0)
        waiting: asyncio.Future[Any] = asyncio.ensure_future({
            "loss": backend.check_for_loss,
            "beats": lambda: backend.write_beats({"call-1": 1}),
            "write": lambda: backend.write([a_write("call-2")]),
        }[what]())  # fmt: skip
        for _ in range(5):
            await asyncio.sleep(0)
        assert not pool._waiting
    finally:
        redis_server.resume()
    await asyncio.gather(writing, waiting)


async def test_a_session_is_in_one_hosts_set_at_a_time(backend: RedisBackend, raw: Redis, prefix: str) -> None:
    await backend.write([a_write()])
    meta = StoredMeta(host="there", epoch=2, version=1)
    await backend.write([Whole("call-1", DOCUMENT, meta, active=True)])
    assert await raw.smembers(prefix + "@host:here:sessions") == set()
    assert await raw.smembers(prefix + "@host:there:sessions") == {b"call-1"}
    meta = StoredMeta(host="there", epoch=2, version=2)
    await backend.write([Whole("call-1", None, meta, active=False)])
    assert await keys_under(raw, prefix) == {"{P:call-1}:meta"}
    assert await raw.hget(f"{{{prefix}call-1}}:meta", "deleted") == b"1"
    assert 990_000 < await raw.pttl(f"{{{prefix}call-1}}:meta") <= 1_000_000


async def test_ghosts_are_taken_out_of_the_sets(store: RedisStore, raw: Redis, prefix: str) -> None:
    await store.save(SessionState("call-1"))
    await raw.sadd(prefix + "active", *(f"ghost-{i}" for i in range(1200)))
    await raw.zadd(prefix + "@heartbeats", {"ghost-1": 5})
    assert await store.list_active() == ["call-1"]
    assert await raw.smembers(prefix + "active") == {b"call-1"}
    assert await raw.zcard(prefix + "@heartbeats") == 0


async def test_a_key_that_expires_by_itself_is_no_longer_listed(redis_server: RedisServer, prefix: str) -> None:
    async with RedisStore.from_url(redis_server.url, prefix=prefix, ttl=timedelta(milliseconds=30)) as store:
        await store.save(SessionState("call-1"))

        async def expired() -> None:
            while await store.list_active():
                pass

        await asyncio.wait_for(expired(), 10)
        with pytest.raises(SessionNotFoundError):
            await store.load("call-1")


@pytest.mark.parametrize("session_id", [b"call 42", b"{braces}", b"x" * 300, "grüße".encode(), b"\xff\xfe"])
async def test_ids_the_daemon_refuses_are_served_where_go_wrote_them(
    store: RedisStore, raw: Redis, prefix: str, session_id: bytes
) -> None:
    inside = session_id.decode("utf-8", "surrogateescape")  # where Go writes U+FFFD for each byte that is no UTF-8
    document = go_document("plain", re.sub("[\udc80-\udcff]", "\ufffd", inside).encode())
    await raw.set(prefix.encode() + session_id, document, ex=100)
    await raw.sadd(prefix + "active", session_id)
    (listed,) = await store.list_active()
    assert (await store.load(listed)).provider == "twilio"
    await store.update_heartbeat(listed)
    assert await raw.zscore(prefix + "@heartbeats", session_id) is not None
    await store.delete(listed)
    assert await keys_under(raw, prefix) == set()


@pytest.mark.parametrize("name", ["active", "@heartbeats", "@host:here:sessions", ""])
async def test_keys_of_the_layout_are_not_taken_for_sessions(
    store: RedisStore, backend: RedisBackend, raw: Redis, prefix: str, name: str
) -> None:
    await backend.write([a_write()])
    before = await keys_under(raw, prefix)
    with pytest.raises(InvalidParamsError) as caught:
        await store.save(SessionState(name))
    assert caught.value.path == "$.id"
    with pytest.raises(SessionNotFoundError):
        await store.load(name)
    with pytest.raises(SessionNotFoundError):
        await store.update_heartbeat(name)
    with pytest.raises(SessionNotFoundError):
        await store.delete(name)
    assert await keys_under(raw, prefix) == before


async def test_a_session_missing_from_the_active_set_is_listed_again_by_its_beat(
    store: RedisStore, raw: Redis, prefix: str
) -> None:
    await raw.set(prefix + "go-1", go_document("plain"), ex=100)
    deep = b'"recovery_data":' + b'{"a":' * 5000 + b"1" + b"}" * 5000
    ended = go_document("plain", b"go-2").replace(b'"active"', b'"ended"')
    await raw.set(prefix + "go-2", ended.replace(b'"recovery_data":{"step":3}', deep), ex=100)
    await raw.set(prefix + "odd", b"no document", ex=100)
    await store.update_heartbeat("go-1")
    with pytest.raises(UnreadableError):
        await store.update_heartbeat("odd")
    with pytest.raises(SessionEndedError):
        await store.update_heartbeat("go-2")
    assert await store.list_active() == ["go-1"]
    with pytest.raises(UnreadableError):
        await store.load("odd")


async def test_a_client_of_the_callers_is_used_and_left_open(redis_server: RedisServer, prefix: str) -> None:
    for options in ({"decode_responses": True}, {"decode_responses": False}, {"protocol": 3}):
        async with Redis.from_url(redis_server.url, **options) as client:
            store = RedisStore.from_client(client, prefix=prefix, ttl=50)
            saved = SessionState("grüße", provider="sip")
            await store.save(saved)
            await store.update_heartbeat("grüße")
            assert (await store.load("grüße")).provider == "sip"
            assert await store.list_active() == ["grüße"]
            await store.ping()
            await store.close()
            assert await client.ttl(f"{prefix}grüße") == 50


async def test_many_tasks_share_a_store(store: RedisStore) -> None:
    async def one_call(i: int) -> None:
        await store.save(SessionState(f"call-{i}"))
        await store.update_heartbeat(f"call-{i}")
        await store.load(f"call-{i}")

    await asyncio.gather(*(one_call(i) for i in range(300)))
    assert len(await store.list_active()) == 300


async def test_tasks_that_begin_at_once_look_at_the_server_once(
    redis_server: RedisServer, raw: Redis, prefix: str
) -> None:
    """Each looked by itself, over a connection of its own, and hundreds at once took longer than the timeout."""

    async def looks() -> int:
        stats = await raw.info("commandstats")
        return sum(
            int(each["calls"]) for name, each in stats.items() if name.startswith(("cmdstat_hello", "cmdstat_info"))
        )

    await raw.info()
    before = await looks()
    async with RedisStore.from_url(redis_server.url, prefix=prefix) as store:
        await asyncio.gather(*(store.ping() for _ in range(100)))
    assert await looks() - before < 10


# -- one session that can't be written ----------------------------------------------------------------------


@pytest.mark.parametrize("key", ["P:call-2", "{P:call-2}:meta"])
async def test_a_key_of_another_type_rejects_its_session_alone(
    backend: RedisBackend, raw: Redis, prefix: str, key: str
) -> None:
    await raw.rpush(key.replace("P:", prefix), "not ours")
    results = await backend.write([a_write("call-1"), a_write("call-2"), a_write("call-3")])
    assert [result.outcome for result in results] == [
        WriteOutcome.WRITTEN,
        WriteOutcome.REJECTED,
        WriteOutcome.WRITTEN,
    ]
    assert "WRONGTYPE" in results[1].detail
    assert await raw.lrange(key.replace("P:", prefix), 0, -1) == [b"not ours"]
    assert await raw.smembers(prefix + "active") == {b"call-1", b"call-3"}
    assert await raw.smembers(prefix + "@host:here:sessions") == {b"call-1", b"call-3"}
    assert await raw.zcard(prefix + "@heartbeats") == 2


@pytest.mark.parametrize("binary", binaries())
async def test_a_patch_that_fails_rejects_its_session_alone(binary: str) -> None:
    """Although one script makes many patches."""
    with RedisServer(binaries()[binary]) as server:
        async with both(server.url) as (_, backend), Redis.from_url(server.url) as raw:
            names = [f"call-{number}" for number in range(40)]
            await backend.write([a_write(name) for name in names])
            meta = "{voicesession:call-3}:meta"
            await raw.delete(meta)
            await raw.rpush(meta, "not ours")
            results = await backend.write([patch_of(name) for name in names])
            outcomes = {name: result.outcome for name, result in zip(names, results, strict=True)}
            assert outcomes == dict.fromkeys(names, WriteOutcome.WRITTEN) | {"call-3": WriteOutcome.REJECTED}
            assert "WRONGTYPE" in results[3].detail
            assert await raw.lrange(meta, 0, -1) == [b"not ours"]


@pytest.mark.parametrize("key", ["P:call-2", "{P:call-2}:meta"])
async def test_a_key_of_another_type_is_unreadable_to_the_daemon_and_not_absent(
    backend: RedisBackend, raw: Redis, prefix: str, key: str
) -> None:
    """Nothing is created over it, and it is no fault of the whole server."""
    await backend.write([a_write("call-2")])
    await raw.delete(key.replace("P:", prefix))
    await raw.rpush(key.replace("P:", prefix), "not ours")
    stored = await backend.read("call-2")
    assert stored is not None
    with pytest.raises(UnreadableError):
        session_of("call-2", stored, "here")


async def test_a_key_of_another_type_is_not_taken_for_a_session(
    store: RedisStore, backend: RedisBackend, raw: Redis, prefix: str
) -> None:
    await raw.rpush(prefix + "call-2", "not ours")
    with pytest.raises(SessionNotFoundError):
        await store.load("call-2")
    with pytest.raises(SessionNotFoundError):
        await store.update_heartbeat("call-2")
    with pytest.raises(StoreUnavailableError, match="WRONGTYPE"):
        await store.save(SessionState("call-2"))
    assert await raw.lrange(prefix + "call-2", 0, -1) == [b"not ours"]


@pytest.mark.parametrize("key", ["active", "@heartbeats", "@host:here:sessions"])
async def test_a_shared_key_of_another_type_is_not_the_fault_of_a_session(
    backend: RedisBackend, raw: Redis, prefix: str, key: str
) -> None:
    """Neither alone nor beside a session whose own key is of another type."""
    await raw.set(prefix + key, "not ours")
    await raw.rpush(prefix + "call-2", "not ours")
    for batch in ([a_write("call-1")], [a_write("call-2"), a_write("call-1")]):
        with pytest.raises(StoreRefusingError, match=f"{key} is a string"):
            await backend.write(batch)
    await raw.delete(prefix + key)
    (result,) = await backend.write([a_write("call-1")])
    assert result.outcome is WriteOutcome.WRITTEN


async def test_a_calls_set_of_another_type_rejects_its_sessions_alone(
    backend: RedisBackend, raw: Redis, prefix: str
) -> None:
    await raw.set(prefix + "@call:CA1", "not ours")
    of_call = a_write("call-1")
    of_call.call_id = "CA1"
    results = await backend.write([of_call, a_write("call-2")])
    assert [result.outcome for result in results] == [WriteOutcome.REJECTED, WriteOutcome.WRITTEN]


async def test_an_active_key_of_another_type_changes_nothing_by_halves(
    backend: RedisBackend, raw: Redis, prefix: str
) -> None:
    await raw.set(prefix + "active", "not ours")
    with pytest.raises(StoreRefusingError, match=r"active is a string, not a set"):
        await backend.write([a_write()])
    assert await keys_under(raw, prefix) == {"P:active"}


@pytest.mark.parametrize(
    "fields",
    [{"version": "many"}, {"epoch": "-1", "version": ""}, {"version": "9" * 30}, {"host": b"\xff", "version": "0"}],
)
async def test_damaged_meta_is_overwritten(
    backend: RedisBackend, raw: Redis, prefix: str, fields: dict[str, str | bytes]
) -> None:
    await raw.hset(f"{{{prefix}call-1}}:meta", mapping={"labels": "no json", "max_duration_s": "nan", **fields})
    await backend.read("call-1")
    (result,) = await backend.write([a_write(version=5)])
    assert result.outcome is WriteOutcome.WRITTEN
    stored = await backend.read("call-1")
    assert stored == StoredSession(DOCUMENT, StoredMeta(host="here", epoch=1, version=5), 5)


async def test_an_impossible_heartbeat_time_is_ignored(
    store: RedisStore, backend: RedisBackend, raw: Redis, prefix: str
) -> None:
    await store.save(SessionState("call-1"))
    saved = await store.load("call-1")
    for score in ("inf", "-5", "1e300"):
        await raw.zadd(prefix + "@heartbeats", {"call-1": float(score)})
        assert (await store.load("call-1")) == saved
        assert (await backend.read("call-1")) is not None


# -- the server's bad days ----------------------------------------------------------------------------------


async def fails(store: RedisStore, backend: RedisBackend, error: type[Exception], *, reads: bool = True) -> None:
    """Writes, and reads where said, fail as they should in time, side by side, as each may wait for its limit."""
    calls: list[tuple[type[Exception], Callable[[], object]]] = [
        (StoreUnavailableError, lambda: store.save(SessionState("call-9"))),
        (error, lambda: backend.write([a_write("call-9"), a_write("call-8")])),
        (error, lambda: backend.write_beats({"call-1": 2**40})),
    ]
    if reads:
        calls += [
            (StoreUnavailableError, lambda: store.load("call-1")),
            (StoreUnavailableError, store.list_active),
            (StoreUnavailableError, store.ping),
            (error, lambda: backend.read("call-1")),
            (error, backend.active_ids),
            (error, backend.ping),
        ]

    async def one(expected: type[Exception], call: Callable[[], object]) -> None:
        with pytest.raises(expected):
            await call()  # type: ignore[misc]

    async with asyncio.timeout(IMPATIENT_S + 2):  # the limit, and what a busy machine adds to it
        await asyncio.gather(*(one(expected, call) for expected, call in calls))


async def works(store: RedisStore, backend: RedisBackend) -> None:
    await store.save(SessionState("call-1"))
    assert (await store.load("call-1")).id == "call-1"
    (result,) = await backend.write([a_write("call-2")])
    assert result.outcome is WriteOutcome.WRITTEN
    # what timed out may have been done after all
    assert {"call-1", "call-2"} <= set(await all_active(backend)) <= {"call-1", "call-2", "call-8", "call-9"}


async def test_a_server_that_was_never_there(short_dir: Path) -> None:
    async with both(f"unix://{short_dir}/redis.sock") as (store, backend):
        await fails(store, backend, StoreDownError)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with both(f"127.0.0.1:{port}") as (store, backend):
        await fails(store, backend, StoreDownError)


@pytest.mark.system
async def test_a_stopped_server_fails_in_time_and_is_used_again(own_redis_server: RedisServer) -> None:
    async with both(own_redis_server.url, timeout_s=IMPATIENT_S) as (store, backend):
        await works(store, backend)
        own_redis_server.pause()
        await fails(store, backend, StoreDownError)  # over connections that were there
        await fails(store, backend, StoreDownError)  # and over new ones
        big = b"x" * 4_000_000
        started = time.monotonic()
        with pytest.raises(StoreDownError):
            await backend.write([a_write(document=big)])  # more than the socket buffers take
        assert time.monotonic() - started < IMPATIENT_S + 2
        own_redis_server.resume()
        await works(store, backend)


async def test_a_killed_server_is_used_again_once_it_is_back(own_redis_server: RedisServer) -> None:
    async with both(own_redis_server.url) as (store, backend):
        await works(store, backend)
        own_redis_server.kill()
        await fails(store, backend, StoreDownError)
        own_redis_server.start()  # empty: it knows no scripts either
        await works(store, backend)


async def test_scripts_the_server_forgot_are_sent_again(redis_server: RedisServer, prefix: str) -> None:
    async with Redis.from_url(redis_server.url, protocol=2) as raw:
        backend = RedisBackend(redis_server.url, prefix=prefix, ttl_s=10, timeout_s=5, host_id="here")
        for version in (1, 2):
            await raw.script_flush()
            results = await backend.write([a_write("call-1", version), a_write("call-2", version)])
            assert [result.outcome for result in results] == [WriteOutcome.WRITTEN] * 2
            await raw.script_flush()
            assert await backend.read("call-1") is not None
            await raw.script_flush()
            await backend.write_beats({"call-1": 77 + version})
            stored = await backend.read("call-1")
            assert stored is not None
            assert stored.beat_ms == 77 + version
        await backend.close()


REFUSALS = {
    "OOM": ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    "READONLY": ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    "NOREPLICAS": ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
}


@pytest.mark.parametrize("binary", binaries())
@pytest.mark.parametrize("name", REFUSALS)
async def test_a_server_that_takes_nothing_refuses_and_recovers(name: str, binary: str) -> None:
    worse, better = REFUSALS[name]
    with RedisServer(binaries()[binary]) as server:
        async with both(server.url) as (store, backend):
            await works(store, backend)
            assert server.command(*worse.split()).startswith(b"+OK")
            await fails(store, backend, StoreRefusingError, reads=False)
            assert (await store.load("call-1")).id == "call-1"
            stored = await backend.read("call-2")
            assert stored is not None
            assert stored.document == DOCUMENT
            assert server.command(*better.split()).startswith(b"+OK")
            await works(store, backend)


@pytest.mark.parametrize("binary", binaries())
@pytest.mark.parametrize("name", REFUSALS)
async def test_a_server_that_takes_no_patches_refuses(name: str, binary: str) -> None:
    """The errors of patches are the server's, although a script has caught them."""
    worse, better = REFUSALS[name]
    with RedisServer(binaries()[binary]) as server:
        async with both(server.url) as (_, backend):
            await backend.write([a_write("call-1"), a_write("call-2")])
            server.command(*worse.split())
            for batch in ([patch_of("call-1")], [patch_of("call-1"), patch_of("call-2")]):
                with pytest.raises(StoreRefusingError):
                    await backend.write(batch)
            server.command(*better.split())
            results = await backend.write([patch_of("call-1"), patch_of("call-2")])
            assert {result.outcome for result in results} == {WriteOutcome.WRITTEN}


@pytest.mark.parametrize("binary", binaries())
async def test_a_permission_that_patches_miss_is_not_the_fault_of_a_session(binary: str) -> None:
    with RedisServer(binaries()[binary]) as server:
        server.command("ACL", "SETUSER", "worker", "on", ">p", "~*", "+@all", "-setrange")
        async with both(f"unix://worker:p@{server.socket}") as (_, backend):
            await backend.write([a_write("call-1"), a_write("call-2")])
            for batch in ([patch_of("call-1")], [patch_of("call-1"), patch_of("call-2")]):
                with pytest.raises(StoreRefusingError):
                    await backend.write(batch)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("MISCONF Redis is configured to save RDB snapshots, but it's unable to persist to disk.", True),
        ("NOREPLICAS Not enough good replicas to write. script: f00, on @user_script:12.", True),
        ("BUSY Redis is busy running a script.", True),
        ("unknown command 'EVALSHA', with args beginning with: 'f00'", True),
        # Redis before 7, from inside a script
        ("Error running script (call to f_f00): @user_script:30: -OOM command not allowed when used memory", True),
        ("CROSSSLOT Keys in request don't hash to the same slot", True),
        ("Script attempted to access keys that do not hash to the same slot script: f00", True),
        ("Script attempted to access a non local key in a cluster node script: f00", True),
        (
            "ACL failure in script: User w has no permissions to run the 'sadd' command script: f00",
            True,
        ),
        (
            "The user executing the script can't run this command or subcommand script: f00",
            True,
        ),
        ("Unknown Redis command called from script script: f00, on @user_script:1.", True),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
        ("value is not an integer or out of range, READONLY or not", False),
    ],
)
def test_refusals_of_all_writes_are_distinguished_from_those_of_one_session(text: str, refusal: bool) -> None:
    assert is_refusal(ResponseError(text)) is refusal


@pytest.mark.parametrize("binary", binaries())
@pytest.mark.parametrize(
    "rules",
    ["~* +@all -sadd", "~* +@all -evalsha -eval", "~voicesession:* +@all", "~{voicesession:* +@all", "~* +@read"],
)
async def test_a_missing_permission_is_not_the_fault_of_a_session(binary: str, rules: str) -> None:
    """Also where it is only missed inside the script, which Redis says without a code."""
    with RedisServer(binaries()[binary]) as server:
        server.command("ACL", "SETUSER", "worker", "on", ">p", *rules.split())
        async with both(f"unix://worker:p@{server.socket}") as (_, backend):
            for batch in ([a_write()], [a_write("call-1"), a_write("call-2")]):
                with pytest.raises(StoreRefusingError):
                    await backend.write(batch)


def test_a_fault_of_the_whole_batch_is_not_that_of_a_session() -> None:
    unknown, typed = ResponseError("Error running script: oops"), ResponseError("WRONGTYPE of this key")
    assert fault_of_all([unknown, ResponseError(str(unknown))]) is unknown
    assert fault_of_all([unknown]) is None, "this may be the document's"
    assert fault_of_all([unknown, [1]]) is None
    assert fault_of_all([unknown, ResponseError("something else")]) is None
    assert fault_of_all([typed, ResponseError(str(typed))]) is None
    oom = OutOfMemoryError("command not allowed")
    assert fault_of_all([typed, oom, [1]]) is oom


async def test_out_of_memory_changes_nothing_by_halves(own_redis_server: RedisServer) -> None:
    async with both(own_redis_server.url) as (_, backend):
        await backend.write([a_write("call-1"), a_write("call-2")])
        own_redis_server.command("CONFIG", "SET", "maxmemory", "1")
        ended = a_write("call-1", version=2)
        ended.active = False
        with pytest.raises(StoreRefusingError, match="OutOfMemory"):
            await backend.write([ended])
        assert sorted(await all_active(backend)) == ["call-1", "call-2"]
        # a deletion makes room, so it goes through
        (result,) = await backend.write([a_write("call-2", version=2, document=None)])
        assert result.outcome is WriteOutcome.WRITTEN
        stored = await backend.read("call-2")
        assert stored is not None
        assert stored.meta is not None
        assert stored.meta.deleted


async def test_a_password_is_needed_and_used() -> None:
    with RedisServer(binaries()["valkey"]) as server:
        server.command("CONFIG", "SET", "requirepass", "secret")
        async with both(server.url) as (store, backend):
            await fails(store, backend, StoreRefusingError)
            with pytest.raises(StoreRefusingError, match="NOAUTH: Redis asks for a password"):
                await backend.ping()
        async with both(server.url, password="wrong") as (_, backend):  # noqa: S106 - of a server that lives a second
            with pytest.raises(StoreRefusingError, match="WRONGPASS") as caught:
                await backend.ping()
            assert "wrong" not in str(caught.value).lower().replace("wrongpass", "")
        async with both(server.url, password="secret") as (_, backend):  # noqa: S106 - the same
            await backend.ping()
        async with both(f"unix://:secret@{server.socket}") as (store, backend):
            await works(store, backend)


async def test_an_unneeded_password_is_reported_as_such(own_redis_server: RedisServer) -> None:
    async with both(own_redis_server.url, password="none") as (_, backend):  # noqa: S106 - there is none
        with pytest.raises(StoreRefusingError, match="Redis has no password, and one is configured"):
            await backend.ping()


async def test_connections_of_the_daemon_have_its_hosts_name(own_redis_server: RedisServer) -> None:
    async with both(own_redis_server.url) as (store, backend):
        await backend.write([a_write()])
        await backend.ping()
        await store.ping()
        clients = own_redis_server.command("CLIENT", "LIST")
        assert clients.count(b" name=callstate:here ") == 2, "one that writes and one that reads"
        own_redis_server.command("ACL", "SETUSER", "default", "-client|setname")
        own_redis_server.command("CLIENT", "KILL", "TYPE", "normal")
    async with both(own_redis_server.url) as (_, backend):
        await backend.ping()


@pytest.mark.system
async def test_a_server_that_is_loading_refuses() -> None:
    with RedisServer(
        binaries()["valkey"], "rdbcompression no", "loading-process-events-interval-bytes 1024"
    ) as server:
        async with both(server.url) as (store, backend):
            await backend.write([a_write(f"call-{i}", document=b"x" * 2000) for i in range(200)])
            server.command("SAVE")
            server.kill()
            server.configure("key-load-delay 10000")  # microseconds a key
            server.start(until="Server initialized")
            await asyncio.sleep(0)  # the loop sees that the connections have ended
            await fails(store, backend, StoreRefusingError)
            server.wait_log()


async def test_a_peer_that_resets_is_a_store_that_is_down(short_dir: Path) -> None:
    """Each connection gets a different bad end; none of them leaks an error of its own."""
    ends: list[Callable[[asyncio.StreamWriter], None]] = [
        lambda writer: writer.transport.abort(),
        lambda writer: writer.write(b"$100\r\nhalf of it"),
        lambda writer: writer.write(b"no such reply\r\n"),
        lambda writer: writer.write(b"*-7\r\n"),
    ]
    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        await reader.read(10)
        end = ends[served % len(ends)]
        served += 1
        end(writer)
        if not writer.is_closing():
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with both(f"127.0.0.1:{port}") as (store, backend):
        for _ in ends:
            await fails(store, backend, StoreDownError)
    server.close()
    await server.wait_closed()
    assert served > len(ends)


# -- urls and arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "/run/redis.sock",
        "sqlite:x.db",
        "http://h:s3cret@x",
        "redis://h/zero",
        "redis://h?decode_responses=true",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="redis") as caught:
        RedisStore.from_url(url)
    assert "s3cret" not in str(caught.value)


def test_arguments_that_are_refused() -> None:
    for ttl in (0, -1, float("nan"), float("inf"), timedelta(0)):
        with pytest.raises(ValueError, match="ttl"):
            RedisStore.from_url("localhost:1", ttl=ttl)
    for prefix in ("{a}:", "a}"):
        with pytest.raises(ValueError, match="brace"):
            RedisStore.from_url("localhost:1", prefix=prefix)


def test_the_bare_form_connects_over_tcp_with_nothing_but_redis_installed() -> None:
    """From a process of its own, in which uvloop can't be imported."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = f"""
import asyncio, sys
sys.modules.update(uvloop=None)
from callstate_client.model import SessionState
from callstate_sidecar.stores.redis import RedisStore

async def main():
    async with RedisStore.from_url("127.0.0.1:{port}") as store:
        await store.save(SessionState("call-1"))
        print(await store.list_active())

asyncio.run(main())
"""
    with RedisServer(binaries()["valkey"], f"bind 127.0.0.1\nport {port}"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=30, check=False
        )
    assert (done.stdout, done.stderr) == ("['call-1']\n", "")


def test_without_redis_py_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['redis'] = None; import callstate_sidecar.stores.redis"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr.splitlines()[-1].endswith("pip install 'callstate[redis]'")


# -- what is on the server's disk -----------------------------------------------------------------------------


@asynccontextmanager
async def synced_backend(url: str, timeout_s: float = PATIENT_S) -> AsyncIterator[RedisBackend]:
    backend = RedisBackend(url, ttl_s=1000, timeout_s=timeout_s, host_id="here", synced=True)
    yield backend
    await backend.close()


async def test_a_write_that_is_to_be_on_disk_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(binaries()["valkey"], "appendonly yes", "appendfsync everysec") as server:
        async with synced_backend(server.url) as backend:
            (result,) = await backend.write([a_write()])
            assert result.outcome is WriteOutcome.WRITTEN
            assert b"cmdstat_waitaof:calls=" in server.command("INFO", "commandstats")
            server.command("CONFIG", "RESETSTAT")
            assert (await backend.read("call-1")) is not None
            await backend.write_beats({"call-1": 5})
            assert b"waitaof" not in server.command("INFO", "commandstats"), "nothing else is worth the wait"
    assert not caplog.text


async def test_a_write_not_on_disk_in_time_does_not_count_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_backend, "CONFIRM_S", 0.2)
    with RedisServer(binaries()["valkey"], "appendonly yes", "appendfsync no") as server:
        async with synced_backend(server.url, timeout_s=2.0) as backend:  # the reply is due after half of it
            with pytest.raises(StoreDownError, match="not on the server's disk"):
                await backend.write([a_write()])
            server.command("CONFIG", "SET", "appendfsync", "always")
            (result,) = await backend.write([a_write()])
            assert result.outcome is WriteOutcome.WRITTEN


@pytest.mark.parametrize("binary", binaries())
async def test_a_server_that_can_not_tell_is_believed_and_that_is_said_once(
    binary: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One without an append-only file, and one too old for the question."""
    with RedisServer(binaries()[binary]) as server:
        async with synced_backend(server.url) as backend:
            for version in (1, 2, 3):
                (result,) = await backend.write([a_write(version=version)])
                assert result.outcome is WriteOutcome.WRITTEN
    assert caplog.text.count("Redis can't confirm what is on its disk") == 1
