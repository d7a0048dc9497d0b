"""The daemon's writer over a real Redis Cluster: sessions by slot, and the keys that all of them share."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

from callstate_client.engine.sessions.stored import Query, StoredMeta, StoredSession
from callstate_client.engine.sessions.writes import Whole, Write
from callstate_sidecar.stores.backend import Deviation, StoredVersion, WriteOutcome
from callstate_sidecar.stores.redis import RedisBackend, RedisStore
from callstate_sidecar.stores.redis.client import ScriptClient, connect
from support.patches import a_patch
from support.redis_server import binaries
from support.redis_topologies import ClusterServers
from support.stores import all_active, all_found

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_factories=["uvloop"])]

TTL_S = 1000
NAMES = [f"call-{number}" for number in range(30)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    with ClusterServers(binaries()["valkey"]) as servers:
        yield servers


@pytest.fixture
def prefix() -> str:
    return f"{uuid.uuid4()}:"


@pytest.fixture
async def backend(cluster: ClusterServers, prefix: str) -> AsyncIterator[RedisBackend]:
    backend = RedisBackend(cluster.url, prefix=prefix, ttl_s=TTL_S, timeout_s=5, host_id="here")
    yield backend
    await backend.close()


@pytest.fixture
async def raw(cluster: ClusterServers) -> AsyncIterator[ScriptClient]:
    client = ScriptClient(connect(cluster.url, connections=1, timeout_s=5), owned=True)
    yield client
    await client.close()


def a_write(session_id: str, document: bytes | None = b"", version: int = 1, **fields: object) -> Whole:
    if document == b"":
        document = b'{"id":"%b","status":"active","call_id":"CA1","history":[]}' % session_id.encode()
    active = bool(fields.pop("active", document is not None))
    meta = StoredMeta(host="here", epoch=1, version=version, **fields)  # type: ignore[arg-type]
    return Whole(session_id, document, meta, active=active, beat_ms=5, call_id="CA1" if document else "")


async def written(backend: RedisBackend, *writes: Write) -> None:
    results = await backend.write(writes)
    assert [result.outcome for result in results] == [WriteOutcome.WRITTEN] * len(writes)


async def members(raw: ScriptClient, key: str) -> set[bytes]:
    return {*(await raw.command("SMEMBERS", key.encode()))}


async def test_several_are_read_at_once_over_all_slots(backend: RedisBackend) -> None:
    await written(backend, *map(a_write, NAMES))
    together = await backend.read_each([*NAMES, "absent"])
    assert together == [await backend.read(name) for name in [*NAMES, "absent"]]
    assert together[-1] is None
    assert [each.beat_ms for each in together[:-1] if isinstance(each, StoredSession)] == [5] * len(NAMES)


async def test_sessions_of_all_slots_are_written_read_and_listed(backend: RedisBackend) -> None:
    await written(backend, *map(a_write, NAMES))
    for name in NAMES:
        stored = await backend.read(name)
        assert stored is not None
        assert stored.document == a_write(name).document
        assert stored.meta is not None
        assert (stored.meta.version, stored.beat_ms, stored.foreign_stamp) == (1, 5, b"")
    assert {*(await all_active(backend))} == {*NAMES}
    assert {*(await all_found(backend, Query(call_id="CA1")))} == {*NAMES}
    assert {*(await all_found(backend, Query(status="active")))} == {*NAMES}
    assert {*(await all_found(backend, Query()))} == {*NAMES}


async def test_ended_and_deleted_sessions_leave_the_shared_keys(
    backend: RedisBackend, raw: ScriptClient, prefix: str
) -> None:
    await written(backend, *map(a_write, NAMES))
    first, second, *others = NAMES
    await written(backend, a_write(first, version=2, active=False), a_write(second, None, version=2))
    left = {name.encode() for name in others}
    assert await members(raw, f"{prefix}active") == left
    assert await members(raw, f"{prefix}@host:here:sessions") == left
    assert await raw.command("ZCARD", f"{prefix}@heartbeats".encode()) == len(left)
    for key in ("@host:here:sessions", "@heartbeats", "@call:CA1"):
        assert 0 < await raw.command("PTTL", f"{prefix}{key}".encode()) <= TTL_S * 1000
    assert await backend.read(second) == StoredSession(None, a_write(second, None, version=2, deleted=True).meta)


async def test_a_refused_write_leaves_its_session_listed(
    backend: RedisBackend, raw: ScriptClient, prefix: str
) -> None:
    await written(backend, a_write("call-1", version=5))
    (result,) = await backend.write([a_write("call-1", version=4, active=False)])
    assert result.outcome is WriteOutcome.SUPERSEDED
    assert await members(raw, f"{prefix}active") == {b"call-1"}


async def test_a_turn_is_patched_in(backend: RedisBackend) -> None:
    first = a_write("call-1")
    await written(backend, first)
    document = first.document or b""
    meta = StoredMeta(host="here", epoch=1, version=2)
    await written(backend, a_patch(first.meta, document, meta, b'{"role":"user"}'))
    stored = await backend.read("call-1")
    assert stored is not None
    assert stored.document == document[:-2] + b'{"role":"user"}]}'


async def test_heartbeats_of_sessions_that_have_ended_are_not_kept(
    backend: RedisBackend, raw: ScriptClient, prefix: str
) -> None:
    await written(backend, a_write("call-1"))
    await backend.write_beats({"call-1": 7, "over": 7})
    await backend.write_beats({"call-1": 6})
    found = await raw.command("ZRANGE", f"{prefix}@heartbeats".encode(), 0, -1, "WITHSCORES")
    assert found[::2] == [b"call-1"]
    stored = await backend.read("call-1")
    assert stored is not None
    assert stored.beat_ms == 7


async def test_ids_without_a_document_leave_the_listing(
    backend: RedisBackend, raw: ScriptClient, prefix: str
) -> None:
    await written(backend, *map(a_write, NAMES))
    await raw.command("DEL", f"{prefix}{NAMES[0]}".encode())
    assert {*(await all_active(backend))} == {*NAMES[1:]}
    assert await members(raw, f"{prefix}active") == {name.encode() for name in NAMES[1:]}


async def test_a_listing_between_the_steps_of_a_write_removes_nothing_for_good(
    backend: RedisBackend, raw: ScriptClient, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id of a new session is in the active set before its document is there."""
    sets = backend._sets
    assert sets is not None
    add = sets.add

    async def add_and_be_listed(batch: Sequence[Write]) -> set[str]:
        held_back = await add(batch)
        assert await all_active(backend) == [], "nothing to see yet"
        return held_back

    monkeypatch.setattr(sets, "add", add_and_be_listed)
    await written(backend, *map(a_write, NAMES))
    assert await members(raw, f"{prefix}active") == {name.encode() for name in NAMES}


