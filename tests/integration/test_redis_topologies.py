"""Redis as people run it, on real servers: behind sentinels and as a cluster, with failovers under load."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from callstate_client import SessionNotFoundError, SessionState, SidecarStore, StoreUnavailableError, connect
from callstate_client.engine.sessions.stored import StoreDownError, StoreError, StoreUnsuitableError
from callstate_sidecar.stores.redis import RedisBackend, RedisStore
from callstate_sidecar.stores.redis.client import ScriptCall, ScriptClient
from callstate_sidecar.stores.redis.client import connect as connect_redis
from callstate_sidecar.stores.redis.errors import NodeAwayError
from callstate_sidecar.stores.redis.scripts import Script
from callstate_sidecar.system.exits import Exit
from support.daemon import Daemon
from support.redis_server import RedisServer, binaries, free_port
from support.redis_topologies import ClusterServers, Group, TcpServer, Watched, slot_of, until

pytestmark = pytest.mark.system
on_uvloop = pytest.mark.asyncio(loop_factories=["uvloop"])  # the loop of the test; the daemon's is uvloop anyway

TIMEOUT_S = 2.0
STORE_AWAY = r"the store (is|may have lost data)"

BOTH = Script("redis.call('SET', KEYS[1], ARGV[1]) redis.call('SET', KEYS[2], ARGV[1]) return ARGV[1]")
"""Like those for sessions: two keys of one slot."""

READ = Script("return {redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])}")


def pair(name: str) -> list[bytes]:
    return [name.encode(), b"{%b}:meta" % name.encode()]


def writes(values: dict[str, str]) -> list[ScriptCall]:
    return [ScriptCall(BOTH, pair(name), [value]) for name, value in values.items()]


@asynccontextmanager
async def client(url: str) -> AsyncIterator[ScriptClient]:
    made = ScriptClient(connect_redis(url, connections=2, timeout_s=TIMEOUT_S), owned=True, limit_s=5.0)
    try:
        yield made
    finally:
        await made.close()


async def retried(work: Any, within_s: float = 20.0) -> Any:
    """What it gives in the end, as the writer tries it again and again."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                return await work()
            except StoreError:
                await asyncio.sleep(0.02)


# -- the wrong kind -------------------------------------------------------------------------------------------


@on_uvloop
@pytest.mark.parametrize("binary", binaries())
async def test_a_url_of_the_wrong_kind_is_refused_with_the_right_one(binary: str) -> None:
    path = binaries()[binary]
    node = TcpServer(path, "cluster-enabled yes", f"cluster-port {free_port()}")
    locked = TcpServer(path, "cluster-enabled yes", f"cluster-port {free_port()}", "requirepass hunter2")
    sentinel = TcpServer(path, "sentinel monitor calls 127.0.0.1 1 1", sentinel=True)
    plain = TcpServer(path)
    refused = {
        f"redis://:hunter2@{locked.address}": f"use redis+cluster://{locked.address}",
        f"redis://{node.address}/1": f"use redis+cluster://{node.address}",
        node.server.url: "unix:// names a node of a Redis Cluster: use redis+cluster://HOST:PORT",
        f"redis://{sentinel.address}": f"use redis+sentinel://{sentinel.address}/calls",
        f"redis://{sentinel.address}/1": f"use redis+sentinel://{sentinel.address}/calls",
        f"redis+cluster://{plain.address}": f"no node of a cluster: use redis://{plain.address}",
        f"redis+cluster://{sentinel.address}": f"names {sentinel.address}, which is a Redis Sentinel",
        f"redis+sentinel://{plain.address}/calls": f"names {plain.address}, which is no sentinel",
    }
    with Group([node, locked, sentinel, plain]):
        for url, said in refused.items():
            backend = RedisBackend(url, ttl_s=10, timeout_s=5, host_id="here")
            for work in (backend.ping, lambda: backend.write_beats({"call-1": 1})):  # noqa: B023 - used at once
                with pytest.raises(StoreUnsuitableError) as caught:
                    await work()
                assert str(caught.value).startswith(f"{url.partition('://')[0]}://")
                assert said in str(caught.value)
                assert "hunter2" not in str(caught.value)
            await backend.close()


