"""A store that is away, behind a real daemon: nobody waits for it, and what is said of it is never old."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from callstate_client import (
    OverloadedError,
    SessionState,
    SidecarStore,
    StoreUnavailableError,
    UnreadableError,
    connect,
)
from callstate_sidecar.stores.sqlite import SqliteStore
from support.daemon import Daemon
from support.redis_server import RedisServer, binaries
from support.slow_link import SlowLink
from support.wire import Wire

pytestmark = pytest.mark.system
on_uvloop = pytest.mark.asyncio(loop_factories=["uvloop"])

STORE_AWAY = r"the store is"


on_both = pytest.mark.parametrize("redis", binaries(), indirect=True)
"""On each kind of server: where the test is of what the server says, and not just of its silence."""


@pytest.fixture
def redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(binaries()[getattr(request, "param", "valkey")]) as server:
        yield server


@asynccontextmanager
async def daemon_behind(
    redis: RedisServer, *args: str, expect: str = STORE_AWAY
) -> AsyncIterator[tuple[Daemon, SidecarStore]]:
    daemon = Daemon(*args, store=redis.url)
    try:
        await daemon.in_thread("start")
        async with connect(daemon.socket) as store:
            yield daemon, store
    finally:
        daemon.close(expect=expect)


async def event(store: SidecarStore, type_: str, *, when: object = None) -> dict[str, object]:
    """The next event of a type."""
    async for each in store.events(type_):
        return {"type": each.type, "error": each.error}
    raise AssertionError("the events ended")


@on_uvloop
async def test_an_idle_daemon_notices_that_redis_hangs_and_no_request_waits_for_it(redis: RedisServer) -> None:
    async with daemon_behind(redis) as (_, store):
        await store.save(SessionState("hot"))
        await store.flush()
        told = asyncio.ensure_future(event(store, "store.down"))
        await asyncio.sleep(0)
        redis.pause()
        async with asyncio.timeout(10):
            await told
        assert (await store.stats())["store"] == "down"
        started = time.monotonic()
        for number in range(20):
            with pytest.raises(StoreUnavailableError):
                await store.load(f"unknown-{number}")
            await store.save(SessionState(f"new-{number}"), if_version=0)
        assert time.monotonic() - started < 1.0, "40 misses, and store.timeout_s is 2"
        redis.resume()
        assert (await store.flush(timeout_s=20)).unflushed == 0
        assert (await store.stats())["store"] == "up"
        assert b"new-19" in redis.command("SMEMBERS", "voicesession:active")


@on_uvloop
async def test_a_daemon_whose_redis_hangs_stops_without_waiting_for_it(redis: RedisServer) -> None:
    async with daemon_behind(redis, "--set", "server.shutdown_flush_s=15") as (daemon, store):
        redis.pause()
        await store.save(SessionState("c1"), if_version=0)
        async with asyncio.timeout(10):
            await event(store, "store.down")
        started = time.monotonic()
        await daemon.in_thread("terminate")
        assert time.monotonic() - started < 8.0
        assert "1 sessions not yet in the store; the journal has them" in daemon.log()
        redis.resume()
        await daemon.in_thread("start")
        assert (await store.flush(timeout_s=20)).unflushed == 0
        assert b'"c1"' in redis.command("GET", "voicesession:c1")


async def cold(store: SidecarStore) -> None:
    """Wait until no session is in memory: another process's counter has no event to wait for."""
    await store.flush()
    async with asyncio.timeout(20):
        while (await store.stats())["sessions"]:
            await asyncio.sleep(0.01)


async def gone(path: Path, *, is_gone: bool) -> None:
    """Make an SQLite file one that can't be opened, by a link to a directory in its place; or put the file back.

    Each is one rename: at no moment is the path free, or the daemon could make a new file there.
    """

    def swap() -> None:
        aside, link = path.with_name("aside"), path.with_name("link")
        if is_gone:
            aside.hardlink_to(path)
            link.symlink_to(path.parent, target_is_directory=True)
            link.replace(path)
        else:
            aside.replace(path)

    await asyncio.to_thread(swap)