async def test_a_document_that_appears_while_a_listing_removes_ids_is_listed_again(
    backend: RedisBackend, raw: ScriptClient, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = backend._read_sets
    assert sets is not None
    commands = sets._client.commands
    await raw.command("SADD", f"{prefix}active".encode(), "call-1", "ghost")

    async def appears(*words: tuple[Any, ...]) -> list[Any]:
        replies = await commands(*words)
        if words[0][0] == "SREM":
            await raw.command("SET", f"{prefix}call-1".encode(), "{}")
        return replies

    monkeypatch.setattr(sets._client, "commands", appears)
    await backend.active_ids()
    assert await members(raw, f"{prefix}active") == {b"call-1"}


async def test_sessions_are_compared_and_renewed_by_slot(
    backend: RedisBackend, raw: ScriptClient, prefix: str
) -> None:
    await written(backend, *map(a_write, NAMES))
    lost, older, changed, old, *_ = NAMES
    await raw.command("DEL", f"{prefix}{lost}".encode())
    await raw.command("DEL", f"{{{prefix}{lost}}}:meta".encode())
    await raw.command("HSET", f"{{{prefix}{older}}}:meta".encode(), "version", 0)
    await raw.command("SET", f"{prefix}{changed}".encode(), "{}")
    await raw.command("PEXPIRE", f"{prefix}{old}".encode(), 1000)
    await raw.command("PEXPIRE", f"{prefix}@call:CA1".encode(), 1000)
    found = await backend.check([StoredVersion(name, 1, "CA1", live=True) for name in NAMES])
    assert dict(found) == {lost: Deviation.MISSING, older: Deviation.OTHER, changed: Deviation.CHANGED}
    for key in (f"{prefix}{old}", f"{prefix}@call:CA1"):
        assert await raw.command("PTTL", key.encode()) > 1000


async def test_the_loss_of_one_primary_is_noticed(cluster: ClusterServers, backend: RedisBackend) -> None:
    await written(backend, *map(a_write, NAMES))
    await backend.check_for_loss()
    assert backend.data_losses == 0
    for losses, primary in enumerate(cluster.primaries, 1):
        primary.ask("FLUSHALL")
        await backend.check_for_loss()
        assert backend.data_losses == losses
    await backend.check_for_loss()
    assert backend.data_losses == len(cluster.primaries)


async def test_a_store_without_a_daemon_is_for_one_server(cluster: ClusterServers) -> None:
    with pytest.raises(ValueError, match="single server"):
        RedisStore.from_url(cluster.url)


async def test_who_reads_does_not_wait_for_what_is_written(backend: RedisBackend) -> None:
    await written(backend, *(a_write(name) for name in NAMES))
    pools: list[Any] = [
        client.connection_pool
        for client in backend._writing._servers._clients.values()  # type: ignore[attr-defined]
    ]
    held = [(pool, await pool.get_connection()) for pool in pools]
    try:
        async with asyncio.timeout(4.0):  # less than what is waited for a connection
            assert await backend.read(NAMES[0]) is not None
            assert all(await backend.read_each(NAMES))
            assert sorted(await all_active(backend)) == sorted(NAMES)
            assert not await backend.check([StoredVersion(name, 1, "CA1", True) for name in NAMES])
    finally:
        for pool, connection in held:
            pool.give_back(connection)
