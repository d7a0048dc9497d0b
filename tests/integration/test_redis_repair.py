"""A Redis that forgets while it goes on answering, and software that writes to it past the daemon."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from callstate_client import SessionNotFoundError, SessionState, SidecarStore, connect
from callstate_client.engine.sessions.stored import StoreError
from callstate_sidecar.stores.redis import RedisStore
from callstate_sidecar.stores.redis.client import ScriptCall, ScriptClient
from callstate_sidecar.stores.redis.client import connect as connect_redis
from callstate_sidecar.stores.redis.mark import Mark
from callstate_sidecar.stores.redis.scripts import Script
from callstate_sidecar.stores.redis.store_scripts import LIVE
from support.daemon import Daemon
from support.garbage import errors_in_garbage
from support.redis_server import RedisServer, binaries

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_factories=["uvloop"])]

PREFIX = "voicesession:"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer(binaries()["valkey"]) as server:
        yield server


@pytest.fixture
def daemon(redis: RedisServer) -> Iterator[Daemon]:
    options = ("--set", "store.beat_interval_s=0.1", "--set", "store.flush_interval_s=0.02")
    daemon = Daemon(*options, store=redis.url)
    daemon.start()
    yield daemon
    daemon.close(expect="the store|other software")


@pytest.fixture
async def store(daemon: Daemon) -> AsyncIterator[SidecarStore]:
    async with connect(daemon.socket) as store:
        yield store


@pytest.fixture
async def raw(redis: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis.url, protocol=2) as raw:
        yield raw


@pytest.fixture
async def go(redis: RedisServer) -> AsyncIterator[RedisStore]:
    """A store that knows no meta, as the Go package's."""
    async with RedisStore.from_url(redis.url) as go:
        yield go


async def flushed(store: SidecarStore) -> None:
    assert (await store.flush(timeout_s=20.0)).unflushed == 0


async def some_calls(store: SidecarStore) -> None:
    """A live call, one that has ended, and one that was deleted."""
    for session_id in ("live", "over", "gone"):
        await store.save(SessionState(session_id, status="active"))
        await store.add_turn(session_id, "user", "hello")
    await flushed(store)
    await store.end("over")
    await store.delete("gone")
    await flushed(store)


async def check_repaired(raw: Redis) -> None:
    documents = {name: json.loads(await raw.get(PREFIX + name) or b"{}") for name in ("live", "over", "gone")}
    assert {name: found.get("status") for name, found in documents.items()} == {
        "live": "active", "over": "ended", "gone": None,
    }  # fmt: skip
    assert documents["live"]["history"][0]["content"] == "hello"
    assert await raw.smembers(PREFIX + "active") == {b"live"}


async def test_everything_hot_is_back_after_flushall(store: SidecarStore, raw: Redis) -> None:
    await some_calls(store)
    async with store.events("store.repaired") as events:
        await raw.flushall()
        async with asyncio.timeout(20):
            await anext(aiter(events))
    await flushed(store)
    await check_repaired(raw)
    assert (await store.stats())["store_repairs"] == 1


async def test_everything_hot_is_back_after_a_restart_without_data(redis: RedisServer, store: SidecarStore) -> None:
    await some_calls(store)
    async with store.events("store.repaired") as events:
        redis.kill()
        redis.start()
        async with asyncio.timeout(20):
            await anext(aiter(events))
    await flushed(store)
    async with Redis.from_url(redis.url, protocol=2) as raw:
        await check_repaired(raw)


async def test_an_older_copy_is_brought_up_to_date(store: SidecarStore, raw: Redis) -> None:
    """As after a failover to a replica that lagged behind: every key as it was before the last changes."""
    for session_id in ("live", "over", "gone"):
        await store.save(SessionState(session_id, status="active"))
    await flushed(store)
    keys = await raw.keys("*")
    older = {key: await raw.dump(key) for key in keys}
    await some_calls(store)
    async with store.events("store.repaired") as events:
        async with raw.pipeline(transaction=True) as pipe:
            pipe.flushall()
            for key, value in older.items():
                pipe.restore(key, 0, value)
            await pipe.execute()
        async with asyncio.timeout(20):
            await anext(aiter(events))
    await flushed(store)
    await check_repaired(raw)