@on_uvloop
@pytest.mark.parametrize("killed", [False, True])
async def test_calls_begin_while_the_sqlite_file_is_away_and_empty_nothing_in_it(killed: bool) -> None:
    daemon = Daemon("--set", "reaper.retention_s=0", "--set", "reaper.tick_s=0.01")
    path = daemon.state_dir / "callstate.db"
    try:
        await daemon.in_thread("start")
        async with connect(daemon.socket) as store:
            await store.save(SessionState("c1", status="active", recovery_data={"node": "menu"}))
            await store.add_turn("c1", "user", "before", duration_ms=900)
            await store.end("c1", "transferred")
            await cold(store)
            await gone(path, is_gone=True)
            for method in (store.load, store.end, store.delete, store.update_heartbeat):
                with pytest.raises(StoreUnavailableError):
                    await method("c1")
            with Wire(daemon.socket) as wire:
                for params in ({}, {"if_version": 0}):
                    session = {"id": f"new-{len(params)}", "status": "active"}
                    assert wire.call("session.save", session=session, **params)["unverified"] is True
            await store.save(SessionState("c1", status="active"))  # a new state: its history is empty
            await store.add_turn("c1", "agent", "after")
            assert (await store.flush(timeout_s=0.05)).unflushed == 3
            if killed:
                await daemon.in_thread("kill")
                await daemon.in_thread("start")
            await gone(path, is_gone=False)
            assert (await store.flush(timeout_s=20)).unflushed == 0
            state = await store.load("c1")
            assert [turn.content for turn in state.history] == ["before", "after"]
            assert (state.metrics.turn_count, state.recovery_data) == (2, {"node": "menu"})
        async with SqliteStore(path) as shared:
            assert [turn.content for turn in (await shared.load("c1")).history] == ["before", "after"]
            assert {*await shared.list_active()} == {"c1", "new-0", "new-1"}
    finally:
        daemon.close(expect=rf"{STORE_AWAY}|may have lost data")


@on_uvloop
async def test_an_unreadable_document_is_not_replaced_after_an_outage(redis: RedisServer) -> None:
    """A key of another type is no absence, before the outage or after it."""
    redis.command("RPUSH", "voicesession:c1", "not-ours")
    async with daemon_behind(redis, expect=rf"{STORE_AWAY}|refuses session c1") as (_, store):
        for if_version in (None, 0):
            with pytest.raises(UnreadableError):
                await store.save(SessionState("c1"), if_version=if_version)
        redis.pause()
        async with asyncio.timeout(10):
            await event(store, "store.down")
        await store.save(SessionState("c1"), if_version=0)
        redis.resume()
        assert (await store.flush(timeout_s=20)).unflushed == 1
        (refused,) = [each async for each in store.quarantined()]
        assert (refused.session_id, refused.kind) == ("c1", "session")
        assert redis.command("LRANGE", "voicesession:c1", "0", "-1").endswith(b"not-ours\r\n")
        redis.command("DEL", "voicesession:c1")
        await store.retry_quarantined()
        async with asyncio.timeout(20):
            while (await store.stats())["quarantined"]:
                await asyncio.sleep(0.01)
        assert b'"c1"' in redis.command("GET", "voicesession:c1")