@pytest.mark.parametrize("confirms", [False, True])
def test_a_daemon_refuses_to_start_with_a_store_of_the_wrong_kind(confirms: bool) -> None:
    server = TcpServer(binaries()["valkey"], "appendonly no")
    with Group([server]):
        if confirms:
            daemon = Daemon("--set", "store.confirm=aof", store=f"redis://{server.address}")
            said = "store.url: store.confirm is aof, and the server has no append-only file: set appendonly yes"
        else:
            daemon = Daemon(store=f"redis+cluster://{server.address}")
            said = f"store.url: redis+cluster:// names {server.address}, which is no node of a cluster"
        try:
            daemon.launch()
            assert daemon.process is not None
            assert daemon.process.wait(20) == Exit.USAGE, daemon.log()
            assert said in daemon.log()
            assert len(daemon.log().splitlines()) == 1
        finally:
            daemon.close(expect="store.url")


@on_uvloop
async def test_a_server_of_the_wrong_kind_that_comes_late_is_refused_then() -> None:
    node = TcpServer(binaries()["valkey"], "cluster-enabled yes", f"cluster-port {free_port()}")
    daemon = Daemon("--set", "server.shutdown_flush_s=0", store=f"redis://{node.address}")
    try:
        await daemon.in_thread("start")
        async with connect(daemon.socket) as store:
            await store.save(SessionState("call-1", status="active"))
            await store_is(store, "down")
            with Group([node]):
                await store_is(store, "refusing")
                assert f"use redis+cluster://{node.address}" in (await store.stats())["store_error"]
                async with asyncio.timeout(20):
                    while "ERROR   the store is refusing: redis:// names a node" not in daemon.log():
                        await asyncio.sleep(0.01)
                assert (await store.load("call-1")).id == "call-1"
    finally:
        daemon.close(expect=STORE_AWAY)


# -- what is on the server's disk -----------------------------------------------------------------------------


@on_uvloop
@pytest.mark.parametrize(
    ("binary", "config", "reason"),
    [
        ("valkey", "appendonly no", "the server has no append-only file: set appendonly yes"),
        ("redis", "appendonly yes", "the server has no WAITAOF; it takes Redis 7.2 or newer"),
        ("valkey", "user default on nopass ~* +@all -waitaof", "does not let the user run WAITAOF"),
    ],
)
async def test_a_server_that_can_not_confirm_is_refused(binary: str, config: str, reason: str) -> None:
    if binary not in binaries():
        pytest.skip("no Redis is installed")
    with RedisServer(binaries()[binary], config) as server:
        backend = RedisBackend(server.url, ttl_s=10, timeout_s=5, host_id="here", sync_required=True)
        for work in (backend.ping, lambda: backend.write_beats({"call-1": 1})):
            with pytest.raises(StoreUnsuitableError, match=reason):
                await work()
        await backend.close()


@on_uvloop
async def test_with_confirm_aof_a_session_is_flushed_when_it_is_on_the_servers_disk() -> None:
    with RedisServer(binaries()["valkey"], "appendonly yes") as server:
        daemon = Daemon("--set", "store.confirm=aof", store=server.url)
        try:
            await daemon.in_thread("start")
            async with connect(daemon.socket) as store:
                await store.save(SessionState("call-1", status="active"))
                assert (await store.flush()).unflushed == 0
                assert b"cmdstat_waitaof:calls=" in server.command("INFO", "commandstats")
                server.command("CONFIG", "SET", "appendonly", "no")
                await store.add_turn("call-1", "user", "hello")
                await store_is(store, "refusing")
                assert "store.confirm is aof" in (await store.stats())["store_error"]
                server.command("CONFIG", "SET", "appendonly", "yes")
                assert (await store.flush(timeout_s=20)).unflushed == 0
        finally:
            daemon.close(expect=STORE_AWAY)


# -- a cluster ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=binaries())
def cluster(request: pytest.FixtureRequest) -> Iterator[ClusterServers]:
    with ClusterServers(binaries()[request.param]) as servers:
        yield servers


NAMES = [f"call-{i}" for i in range(60)]