async def test_one_evicted_session_is_written_again(store: SidecarStore, raw: Redis) -> None:
    await some_calls(store)
    async with store.events("store.repaired") as events:
        await raw.delete(PREFIX + "live")
        async with asyncio.timeout(20):
            await anext(aiter(events))
    await flushed(store)
    await check_repaired(raw)


async def test_an_evicted_session_does_not_count_as_deleted_after_a_listing(
    store: SidecarStore, raw: Redis
) -> None:
    """A listing removes ids without a document from the active set, and there deletions are told from losses."""
    await some_calls(store)
    async with store.events("store.repaired", "deleted") as events:
        async with raw.pipeline(transaction=True) as pipe:
            pipe.delete(PREFIX + "live")
            pipe.evalsha(*await listing(raw))
            await pipe.execute()
        async with asyncio.timeout(20):
            assert (await anext(aiter(events))).type == "store.repaired"
    await flushed(store)
    await check_repaired(raw)


async def listing(raw: Redis) -> list[Any]:
    """The script that a listing runs, as the words of EVALSHA."""
    await raw.script_load(LIVE.text)
    return [LIVE.sha, 2, PREFIX + "active", PREFIX + "@heartbeats", PREFIX, "live"]


async def test_an_end_by_go_is_noticed_without_a_change(store: SidecarStore, go: RedisStore) -> None:
    await some_calls(store)
    async with store.events("ended") as events:
        theirs = await go.load("live")
        theirs.status = "ended"
        await go.save(theirs)
        async with asyncio.timeout(20):
            event = await anext(aiter(events))
    assert (event.session_id, event.reason) == ("live", "operator")
    assert (await store.load("live")).status == "ended"
    await flushed(store)
    assert await go.list_active() == []


async def test_a_deletion_by_go_is_noticed_without_a_change(store: SidecarStore, go: RedisStore) -> None:
    await some_calls(store)
    async with store.events("deleted") as events:
        await go.delete("live")
        async with asyncio.timeout(20):
            assert (await anext(aiter(events))).session_id == "live"
    assert await store.list_active() == []


async def test_go_writing_back_what_it_read_before_the_end_revives_nothing(
    store: SidecarStore, go: RedisStore, raw: Redis
) -> None:
    """The heartbeat of the Go package loads the document, changes `updated_at` and saves it."""
    await some_calls(store)
    stale = await go.load("live")
    await store.end("live", "caller_hangup")
    await flushed(store)
    await go.save(stale)
    assert await raw.sismember(PREFIX + "active", "live")
    async with asyncio.timeout(20):
        while await go.list_active():  # by the next sweep; it has no event, for nothing changes for clients
            await asyncio.sleep(0.01)
    assert (await go.load("live")).status == "ended"
    record = await store.get("live")
    assert (record.state.status, record.ended_reason) == ("ended", "caller_hangup")


async def test_a_stale_document_revives_nothing_after_the_daemon_has_dropped_the_session(
    redis: RedisServer, go: RedisStore, tmp_path: Path
) -> None:
    options = ("--set", "reaper.retention_s=0.1", "--set", "reaper.tick_s=0.05")
    with Daemon(*options, store=redis.url) as daemon:
        async with connect(daemon.socket) as store:
            await store.save(SessionState("live", status="active"))
            await flushed(store)
            stale = await go.load("live")
            await store.end("live", "caller_hangup")
            await flushed(store)
            async with asyncio.timeout(20):
                while sum((await store.stats())["sessions"].values()):
                    await asyncio.sleep(0.01)
            await go.save(stale)
            assert (await store.load("live")).status == "ended"


