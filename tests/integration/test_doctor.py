"""`callstate doctor` against real stores: each finding is produced, named, and with `--repair` mended."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from callstate_client import SessionState, SidecarStore, connect
from callstate_client.cli import main
from callstate_client.engine.sessions.stored import StoreDownError
from callstate_client.protocol.results import Finding
from callstate_sidecar.stores.redis import RedisBackend, RedisStore
from callstate_sidecar.stores.sqlite import SqliteBackend, inspection
from callstate_sidecar.write_behind import store_check
from support.core import HOST, Core
from support.daemon import Daemon
from support.redis_server import RedisServer, binaries
from support.redis_topologies import ClusterServers

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_factories=["uvloop"])]

PREFIX = "voicesession:"
META = f"{{{PREFIX}live}}:meta"

SWEEP_LATER = ("--set", "store.beat_interval_s=3600")
"""Otherwise the daemon itself mends what a test breaks."""


EXPECTED = "the store|other software|now belongs to host elsewhere"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer(binaries()["valkey"], "appendonly yes") as server:
        yield server


@pytest.fixture
def daemon(redis: RedisServer) -> Iterator[Daemon]:
    daemon = Daemon(*SWEEP_LATER, store=redis.url)
    daemon.start()
    yield daemon
    daemon.close(expect=EXPECTED)


@pytest.fixture
async def store(daemon: Daemon) -> AsyncIterator[SidecarStore]:
    """With a live call, one that has ended, and both in the store."""
    async with connect(daemon.socket) as store:
        await two_calls(store)
        yield store


@pytest.fixture
async def raw(redis: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis.url, protocol=2) as raw:
        yield raw


async def two_calls(store: SidecarStore) -> None:
    await store.save(SessionState("live", status="active", call_id="CA1"))
    await store.save(SessionState("over", status="active"))
    await store.add_turn("live", "user", "hello")
    await store.end("over")
    assert (await store.flush(timeout_s=20.0)).unflushed == 0


async def kinds(store: SidecarStore, *, repair: bool = False) -> list[tuple[str, str, bool]]:
    result = await store.check(repair=repair)
    assert result.left_out == 0
    assert all(finding.detail and finding.remedy for finding in result.findings)
    return sorted((each.kind, each.session_id, each.repaired) for each in result.findings)


# -- sessions in Redis ----------------------------------------------------------------------------------------


async def test_a_healthy_system_has_no_finding(store: SidecarStore) -> None:
    result = await store.check()
    assert (result.checked, result.findings, result.left_out) == (2, [], 0)
    assert (await store.check(repair=True)).findings == []


async def lose(raw: Redis) -> None:
    await raw.delete(PREFIX + "live")


async def delete(raw: Redis) -> None:
    await raw.delete(PREFIX + "live")
    await raw.srem(PREFIX + "active", "live")


async def go_writes(raw: Redis) -> None:
    go = RedisStore.from_client(raw)
    theirs = await go.load("live")
    theirs.extra["note"] = "from Go"
    await go.save(theirs)


async def age(raw: Redis) -> None:
    await raw.hset(META, "version", 1)


async def outdate(raw: Redis) -> None:
    await raw.hincrby(META, "version", 1000)


async def give_away(raw: Redis) -> None:
    await raw.hset(META, mapping={"host": "elsewhere", "epoch": 1 << 20})


async def persist(raw: Redis) -> None:
    await raw.persist(PREFIX + "live")


async def persist_meta(raw: Redis) -> None:
    await raw.persist(META)


async def unlist(raw: Redis) -> None:
    await raw.srem(PREFIX + "active", "live")


async def list_ended(raw: Redis) -> None:
    await raw.sadd(PREFIX + "active", "over")


async def add_ghost(raw: Redis) -> None:
    await raw.sadd(PREFIX + "active", "ghost")
    await raw.zadd(PREFIX + "@heartbeats", {"ghost": 1})


async def persist_beats(raw: Redis) -> None:
    await raw.zadd(PREFIX + "@heartbeats", {"live": 1})
    await raw.persist(PREFIX + "@heartbeats")


FAULTS: dict[Callable[[Redis], Any], tuple[str, str]] = {
    lose: ("missing", "live"),
    delete: ("deleted", "live"),
    go_writes: ("changed", "live"),
    age: ("older", "live"),
    outdate: ("newer", "live"),
    give_away: ("other_host", "live"),
    persist: ("no_ttl", "live"),
    persist_meta: ("no_ttl", "live"),
    unlist: ("unlisted", "live"),
    list_ended: ("ghost", "over"),
    add_ghost: ("ghost", "ghost"),
    persist_beats: ("no_ttl", ""),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_each_fault_is_found_and_repaired(
    fault: Callable[[Redis], Any], store: SidecarStore, raw: Redis
) -> None:
    kind, session_id = FAULTS[fault]
    await fault(raw)
    assert await kinds(store) == [(kind, session_id, False)]
    assert await kinds(store) == [(kind, session_id, False)], "a check changes nothing"
    lost = [("set_aside", "live", False)] if fault is give_away else []
    assert await kinds(store, repair=True) == [(kind, session_id, True), *lost]
    assert await kinds(store) == lost
    if fault in (lose, persist, unlist, age):
        assert len(json.loads(await raw.get(PREFIX + "live") or b"{}")["history"]) == 1
        assert await raw.smembers(PREFIX + "active") == {b"live"}
    elif fault is go_writes:
        assert (await store.load("live")).extra["note"] == "from Go"
    elif fault is add_ghost:
        assert not await raw.zscore(PREFIX + "@heartbeats", "ghost")


async def test_a_key_of_another_type_is_left_to_a_person(store: SidecarStore, raw: Redis) -> None:
    await raw.delete(PREFIX + "live")
    await raw.rpush(PREFIX + "live", "no document")
    assert await kinds(store, repair=True) == [("wrong_type", "live", False)]
    await store.add_turn("live", "user", "refused")
    await store.flush(timeout_s=20)
    assert await kinds(store, repair=True) == [("wrong_type", "live", False)]
    assert await raw.lrange(PREFIX + "live", 0, -1) == [b"no document"]
    await raw.delete(PREFIX + "live")
    await store.add_turn("live", "user", "taken")
    await store.flush(timeout_s=20)
    assert await kinds(store) == []


async def test_a_shared_key_of_another_type(store: SidecarStore, raw: Redis) -> None:
    await raw.rename(PREFIX + "active", "kept")
    await raw.set(PREFIX + "active", "no set")
    assert ("wrong_type", "", False) in await kinds(store, repair=True)
    await raw.rename("kept", PREFIX + "active")
    assert await kinds(store, repair=True) == []


async def test_only_so_many_findings_are_sent(store: SidecarStore, raw: Redis) -> None:
    await raw.sadd(PREFIX + "active", *(f"ghost-{i}" for i in range(1000)))
    result = await store.check()
    assert (len(result.findings), result.left_out) == (200, 800)
    await store.check(repair=True)
    assert await kinds(store) == []


async def test_many_sessions_are_repaired_while_others_are_served(store: SidecarStore, raw: Redis) -> None:
    await asyncio.gather(*(store.save(SessionState(f"call-{i}", status="active")) for i in range(1000)))
    assert (await store.flush(timeout_s=20.0)).unflushed == 0
    for start in range(0, 1000, 500):
        await raw.delete(*(f"{PREFIX}call-{i}" for i in range(start, start + 500)))
    check = asyncio.ensure_future(store.check(repair=True))
    slowest_s = 0.0
    while not check.done():
        before = time.monotonic()
        await store.ping()
        slowest_s = max(slowest_s, time.monotonic() - before)
    result = check.result()
    assert (result.checked, len(result.findings), result.left_out) == (1002, 200, 800)
    assert all(finding.repaired for finding in result.findings)
    assert await kinds(store) == []
    assert await raw.scard(PREFIX + "active") == 1001
    assert slowest_s < 0.5, "generous: the machine may be busy"


# -- the server -----------------------------------------------------------------------------------------------


async def test_settings_of_the_server(store: SidecarStore, raw: Redis) -> None:
    await raw.config_set("appendonly", "no")
    await raw.config_set("maxmemory-policy", "allkeys-lru")
    assert await kinds(store, repair=True) == [("eviction", "", False), ("not_persistent", "", False)]
    await raw.config_set("appendonly", "yes")
    await raw.config_set("maxmemory-policy", "noeviction")
    assert await kinds(store) == []


async def test_a_server_that_takes_no_writes(store: SidecarStore, raw: Redis) -> None:
    await raw.config_set("maxmemory", 1)
    await store.add_turn("live", "user", "waits")
    async with asyncio.timeout(20):
        while (await store.stats())["store"] == "up":
            await asyncio.sleep(0.01)
    assert ("refusing", "", False) in await kinds(store)
    await raw.config_set("maxmemory", 0)
    await store.flush(timeout_s=20)
    assert await kinds(store) == []


async def test_a_server_that_does_not_answer(redis: RedisServer, store: SidecarStore) -> None:
    redis.pause()
    assert await kinds(store) == [("down", "", False)]
    redis.resume()
    await store.flush(timeout_s=20)
    assert await kinds(store) == []


async def test_a_server_that_has_lost_everything(store: SidecarStore, raw: Redis) -> None:
    await raw.flushall()
    assert await kinds(store) in ([("lost", "", True)], []), "the daemon may have noticed first"
    assert await kinds(store) == []
    assert await raw.exists(PREFIX + "live")


LACKING = {
    "+@all -sscan": "SSCAN",
    "+@all -info": "INFO",
    "+@all -time": "TIME",
    "+@all -setrange -hdel": "HDEL, SETRANGE",
    "+@all -zrange -srandmember": "SRANDMEMBER, ZRANGE",
}


@pytest.mark.parametrize("binary", binaries())
@pytest.mark.parametrize("rules", LACKING)
async def test_rights_that_lack(rules: str, binary: str) -> None:
    with RedisServer(binaries()[binary], "appendonly yes") as server:
        server.command(
            "ACL", "SETUSER", "worker", "on", ">p", "~voicesession:*", "~{voicesession:*", *rules.split()
        )
        url = f"unix://worker:p@{server.socket}"
        backend = RedisBackend(url, ttl_s=60, timeout_s=2, host_id="here")
        findings = [each async for each in backend.inspect(lambda: time.time_ns() // 1000, repair=False)]
        assert [each.kind for each in findings] == ["permission"]
        assert findings[0].detail == f"the user may not run {LACKING[rules]}"
        await backend.close()


@pytest.mark.parametrize("binary", binaries())
async def test_the_documented_rights_are_enough(binary: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    line = re.search(r"^ACL SETUSER callstate on >PASSWORD (.+)$", text, re.MULTILINE)
    assert line is not None
    rules = [rule for rule in line[1].split() if binary == "valkey" or rule not in ("+client|setinfo", "+waitaof")]
    with RedisServer(binaries()[binary], "appendonly yes") as server:
        assert server.command("ACL", "SETUSER", "callstate", "on", ">p", *rules) == b"+OK\r\n"
        with Daemon(*SWEEP_LATER, store=f"unix://callstate:p@{server.socket}") as daemon:
            async with connect(daemon.socket) as store:
                await two_calls(store)
                await store.delete("over")
                await store.flush(timeout_s=20)
                assert [record.state.id async for record in store.sessions(scope="all")] == ["live"]
                assert await kinds(store, repair=True) == []


async def test_a_clock_that_is_wrong(redis: RedisServer) -> None:
    backend = RedisBackend(redis.url, ttl_s=60, timeout_s=2, host_id="here")
    for offset_s, words in ((90, "90.0 s ahead"), (-90, "90.0 s behind"), (1, "")):
        wall = lambda offset_s=offset_s: time.time_ns() // 1000 + offset_s * 1_000_000  # noqa: E731
        findings = [each async for each in backend.inspect(wall, repair=False)]
        assert [each.kind for each in findings] == (["clock"] if words else [])
        assert not words or words in findings[0].detail
    await backend.close()


@pytest.mark.parametrize(
    ("version", "found"), [("6.0.16", True), ("5.0.7", True), ("6.2.0", False), ("8.1", False)]
)
async def test_a_server_that_is_too_old(
    version: str, found: bool, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = RedisBackend(redis.url, ttl_s=60, timeout_s=2, host_id="here")
    each_primary = backend._reading.each_primary

    async def older(*words: Any) -> list[Any]:
        replies = await each_primary(*words)
        if words != ("INFO",):
            return replies
        return [
            re.sub(rb"(?m)^redis_version:[^\r]*", b"redis_version:" + version.encode(), each) for each in replies
        ]

    monkeypatch.setattr(backend._reading, "each_primary", older)
    findings = [each async for each in backend.inspect(lambda: time.time_ns() // 1000, repair=False)]
    assert [each.kind for each in findings] == (["version"] if found else [])
    assert not found or findings[0].detail == f"the server is version {version}"
    await backend.close()


async def test_a_store_that_does_not_keep_up(redis: RedisServer) -> None:
    core = Core(backend=RedisBackend(redis.url, ttl_s=60, timeout_s=2, host_id="host-1"))
    wall_offset_s = (time.time_ns() // 1000 - core.clock.at_us) / 1e6
    core.clock.advance(wall_offset_s)
    await core.save("live")
    core.clock.at_s += store_check.BEHIND_S + 1.0
    (finding,) = (await core.writer.check(False)).findings
    assert finding.kind == "behind"
    assert finding.detail == "1 sessions wait for the store, the oldest for 11 s"
    await core.writer.write_round()
    assert (await core.writer.check(False)).findings == []
    await core.backend.close()


async def test_on_a_cluster() -> None:
    with ClusterServers(binaries()["valkey"], "appendonly yes") as cluster:
        daemon = Daemon(*SWEEP_LATER, store=cluster.url)
        try:
            await daemon.in_thread("start")
            async with connect(daemon.socket) as store:
                await two_calls(store)
                assert await kinds(store) == []
                backend = RedisBackend(cluster.url, ttl_s=60, timeout_s=2, host_id="here")
                redis = backend._reading
                await redis.command("DEL", f"{PREFIX}live".encode())
                await redis.command("SADD", f"{PREFIX}active".encode(), "ghost", "over")
                expected = [("ghost", "ghost"), ("ghost", "over"), ("missing", "live")]
                assert await kinds(store) == [(*each, False) for each in expected]
                assert await kinds(store, repair=True) == [(*each, True) for each in expected]
                assert await kinds(store) == []
                await backend.close()
        finally:
            daemon.close(expect=EXPECTED)


# -- SQLite ---------------------------------------------------------------------------------------------------


@pytest.fixture
def on_file() -> Iterator[Daemon]:
    daemon = Daemon(*SWEEP_LATER)
    daemon.start()
    yield daemon
    daemon.close(expect=EXPECTED)


def change(daemon: Daemon, statement: str) -> None:
    with closing(sqlite3.connect(daemon.state_dir / "callstate.db")) as connection, connection:
        connection.execute(statement)


SQLITE_FAULTS = {
    "DELETE FROM session WHERE id = 'live'": ("missing", "live"),
    "UPDATE session SET version = 1 WHERE id = 'live'": ("older", "live"),
    "UPDATE session SET version = version + 1000 WHERE id = 'live'": ("newer", "live"),
    "UPDATE session SET host = 'elsewhere' WHERE id = 'live'": ("other_host", "live"),
    "DELETE FROM document WHERE key = (SELECT key FROM session WHERE id = 'live')": ("missing", "live"),
    "INSERT INTO session (id, active, expires_ms) VALUES ('ghost', 1, 1 << 62)": ("ghost", "ghost"),
}


@pytest.mark.parametrize("statement", SQLITE_FAULTS)
async def test_each_fault_of_the_file_is_found_and_repaired(statement: str, on_file: Daemon) -> None:
    async with connect(on_file.socket) as store:
        await two_calls(store)
        assert await kinds(store) == []
        change(on_file, statement)
        expected = SQLITE_FAULTS[statement]
        assert await kinds(store) == [(*expected, False)]
        lost = [("set_aside", "live", False)] if expected[0] == "other_host" else []
        assert await kinds(store, repair=True) == [(*expected, True), *lost]
        assert await kinds(store) == lost


async def test_a_file_that_others_may_read(on_file: Daemon) -> None:
    async with connect(on_file.socket) as store:
        await two_calls(store)
        path = on_file.state_dir / "callstate.db"
        path.chmod(0o644)
        assert await kinds(store) == [("file_mode", "", False)]
        assert await kinds(store, repair=True) == [("file_mode", "", True)]
        assert path.stat().st_mode & 0o777 == 0o600
        assert await kinds(store) == []


async def inspected(path: Path, *, repair: bool = False) -> list[Finding]:
    backend = SqliteBackend(path, ttl_s=60, host_id="here")
    found = [each async for each in backend.inspect(lambda: 0, repair=repair)]
    await backend.close()
    return found


async def test_a_full_disk_a_large_log_and_a_strange_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "callstate.db"
    assert await inspected(path) == []
    with monkeypatch.context() as patch:
        patch.setattr(inspection, "FREE_BYTES", 1 << 60)
        assert [each.kind for each in await inspected(path)] == ["disk_space"]
    with monkeypatch.context() as patch:
        patch.setattr(inspection.os, "geteuid", lambda: 12345)
        assert [each.kind for each in await inspected(path)] == ["file_owner"]
    with monkeypatch.context() as patch, closing(sqlite3.connect(path)) as writer:
        patch.setattr(inspection, "WAL_LARGE_BYTES", 100_000)
        writer.execute("CREATE TABLE filler AS SELECT randomblob(200000)")
        assert [(each.kind, each.repaired) for each in await inspected(path)] == [("wal_size", False)]
        assert [(each.kind, each.repaired) for each in await inspected(path, repair=True)] == [("wal_size", True)]
        assert await inspected(path) == []


async def test_a_file_with_a_flipped_page(tmp_path: Path) -> None:
    path = tmp_path / "callstate.db"
    assert await inspected(path) == []
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE filler AS SELECT randomblob(20000)")
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'session_call'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 16)
    assert "corrupt" in [each.kind for each in await inspected(path)]


async def test_a_file_of_which_a_table_is_damaged(tmp_path: Path) -> None:
    """What comes after the inspection of the file can't be read: the finding says what to do all the same."""
    core = Core(backend=SqliteBackend(tmp_path / "callstate.db", ttl_s=60, host_id=HOST))
    path = tmp_path / "callstate.db"
    await core.save("a")
    await core.writer.write_round()
    await core.backend.close()
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'document'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    core = Core(backend=SqliteBackend(path, ttl_s=60, host_id=HOST))
    found = await core.writer.check(repair=False)
    await core.backend.close()
    assert {each.kind for each in found.findings} >= {"corrupt", "down"}
    assert any("move the file away" in each.remedy for each in found.findings if each.kind == "corrupt")


