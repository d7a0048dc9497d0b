"""The daemon with a real store behind it: copied behind the writes, read through, away, and back."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from callstate_client import (
    SessionEndedError,
    SessionNotFoundError,
    SessionState,
    SidecarStore,
    StoreUnavailableError,
    connect,
)
from callstate_sidecar.config.load import load_config
from callstate_sidecar.named_backend import named_backend
from callstate_sidecar.stores.redis import RedisStore
from callstate_sidecar.stores.sqlite import SqliteBackend, SqliteStore
from support.daemon import Daemon
from support.redis_server import RedisServer, binaries
from support.wire import Refused, Wire

pytestmark = pytest.mark.system
on_uvloop = pytest.mark.asyncio(loop_factories=["uvloop"])  # the loop of the test; the daemon's is uvloop anyway

STORE_AWAY = r"the store (is|may have lost data)"
"""A Redis that was restarted is not trusted to have all it had."""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer(binaries()["valkey"]) as server:
        yield server


async def until(question: Callable[[], Awaitable[bool]], within_s: float = 20.0) -> None:
    """Ask until it is so. What is waited for here has no event to wait on: a counter in another process."""
    async with asyncio.timeout(within_s):
        while not await question():
            await asyncio.sleep(0.01)


async def store_is(store: SidecarStore, state: str) -> None:
    async def asked() -> bool:
        return (await store.stats())["store"] == state

    await until(asked)


@on_uvloop
async def test_redis_has_it_moments_later_and_go_can_read_it(redis: RedisServer) -> None:
    with Daemon(store=redis.url) as daemon:
        async with connect(daemon.socket) as store:
            state = SessionState("c1", provider="twilio", from_="+15550001", to="+15550002", extra={"campaign": 7})
            await store.save(state)
            await store.add_turn("c1", "user", "hello", duration_ms=900)
            assert (await store.flush()).unflushed == 0
            document = json.loads(redis.command("GET", "voicesession:c1").partition(b"\r\n")[2])
            assert document["from"] == "+15550001"
            assert document["campaign"] == 7
            assert [turn["content"] for turn in document["history"]] == ["hello"]
            assert b"c1" in redis.command("SMEMBERS", "voicesession:active")
            ttl_s = int(redis.command("TTL", "voicesession:c1").strip().lstrip(b":"))
            assert 86_000 < ttl_s <= 86_400
            shared = RedisStore.from_url(redis.url)
            assert await shared.load("c1") == await store.load("c1")
            await store.end("c1", "caller_hangup")
            await store.flush()
            assert await shared.list_active() == []
            await store.delete("c1")
            await store.flush()
            with pytest.raises(SessionNotFoundError):
                await shared.load("c1")
            await shared.close()


@on_uvloop
async def test_response_times_are_in_redis_and_in_the_journal(redis: RedisServer) -> None:
    with Daemon(store=redis.url) as daemon:
        async with connect(daemon.socket) as store, store.hold(SessionState("c1")) as call:
            for number in range(3):  # the second and third are patches of the document in Redis
                await call.add_turn("agent", f"turn {number}", response_ms=300 + number)
                assert (await store.flush()).unflushed == 0
                document = json.loads(redis.command("GET", "voicesession:c1").partition(b"\r\n")[2])
                metrics = document["metrics"]
                assert (metrics["first_response_ms"], metrics["response_count"]) == (300, number + 1)
                assert metrics["average_response_ms"] == metrics["response_total_ms"] // (number + 1)
            await call.release()
        daemon.kill()
        daemon.start()
        async with connect(daemon.socket) as store, store.hold("c1") as call:
            assert call.state.metrics.extra == {"response_count": 3, "response_total_ms": 903}
            await call.add_turn("agent", "again", response_ms=101)
            metrics = (await store.load("c1")).metrics
            assert (metrics.first_response_ms, metrics.average_response_ms) == (300, 251)


@on_uvloop
async def test_a_session_born_and_deleted_within_the_interval_is_never_written(redis: RedisServer) -> None:
    with Daemon("--set", "store.flush_interval_s=60", store=redis.url) as daemon:
        async with connect(daemon.socket) as store:
            await store.save(SessionState("short"))
            await store.delete("short")
            await store.flush(timeout_s=5)
            assert redis.command("KEYS", "*short*") in (b"*0\r\n", b"")


@on_uvloop
async def test_redis_away_at_the_start_and_later_is_served_around(redis: RedisServer) -> None:
    url = redis.url
    redis.stop()
    daemon = Daemon("--set", "store.timeout_s=0.5", store=url)
    try:
        await daemon.in_thread("start")
        async with connect(daemon.socket) as store:
            await store.save(SessionState("early"))
            await store.add_turn("early", "user", "is anybody there")
            with pytest.raises(StoreUnavailableError):
                await store.load("unknown")
            await store.save(SessionState("only-new"), if_version=0)
            await store_is(store, "down")
            assert (await store.flush(timeout_s=0.05)).unflushed == 2
            await daemon.in_thread("kill")
            await daemon.in_thread("start")  # with Redis still away: the journal has all
            assert (await store.load("early")).history[-1].content == "is anybody there"
            redis.start()
            await store.flush(timeout_s=20)
            await store_is(store, "up")
            assert b"is anybody there" in redis.command("GET", "voicesession:early")
            assert b"only-new" in redis.command("GET", "voicesession:only-new")
            redis.pause()
            await store.add_turn("early", "agent", "yes")
            assert (await store.load("early")).history[-1].content == "yes"
            await store_is(store, "down")
            redis.resume()
            assert (await store.flush(timeout_s=20)).unflushed == 0
            assert b'"yes"' in redis.command("GET", "voicesession:early")
    finally:
        daemon.close(expect=STORE_AWAY)


@on_uvloop
async def test_a_redis_that_refuses_is_distinguished_from_one_that_is_down(redis: RedisServer) -> None:
    daemon = Daemon(store=redis.url)
    try:
        await daemon.in_thread("start")
        async with connect(daemon.socket) as store:
            redis.command("CONFIG", "SET", "maxmemory", "1")
            await store.save(SessionState("c1"))
            await store_is(store, "refusing")
            assert "maxmemory" in (await store.stats())["store_error"]
            redis.command("CONFIG", "SET", "maxmemory", "0")
            await store.flush(timeout_s=20)
            await store_is(store, "up")
            assert b'"c1"' in redis.command("GET", "voicesession:c1")
    finally:
        daemon.close(expect=STORE_AWAY)


@on_uvloop
async def test_a_session_is_read_from_the_store_once_it_is_no_longer_hot(redis: RedisServer) -> None:
    with Daemon("--set", "reaper.retention_s=0", "--set", "reaper.tick_s=0.01", store=redis.url) as daemon:
        async with connect(daemon.socket) as store:
            await store.save(SessionState("c1", provider="sip"))
            await store.add_turn("c1", "user", "bye")
            await store.end("c1", "caller_hangup")
            before = await store.get("c1")

            async def cold() -> bool:
                return (await store.stats())["sessions"] == {}

            await store.flush()
            await until(cold)
            again = await store.get("c1")
            assert (again.state, again.version) == (before.state, before.version)
            assert again.ended_reason == "caller_hangup"


@on_uvloop
async def test_a_session_that_go_wrote_is_read_each_time_and_taken_over_by_the_first_mutation(
    redis: RedisServer,
) -> None:
    theirs = RedisStore.from_url(redis.url)
    with Daemon(store=redis.url) as daemon:
        async with connect(daemon.socket) as store:
            state = SessionState("go-1", provider="go")
            state.add_turn("user", "from go")
            await theirs.save(state)
            assert (await store.load("go-1")).history[-1].content == "from go"
            state.add_turn("agent", "again from go")
            await theirs.save(state)
            assert (await store.load("go-1")).history[-1].content == "again from go"
            assert (await store.stats())["sessions"] == {}
            await store.add_turn("go-1", "user", "now from here")
            assert (await store.stats())["sessions"] == {"pending": 1}
            await store.flush()
            assert [turn.content for turn in (await theirs.load("go-1")).history] == [
                "from go", "again from go", "now from here",
            ]  # fmt: skip
    await theirs.close()


def test_with_sqlite_behind_nothing_of_redis_is_imported() -> None:
    code = (
        "import sys, tempfile\n"
        "from pathlib import Path\n"
        "import callstate_sidecar.launch\n"
        "from callstate_sidecar.config.load import load_config\n"
        "from callstate_sidecar.named_backend import named_backend\n"
        "with tempfile.TemporaryDirectory() as d:\n"
        "    named_backend(load_config([], {})[0], Path(d), 'h', {})\n"
        "print(*sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    modules = ran.stdout.split()
    assert "callstate_sidecar.stores.sqlite" in modules
    assert not [name for name in modules if name.partition(".")[0] == "redis" or "stores.redis" in name]


@on_uvloop
async def test_a_dead_call_is_reaped_with_all_its_data(redis: RedisServer) -> None:
    fast = ["--set", "reaper.heartbeat_timeout_s=0.3", "--set", "reaper.grace_s=0.2", "--set", "reaper.tick_s=0.02"]
    with Daemon(*fast, store=redis.url) as daemon:
        async with connect(daemon.socket) as store:
            await store.save(SessionState("dead", provider="sip", recovery_data={"node": "menu"}))
            await store.save(SessionState("patient"), heartbeat_timeout_s=3600)
            await store.add_turn("dead", "user", "hello?")
            last = (await store.load("dead")).updated_at

            async def reaped() -> bool:
                return (await store.get("dead", "none")).ended_reason == "heartbeat_timeout"

            await until(reaped)
            record = await store.get("dead")
            assert record.state.status == "ended"
            assert record.state.updated_at == last, "the last sign of life, not the time of the reaping"
            assert record.state.recovery_data == {"node": "menu"}
            assert [turn.content for turn in record.state.history] == ["hello?"]
            assert await store.list_active() == ["patient"]
            with pytest.raises(SessionEndedError) as caught:
                await store.update_heartbeat("dead")
            assert caught.value.reason == "heartbeat_timeout"
            with pytest.raises(SessionEndedError):
                await store.add_turn("dead", "user", "I am back")
            await store.flush()
            assert b'"status":"ended"' in redis.command("GET", "voicesession:dead")
            assert b"dead" not in redis.command("SMEMBERS", "voicesession:active")
            assert b"heartbeat_timeout" in redis.command("HGET", "{voicesession:dead}:meta", "ended_reason")


@on_uvloop
@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_a_deleted_sqlite_file_is_created_again_with_everything_hot(how: str) -> None:
    daemon = Daemon()
    try:
        await daemon.in_thread("start")
        path = daemon.state_dir / "callstate.db"
        async with connect(daemon.socket) as store:
            for number in range(30):
                await store.save(SessionState(f"c{number}", status="active"))
            await store.end("c0")
            await store.flush()
            events = store.events("store.repaired", since=None)
            repaired = asyncio.ensure_future(anext(events))
            while (await store.stats())["subscribers"] == 0:
                await asyncio.sleep(0)
            path.unlink()
            if how == "replaced":
                path.touch()
            await asyncio.wait_for(repaired, 20)
            assert (await store.flush()).unflushed == 0
            async with SqliteStore(path) as others:
                assert sorted(await others.list_active()) == sorted(f"c{number}" for number in range(1, 30))
                assert (await others.load("c0")).status == "ended"
            path.unlink()
            assert (await store.flush()).unflushed == 0, "a flush does not take the file's word for it"
            async with SqliteStore(path) as others:
                assert len(await others.list_active()) == 29
            assert (await store.stats())["store_repairs"] == 2
    finally:
        daemon.close(expect="the store may have lost data")


@on_uvloop
async def test_at_durability_power_redis_has_it_when_its_disk_has() -> None:
    with (
        RedisServer(binaries()["valkey"], "appendonly yes") as server,
        Daemon("--durability", "power", store=server.url) as daemon,
    ):
        async with connect(daemon.socket) as store:
            await store.save(SessionState("c1", status="active"))
            assert (await store.flush()).unflushed == 0
            assert b"cmdstat_waitaof:calls=" in server.command("INFO", "commandstats")


@pytest.mark.parametrize(("args", "synced"), [((), False), (("--durability", "power"), True)])
def test_the_store_is_as_safe_as_the_journal(args: tuple[str, ...], synced: bool, tmp_path: Path) -> None:
    backend = named_backend(load_config(list(args), {})[0], tmp_path, "h", {})
    assert isinstance(backend, SqliteBackend)
    assert backend.synced is synced


FORGETFUL = ("--set", "reaper.retention_s=0", "--set", "reaper.tick_s=0.01")
KEPT = ("appendonly yes", "appendfsync always")


async def cold(store: SidecarStore) -> None:
    async def asked() -> bool:
        return (await store.stats())["sessions"] == {}

    await store.flush()
    await until(asked)


@on_uvloop
@pytest.mark.parametrize("killed", [False, True])
async def test_a_session_saved_while_redis_is_down_keeps_what_redis_has(killed: bool) -> None:
    """The call had ended and left memory; its worker saves it again, without its history, during an outage."""
    redis = RedisServer(binaries()["valkey"], *KEPT)
    redis.start()
    daemon = Daemon(*FORGETFUL, store=redis.url)
    try:
        await daemon.in_thread("start")
        async with connect(daemon.socket) as store:
            state = SessionState("c1", status="active", recovery_data={"node": "menu"}, extra={"campaign": 7})
            await store.save(state, labels={"app": "sales"})
            await store.add_turn("c1", "user", "before")
            claimed = await store.claim("c1")
            await store.end("c1", "transferred")
            await cold(store)
            redis.stop()
            with Wire(daemon.socket) as wire:
                saved = wire.call("session.save", session={"id": "c1", "status": "active"})
                assert saved["unverified"] is True
            await store.add_turn("c1", "agent", "after")
            await store_is(store, "down")
            if killed:
                await daemon.in_thread("kill")
                await daemon.in_thread("start")
            redis.start()
            assert (await store.flush(timeout_s=20)).unflushed == 0
            record = await store.get("c1")
            assert [turn.content for turn in record.state.history] == ["before", "after"]
            assert (record.state.recovery_data, record.labels) == ({"node": "menu"}, {"app": "sales"})
            assert record.state.extra == {"campaign": 7}
            assert record.epoch > claimed.epoch
            assert await read_from(redis, "c1") == record.state
            stats = await store.stats()
            assert (stats["quarantined"], stats["store"]) == (0, "up")
            await daemon.in_thread("kill")
            await daemon.in_thread("start")
            assert (await store.get("c1")).state.history == record.state.history
    finally:
        redis.close()
        daemon.close(expect=STORE_AWAY)


async def read_from(redis: RedisServer, session_id: str) -> SessionState:
    shared = RedisStore.from_url(redis.url)
    try:
        return await shared.load(session_id)
    finally:
        await shared.close()


@on_uvloop
async def test_created_during_an_outage_what_another_host_has_stays_that_hosts() -> None:
    redis = RedisServer(binaries()["valkey"], *KEPT)
    redis.start()
    theirs, ours = Daemon(store=redis.url), Daemon(store=redis.url)
    try:
        await asyncio.gather(theirs.in_thread("start"), ours.in_thread("start"))
        async with connect(theirs.socket) as other:
            await other.save(SessionState("c1", status="active", provider="theirs"))
            await other.flush()
        async with connect(ours.socket) as store:
            redis.stop()
            await store.save(SessionState("c1", status="active", provider="ours"), if_version=0)
            await store.save(SessionState("c2", status="active"), if_version=0)
            fenced = store.events("fenced", since=None)
            told = asyncio.ensure_future(anext(fenced))
            while (await store.stats())["subscribers"] == 0:
                await asyncio.sleep(0)
            redis.start()
            event = await asyncio.wait_for(told, 20)
            assert (event.session_id, event.reason) == ("c1", "superseded")
            assert (await store.flush(timeout_s=20)).unflushed == 1
            assert (await store.stats())["quarantined"] == 1
            assert (await read_from(redis, "c1")).provider == "theirs"
            assert (await read_from(redis, "c2")).id == "c2"
            await ours.in_thread("kill")
            await ours.in_thread("start")
            assert (await store.load("c1")).provider == "theirs"
            assert (await store.stats())["quarantined"] == 1, "the journal keeps ours"
    finally:
        redis.close()
        theirs.close(expect=STORE_AWAY)
        ours.close(expect=f"{STORE_AWAY}|session c1 now belongs to host")


@on_uvloop
@pytest.mark.parametrize("kind", ["redis", "sqlite"])
async def test_a_journal_from_a_backup_does_not_overwrite_what_the_store_has_since(
    kind: str, redis: RedisServer
) -> None:
    daemon = Daemon(store=redis.url if kind == "redis" else None)
    journal, backup = daemon.state_dir / "journal", daemon.root / "backup"
    try:
        await daemon.in_thread("start")
        async with connect(daemon.socket) as store:
            for name in ("c1", "c2"):
                await store.save(SessionState(name, status="active"))
                await store.add_turn(name, "user", "one")
            await daemon.in_thread("terminate")
            shutil.copytree(journal, backup)
            await daemon.in_thread("start")
            await store.add_turn("c1", "agent", "two")
            await store.update("c1", status="on_hold")
            await store.add_turn("c2", "agent", "two")
            await store.flush()
            await daemon.in_thread("kill")
            shutil.rmtree(journal)
            shutil.copytree(backup, journal)
            if kind == "redis":
                redis.pause()
            await daemon.in_thread("start")
            if kind == "redis":  # before the store is seen
                await store.add_turn("c2", "user", "three")
                redis.resume()
            assert (await store.flush(timeout_s=20)).unflushed == 0
            state = await store.load("c1")
            assert ([turn.content for turn in state.history], state.status) == (["one", "two"], "on_hold")
            others = [turn.content for turn in (await store.load("c2")).history]
            assert others == (["one", "two", "three"] if kind == "redis" else ["one", "two"])
    finally:
        daemon.close(expect=STORE_AWAY)


@on_uvloop
@pytest.mark.parametrize("behind", ["sqlite", "redis"])
async def test_a_late_webhook_finds_its_call_when_it_has_left_memory(redis: RedisServer, behind: str) -> None:
    quick = ("--set", "reaper.retention_s=0.1", "--set", "reaper.tick_s=0.02")
    with Daemon(*quick, store=redis.url if behind == "redis" else None) as daemon:
        async with connect(daemon.socket) as store:
            for name in ("a", "b"):
                await store.save(SessionState(name, call_id=f"CA-{name}", provider="twilio"), labels={"app": name})
                await store.add_turn(name, "user", "hello")
                await store.end(name, "caller_hangup")
            await store.save(SessionState("live", call_id="CA-a"))
            await store.flush()

            async def forgotten() -> bool:
                return [record.state.id async for record in store.sessions()] == ["live"]

            await until(forgotten)

            async def found(**conditions: Any) -> list[str]:
                return sorted([record.state.id async for record in store.sessions(scope="all", **conditions)])

            assert await found(call_id="CA-a") == ["a", "live"]
            assert await found(call_id="CA-a", status="ended") == ["a"]
            assert await found(labels={"app": "b"}) == ["b"]
            assert await found(provider="twilio") == ["a", "b"]
            assert await found(ended_since=datetime.now(UTC) - timedelta(hours=1)) == ["a", "b"]
            assert await found(ended_since=datetime.now(UTC) + timedelta(hours=1)) == []
            assert await found(state="live") == ["live"]
            [record] = [record async for record in store.sessions(scope="all", call_id="CA-b")]
            assert (record.ended_reason, record.state.history_from + len(record.state.history)) == (
                "caller_hangup",
                1,
            )
            await store.delete("a")
            assert await found(call_id="CA-a") == ["live"], "also before the store has heard of it"


@on_uvloop
async def test_every_hosts_sessions_are_listed_once(redis: RedisServer) -> None:
    with Daemon(store=redis.url) as ours, Daemon(store=redis.url) as theirs:
        async with connect(ours.socket) as store, connect(theirs.socket) as other:
            for number in range(30):
                await (store if number % 2 else other).save(SessionState(f"s{number}"))
            await store.flush()
            await other.flush()
            everything = sorted(f"s{number}" for number in range(30))
            assert sorted([record.state.id async for record in store.sessions(scope="all")]) == everything
            assert sorted(await store.list_active("all")) == everything
            with Wire(ours.socket) as wire:
                seen: list[str] = []
                cursor: dict[str, str] = {}
                while True:
                    page = wire.call("session.list", scope="all", limit=4, **cursor)
                    assert len(page["sessions"]) <= 4
                    seen += [found["session"]["id"] for found in page["sessions"]]
                    if "next_cursor" not in page:
                        break
                    cursor = {"cursor": page["next_cursor"]}
                assert sorted(seen) == everything


def test_sessions_of_every_host_are_not_listed_without_the_store() -> None:
    with Daemon(store="redis://127.0.0.1:1") as daemon, Wire(daemon.socket) as wire:
        wire.call("session.save", session={"id": "a"})
        assert [found["session"]["id"] for found in wire.call("session.list")["sessions"]] == ["a"]
        for method in ("session.list", "session.list_active"):
            with pytest.raises(Refused) as refused:
                wire.call(method, scope="all")
            assert refused.value.kind == "store_unavailable"