async def test_a_change_by_go_is_taken_and_one_across_ours_is_set_aside(
    store: SidecarStore, go: RedisStore, raw: Redis
) -> None:
    await some_calls(store)
    theirs = await go.load("live")
    theirs.extra["note"] = "from Go"
    async with store.events("recovered") as events:
        await go.save(theirs)
        async with asyncio.timeout(20):
            assert (await anext(aiter(events))).reason == "foreign_write"
        assert (await store.load("live")).extra["note"] == "from Go"
        await flushed(store)
        await raw.config_set("busy-reply-threshold", 5000)
        async with raw.pipeline(transaction=True) as pipe:  # theirs, between two writes of ours
            pipe.set(PREFIX + "live", json.dumps({"id": "live", "status": "active", "note": "again"}))
            pipe.hset(f"{{{PREFIX}live}}:meta", "version", 1)  # so that the sweep does not take it first
            await pipe.execute()
        await store.add_turn("live", "user", "ours")
        async with asyncio.timeout(20):
            assert (await anext(aiter(events))).reason == "foreign_set_aside"
    await flushed(store)
    assert json.loads(await raw.get(f"{{{PREFIX}live}}:foreign"))["note"] == "again"
    assert len((await go.load("live")).history) == 2


async def test_a_call_with_nothing_but_heartbeats_keeps_its_keys(redis: RedisServer, raw: Redis) -> None:
    options = ("--set", "store.ttl_s=2", "--set", "store.beat_interval_s=0.2")
    with Daemon(*options, store=redis.url) as daemon:
        async with connect(daemon.socket) as store:
            await store.save(SessionState("live", status="active", call_id="CA1"))
            await flushed(store)
            keys = [
                f"{PREFIX}live", f"{{{PREFIX}live}}:meta", f"{PREFIX}@call:CA1",
                f"{PREFIX}@host:{(await store.info())['host_id']}:sessions",
            ]  # fmt: skip
            for key in keys:
                await raw.pexpire(key, 1400)  # as when a quarter and more has passed
            async with asyncio.timeout(20):
                while min([await raw.pttl(key) for key in keys]) < 1500:
                    await asyncio.sleep(0.01)
            assert (await store.stats()).get("store_repairs", 0) == 0


async def test_go_writing_back_what_it_read_before_a_deletion_revives_nothing(
    store: SidecarStore, go: RedisStore
) -> None:
    await some_calls(store)
    stale = await go.load("live")
    await store.delete("live")
    await flushed(store)
    await go.save(stale)
    with pytest.raises(SessionNotFoundError):
        await store.load("live")
    assert await store.list_active() == []
    await go.save(SessionState("live", status="active"))
    async with asyncio.timeout(20):
        while True:  # a miss is remembered for a second
            try:
                assert (await store.load("live")).status == "active"
                break
            except SessionNotFoundError:
                await asyncio.sleep(0.05)


async def test_a_batch_that_is_executed_late_is_no_loss(redis: RedisServer) -> None:
    """It timed out while the server stood still, and newer ones were executed first, over other connections."""
    client = ScriptClient(connect_redis(redis.url, connections=1, timeout_s=5), owned=True)
    mark = Mark(b"mark")
    first, late, newer, last = (mark.call() for _ in range(4))
    for call in (first, newer):
        mark.check(call, (await client.run_each([call]))[0])
    await client.run_each([late])
    mark.check(last, (await client.run_each([last]))[0])
    assert mark.losses == 0
    redis.command("FLUSHALL")
    again = mark.call()
    mark.check(again, (await client.run_each([again]))[0])
    assert mark.losses == 1
    await client.close()


async def test_errors_that_redis_replies_are_no_garbage(redis: RedisServer) -> None:
    client = ScriptClient(connect_redis(redis.url, connections=1, timeout_s=5), owned=True)
    await client.ping()
    wrong = Script("return redis.error_reply('ERR as the test wants it')")
    with errors_in_garbage() as found:
        for text in ("return 1", "return 2"):  # both are unknown to the server at first
            assert await client.run(Script(text), [b"key"]) == int(text[-1])
        with suppress(StoreError):
            await client.run(wrong, [b"key"])
        with suppress(StoreError):
            await client.command("HGETALL", b"key", "and too many arguments")
        with suppress(StoreError):
            await client.run_each([ScriptCall(wrong, [b"key"], [])] * 2)
    await client.close()
    assert found == []