async def test_a_file_that_is_no_database_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "callstate.db"
    path.write_bytes(b"\xff" * 8192)
    backend = SqliteBackend(path, ttl_s=60, host_id="here")
    with pytest.raises(StoreDownError, match="move the file away"):
        await backend.ping()
    await backend.close()


async def test_every_kind_of_finding_is_explained() -> None:
    root = Path(__file__).parents[2]
    sources = "".join(path.read_text() for path in (root / "sidecar").rglob("*.py"))
    made = {*re.findall(r'Finding\(\s*"(\w+)"', sources), *store_check.TEXTS, "down", "refusing"}
    section = (
        (root / "docs" / "operations.md").read_text().partition("\n## callstate doctor")[2].partition("\n## ")[0]
    )
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert {kind for row in rows for kind in re.findall(r"`(\w+)`", row)} == made


# -- the command ----------------------------------------------------------------------------------------------


async def test_the_command(daemon: Daemon, store: SidecarStore, raw: Redis, capfd: Any) -> None:
    def doctor(*args: str) -> tuple[int, str]:
        status = main(["--socket", str(daemon.socket), "doctor", *args])
        return status, capfd.readouterr().out

    status, out = await asyncio.to_thread(doctor)
    who, operators, share, socket, summary = out.splitlines()
    assert (status, summary) == (0, "2 sessions compared with the store, nothing found")
    assert who == "who may connect: whom the socket lets in (access.allow)"
    assert operators.startswith("operators: root and the daemon's user ")
    assert share.endswith("(access.share = all)")
    assert socket.startswith(f"socket: {daemon.socket}, mode 0600, ")
    await raw.delete(PREFIX + "live")
    status, out = await asyncio.to_thread(doctor)
    assert status == 1
    assert out.splitlines()[0] == "missing live: the store has nothing of it"
    assert out.splitlines()[-1] == "2 sessions compared with the store, 1 finding"
    status, out = await asyncio.to_thread(doctor, "--ignore", "missing")
    assert (status, out.splitlines()[-1]) == (0, "2 sessions compared with the store, nothing found")
    status, out = await asyncio.to_thread(doctor, "--json", "--repair")
    assert status == 0
    assert json.loads(out)["access"] == [who, operators, share, socket]
    found = json.loads(out)["findings"]
    assert [(each["kind"], each["session_id"], each["repaired"]) for each in found] == [("missing", "live", True)]
    assert (await asyncio.to_thread(doctor))[0] == 0