async def test_a_cluster_is_written_and_read_by_slot(cluster: ClusterServers) -> None:
    async with client(cluster.url) as redis:
        assert redis.clustered
        await redis.ping()
        values = {name: f"1-{name}" for name in NAMES}
        await redis.run_each(writes(values))
        replies = await redis.run_each(writes(values), [("PING",)])
        assert [reply.decode() for reply in replies[: len(NAMES)]] == [*values.values()]
        assert len(replies) == len(NAMES) + 3, "one PING at each primary"
        for name in NAMES:
            assert await redis.run(READ, pair(name)) == [values[name].encode()] * 2
            assert await redis.command("GET", name.encode()) == values[name].encode()
        assert len({slot_of(name) // 5462 for name in NAMES}) == 3
        found, cursor = await redis.scan("", "COUNT", 7)
        while cursor:
            more, cursor = await redis.scan(cursor, "COUNT", 7)
            found += more
        assert {key.decode() for key in found} >= {*NAMES}


async def test_scripts_a_cluster_forgot_are_sent_again(cluster: ClusterServers) -> None:
    async with client(cluster.url) as redis:
        for forgetful in (*cluster.primaries, cluster.primaries[0]):
            forgetful.ask("SCRIPT", "FLUSH")
            assert await redis.run(BOTH, pair("call-1"), "2") == b"2"
            forgetful.ask("SCRIPT", "FLUSH")
            assert {*(await redis.run_each(writes(dict.fromkeys(NAMES, "3"))))} == {b"3"}


async def test_a_slot_that_moves_is_followed_key_by_key(cluster: ClusterServers) -> None:
    """The two keys of a session are elsewhere, here, or one of each; then the slot is elsewhere for good."""
    source, target = cluster.primaries[1], cluster.primaries[2]
    name = next(f"moves-{i}" for i in range(1000) if slot_of(f"moves-{i}") // 5462 == 1)
    slot = slot_of(name)
    async with client(cluster.url) as redis:
        await redis.run(BOTH, pair(name), "before")
        cluster.begin_move(slot, source, target)
        assert await redis.run(BOTH, pair(name), "still here") == b"still here"
        assert cluster.move_keys(slot, source, target, count=1) == 1
        waiting = asyncio.ensure_future(redis.run_each(writes({name: "halfway", "call-2": "x"})))
        await asyncio.sleep(0)
        await asyncio.to_thread(cluster.move_keys, slot, source, target)
        assert await waiting == [b"halfway", b"x"]
        assert await redis.run(READ, pair(name)) == [b"halfway"] * 2, "asked where it is already"
        cluster.end_move(slot, source, target)
        assert await redis.run_each(writes({name: "after", "call-3": "y"})) == [b"after", b"y"]
        assert await redis.run(READ, pair(name)) == [b"after"] * 2
        assert target.ask("GET", name) == b"after"
        cluster.move(slot, target, source)
        assert await redis.run(READ, pair(name)) == [b"after"] * 2


async def test_a_session_stuck_between_two_nodes_fails_alone(
    cluster: ClusterServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callstate_sidecar.stores.redis.cluster.TRY_AGAIN_S", 0.001)
    source, target = cluster.primaries[1], cluster.primaries[2]
    name = next(f"stuck-{i}" for i in range(1000) if slot_of(f"stuck-{i}") // 5462 == 1)
    slot = slot_of(name)
    async with client(cluster.url) as redis:
        await redis.run(BOTH, pair(name), "before")
        cluster.begin_move(slot, source, target)
        cluster.move_keys(slot, source, target, count=1)
        stuck, others = await redis.run_each(writes({name: "halfway", "call-2": "x"}))
        assert "rehashing" in str(stuck)
        assert others == b"x"
        cluster.move_keys(slot, source, target)
        cluster.end_move(slot, source, target)
        assert await redis.run_each(writes({name: "after"})) == [b"after"]
        cluster.move(slot, target, source)


async def test_a_cluster_that_is_not_there_is_down() -> None:
    async with client("redis+cluster://127.0.0.1:1,127.0.0.1:2") as redis:
        for work in (redis.ping(), redis.run(READ, pair("x")), redis.run_each(writes({"x": "1"}))):
            with pytest.raises(StoreDownError):
                await work


@on_uvloop
async def test_a_primary_of_a_cluster_that_dies_is_replaced_under_load() -> None:
    with ClusterServers(binaries()["valkey"]) as servers:
        async with client(servers.url) as redis:
            await redis.run_each(writes(dict.fromkeys(NAMES, "0")))
            servers.primaries[0].server.pause()
            replies = await retried(lambda: redis.run_each(writes(dict.fromkeys(NAMES, "1"))))
            for name, reply in zip(NAMES, replies, strict=True):
                assert reply == b"1" or (isinstance(reply, NodeAwayError) and slot_of(name) < 5462)

            async def all_written(value: str) -> None:
                replies = await redis.run_each(writes(dict.fromkeys(NAMES, value)))
                if {*replies} != {value.encode()}:
                    raise StoreDownError("not all of them")

            await retried(lambda: all_written("2"))
            assert servers.promoted()
            servers.primaries[0].server.resume()
            await retried(lambda: all_written("3"))
            for name in NAMES:
                assert await redis.run(READ, pair(name)) == [b"3", b"3"]


# -- sentinels ------------------------------------------------------------------------------------------------


class Load:
    """Calls that are spoken in all the time.

    Attributes:
        acknowledged: of each call, the turns whose addition was acknowledged.
    """

    def __init__(self, store: SidecarStore, calls: int) -> None:
        self._store = store
        self.acknowledged: dict[str, list[str]] = {f"call-{i}": [] for i in range(calls)}
        self._stopping = False

    async def __aenter__(self) -> Load:
        for name in self.acknowledged:
            await self._store.save(SessionState(name, status="active"))
        self._tasks = [asyncio.ensure_future(self._speak(name)) for name in self.acknowledged]
        return self

    async def _speak(self, name: str) -> None:
        while not self._stopping:
            text = f"turn {len(self.acknowledged[name])}"
            await self._store.add_turn(name, "user", text)
            self.acknowledged[name].append(text)
            await asyncio.sleep(0.01)

    async def turns(self, more: int) -> None:
        """Return once each call has had so many turns more."""
        wanted = {name: len(turns) + more for name, turns in self.acknowledged.items()}
        async with asyncio.timeout(20):
            while any(len(self.acknowledged[name]) < count for name, count in wanted.items()):
                await asyncio.sleep(0.01)

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)


def texts(document: bytes) -> list[str]:
    """What was said, of a document as it lies in Redis."""
    return [turn["content"] for turn in json.loads(document)["history"]]


async def has_all(shared: RedisStore, acknowledged: dict[str, list[str]]) -> bool:
    """Whether the store has these turns, no more and no less."""
    try:
        found = {name: [turn.content for turn in (await shared.load(name)).history] for name in acknowledged}
    except (SessionNotFoundError, StoreUnavailableError):
        return False
    return found == acknowledged


async def store_is(store: SidecarStore, state: str) -> None:
    async with asyncio.timeout(20):
        while (await store.stats())["store"] != state:
            await asyncio.sleep(0.01)


@on_uvloop
@pytest.mark.parametrize("how", ["killed", "asked"])
async def test_a_failover_of_sentinels_under_load_loses_nothing(how: str) -> None:
    with Watched(binaries()["valkey"]) as servers:
        # the first of these sentinels is not there
        url = servers.url.replace("://", "://127.0.0.1:1,")
        daemon = Daemon("--set", "store.timeout_s=0.5", store=url)
        try:
            await daemon.in_thread("start")
            async with connect(daemon.socket) as store:
                async with Load(store, 20) as load:
                    await load.turns(3)
                    assert (await store.flush()).unflushed == 0
                    if how == "killed":
                        servers.primary.server.kill()
                    else:
                        servers.sentinel.ask("SENTINEL", "FAILOVER", "calls")
                    await asyncio.to_thread(until, servers.promoted)
                    await load.turns(3)
                    await store_is(store, "up")
                assert (await store.flush(timeout_s=20)).unflushed == 0
                # what the old primary took until it was told is found lost, and written again
                async with RedisStore.from_url(url) as shared, asyncio.timeout(20):
                    while not await has_all(shared, load.acknowledged):
                        await asyncio.sleep(0.05)
                assert len(servers.replica.ask("SMEMBERS", "voicesession:active")) == 20
        finally:
            daemon.close(expect=STORE_AWAY)


@on_uvloop
async def test_a_sentinel_that_does_not_answer_costs_a_share_of_the_timeout_once() -> None:
    binary, primary = binaries()["valkey"], TcpServer(binaries()["valkey"])
    watching = f"sentinel monitor calls 127.0.0.1 {primary.port} 1"
    *mute, awake = (TcpServer(binary, watching, sentinel=True) for _ in range(3))
    with Group([primary, *mute, awake]):
        for sentinel in mute:
            sentinel.server.pause()
        url = f"redis+sentinel://{mute[0].address},{mute[1].address},{awake.address}/calls"
        backend = RedisBackend(url, ttl_s=10, timeout_s=2, host_id="here")
        loop = asyncio.get_running_loop()
        started = loop.time()
        await backend.read("call-1")  # within its timeout
        asked = loop.time() - started
        assert asked >= 1.0, "a quarter of it was waited for each"
        await backend.ping()
        await backend.write_beats({"call-1": 1})
        assert loop.time() - started - asked < 1.0, "the one that answered is asked first"
        await backend.close()


async def test_a_sentinel_whose_idle_connection_has_ended_is_asked_again() -> None:
    """Only the first of several is asked often: after hours, all others behind a firewall are like that."""
    primary = TcpServer(binaries()["valkey"])
    sentinel = TcpServer(binaries()["valkey"], f"sentinel monitor calls 127.0.0.1 {primary.port} 1", sentinel=True)
    with Group([primary, sentinel]):
        async with client(f"redis+sentinel://{sentinel.address}/calls") as reached:
            await reached.ping()
            sentinel.ask("CLIENT", "KILL", "TYPE", "normal")  # and the loop has no turn to see it
            await reached.ping()


async def test_a_primary_that_only_we_still_reach_is_left() -> None:
    """On the other side of a partition the sentinels have chosen another: nothing closes our connections."""
    ours, theirs = TcpServer(binaries()["valkey"]), TcpServer(binaries()["valkey"])
    sentinel = TcpServer(binaries()["valkey"], f"sentinel monitor calls 127.0.0.1 {ours.port} 1", sentinel=True)
    with Group([ours, theirs, sentinel]):
        backend = RedisBackend(f"redis+sentinel://{sentinel.address}/calls", ttl_s=10, timeout_s=2, host_id="here")
        await backend.write_beats({"call-1": 1})
        await backend.read("call-1")
        await backend.ping()
        sentinel.ask("SENTINEL", "REMOVE", "calls")
        sentinel.ask("SENTINEL", "MONITOR", "calls", "127.0.0.1", theirs.port, 1)
        ours.ask("CONFIG", "RESETSTAT")
        await backend.ping()
        await backend.write_beats({"call-1": 1})
        await backend.read("call-1")
        assert "evalsha" not in str(ours.info("commandstats"))
        assert "evalsha" in str(theirs.info("commandstats"))
        await backend.close()


@on_uvloop
async def test_a_failover_and_a_resharding_of_a_cluster_under_load_lose_nothing() -> None:
    with ClusterServers(binaries()["valkey"]) as servers:
        first, second, third = servers.primaries
        daemon = Daemon("--set", "store.timeout_s=0.5", store=servers.url)
        try:
            await daemon.in_thread("start")
            async with connect(daemon.socket) as store:
                await store.save(SessionState("ended", status="active"))
                async with Load(store, 30) as load:
                    await load.turns(3)
                    await store.end("ended")
                    assert (await store.flush()).unflushed == 0
                    first.server.kill()
                    await asyncio.to_thread(until, servers.promoted)
                    await load.turns(2)
                    for name in load.acknowledged:
                        slot = slot_of(f"voicesession:{name}")
                        if slot // 5462 == 1:
                            await asyncio.to_thread(servers.move, slot, second, third, but=first)
                    await load.turns(2)
                    await store_is(store, "up")
                assert (await store.flush(timeout_s=20)).unflushed == 0
                stats = await store.stats()
                assert (stats["quarantined"], stats["store"]) == (0, "up")
            async with client(servers.url) as redis:
                for name, turns in load.acknowledged.items():
                    assert texts(await redis.command("GET", f"voicesession:{name}".encode())) == turns
                active = await redis.command("SMEMBERS", b"voicesession:active")
                assert {name.decode() for name in active} == {*load.acknowledged}
        finally:
            daemon.close(expect=STORE_AWAY)