@on_both
@on_uvloop
async def test_a_session_that_redis_hangs_up_on_holds_up_no_other(redis: RedisServer) -> None:
    """One of more than `proto-max-bulk-len`: Redis breaks the connection instead of answering."""
    redis.command("CONFIG", "SET", "proto-max-bulk-len", "1048576")
    slow = ("--set", "store.flush_interval_s=60")  # what is flushed goes together, and whole
    async with daemon_behind(redis, *slow, expect=rf"{STORE_AWAY}|refuses session big") as (_, store):
        for number in range(20):
            await store.save(SessionState(f"small-{number}", status="active"))
        await store.save(SessionState("big", status="active"))
        for _ in range(5):
            await store.add_turn("big", "user", "x" * 900_000)
        for number in range(20):
            await store.add_turn(f"small-{number}", "user", "hello")
        assert (await store.flush(timeout_s=30)).unflushed == 1
        stats = await store.stats()
        assert stats["quarantined"] == 1
        assert redis.command("SCARD", "voicesession:active") in (b":20\r\n", b":21\r\n")
        redis.command("CONFIG", "SET", "proto-max-bulk-len", "536870912")
        await store.retry_quarantined()
        async with asyncio.timeout(20):
            while (await store.stats())["quarantined"]:
                await asyncio.sleep(0.01)
        assert int(redis.command("STRLEN", "voicesession:big").strip(b":\r\n")) > 4_500_000


@on_both
@on_uvloop
async def test_a_session_too_large_for_the_line_is_found_and_holds_up_no_other(redis: RedisServer) -> None:
    """4.5 MB at 1 MB a second, and `store.timeout_s` is 2; what is small passes."""
    async with SlowLink(redis.socket, 1_000_000) as link:
        daemon = Daemon("--set", "store.flush_interval_s=60", store=f"unix://{link.socket}")
        try:
            await daemon.in_thread("start")
            async with connect(daemon.socket) as store:
                await store.save(SessionState("big", status="active"))
                for _ in range(5):
                    await store.add_turn("big", "user", "x" * 900_000)
                for number in range(20):
                    await store.save(SessionState(f"small-{number}", status="active"))
                assert (await store.flush(timeout_s=30)).unflushed == 1
                (refused,) = [each async for each in store.quarantined()]
                assert refused.session_id == "big"
                assert refused.reason.startswith("unanswered: ")
                assert b":20\r\n" in redis.command("SCARD", "voicesession:active")
                for number in range(20):
                    await store.add_turn(f"small-{number}", "user", "hello")
                assert (await store.flush(timeout_s=30)).unflushed == 1
                assert (await store.stats())["store"] == "up"
                link.bytes_per_s = None
                await store.retry_quarantined()
                async with asyncio.timeout(30):
                    while (await store.stats())["quarantined"]:
                        await asyncio.sleep(0.01)
            assert int(redis.command("STRLEN", "voicesession:big").strip(b":\r\n")) > 4_500_000
        finally:
            # not in the loop, which is that of the link as well
            await asyncio.to_thread(daemon.close, expect=rf"{STORE_AWAY}|refuses session big")


@on_both
@on_uvloop
async def test_a_right_that_lacks_is_refusing_and_all_is_written_once_it_is_granted(redis: RedisServer) -> None:
    """The whole store is at fault: no session is blamed, and new ones are bounded."""
    redis.command("ACL", "SETUSER", "worker", "on", ">p", "~*", "+@all", "-sadd")
    daemon = Daemon("--set", "store.max_dirty_bytes=65536", store=f"unix://worker:p@{redis.socket}")
    try:
        await daemon.in_thread("start")
        async with connect(daemon.socket) as store:
            await store.save(SessionState("c0", status="active"))
            async with asyncio.timeout(20):
                await event(store, "store.down")
            stats = await store.stats()
            assert stats["store"] == "refusing"
            assert "sadd" in stats["store_error"] or "can't run this command" in stats["store_error"]
            assert stats["quarantined"] == 0
            await store.add_turn("c0", "user", "x" * 70_000)
            with pytest.raises(OverloadedError):
                await store.save(SessionState("c1", status="active"))
            redis.command("ACL", "SETUSER", "worker", "+sadd")
            assert (await store.flush(timeout_s=20)).unflushed == 0
            await store.save(SessionState("c1", status="active"))
            assert (await store.flush(timeout_s=20)).unflushed == 0
            assert (await store.stats())["store"] == "up"
    finally:
        daemon.close(expect=STORE_AWAY)
