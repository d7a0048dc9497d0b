"""What many hosts cost: commands a round, whatever their number, and turns of the loop while one takes over many
sessions."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callstate_client.engine.engine import Engine
from callstate_client.engine.sessions.stored import StoredMeta
from callstate_client.engine.sessions.writes import Whole
from callstate_sidecar.config.schema import Config
from callstate_sidecar.hosts.adoption import Adopter
from callstate_sidecar.hosts.watch import WATCHED_HOSTS
from callstate_sidecar.journal import Journal
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.reconcile import Reconciler
from callstate_sidecar.serving.server import Server
from callstate_sidecar.stores.hosts import HostRegistry
from callstate_sidecar.stores.redis import RedisBackend
from callstate_sidecar.stores.redis.client import ScriptClient, connect
from callstate_sidecar.stores.redis.hosts import RedisHosts
from callstate_sidecar.stores.redis.layout import Layout
from callstate_sidecar.system.clock import SystemClock
from support.redis_server import RedisServer, binaries
from support.redis_topologies import TcpServer

pytestmark = [pytest.mark.system, pytest.mark.timeout(120), pytest.mark.asyncio(loop_factories=["uvloop"])]

SESSIONS = 2000
TURN_S = 0.02
"""CPU time of a turn of the loop. It is below 5 ms on an idle machine."""

DOCUMENT = b'{"id":"%s","status":"active","provider":"sip","history":[' + b",".join(
    b'{"role":"user","content":"%d, and then I would like to change the booking","duration_ms":900}' % number
    for number in range(20)
) + b"]}"  # fmt: skip


@pytest.fixture
async def server() -> AsyncIterator[TcpServer]:
    server = TcpServer(binaries()["valkey"])
    with server.server:
        yield server


def commands(server: TcpServer) -> int:
    """How many commands it has run, those of scripts included."""
    stats = server.info("commandstats")
    return sum(
        int(value.partition(",")[0].partition("=")[2]) for name, value in stats.items() if "info" not in name
    )


async def test_a_round_costs_the_same_whatever_the_number_of_hosts(server: TcpServer) -> None:
    client = ScriptClient(connect(server.server.url, connections=8, timeout_s=5), owned=True)
    hosts = [RedisHosts(client, Layout(), f"host-{number:04}", 60_000) for number in range(300)]

    async def round_of(registry: RedisHosts) -> int:
        await registry.raise_lease("instance")
        around = await registry.look_around(WATCHED_HOSTS)
        assert around.dead == frozenset()
        await registry.taken_away()
        return len(around.counters)

    costs: dict[int, float] = {}
    for number in (1, 10, 300):
        await asyncio.gather(*map(round_of, hosts[:number]))
        before = commands(server)
        watched = await asyncio.gather(*map(round_of, hosts[:number]))
        assert {*watched} == {min(number - 1, WATCHED_HOSTS)}
        costs[number] = (commands(server) - before) / number
    assert costs[1] < costs[10] == costs[300] < 25
    await client.close()


async def test_hosts_watch_each_other_in_a_ring(server: TcpServer) -> None:
    client = ScriptClient(connect(server.server.url, connections=1, timeout_s=5), owned=True)
    hosts = {name: RedisHosts(client, Layout(), name, 60_000) for name in "abcde"}
    for host in hosts.values():
        await host.raise_lease("instance")
    assert [*(await hosts["a"].look_around(3)).counters] == ["b", "c", "d"]
    assert [*(await hosts["d"].look_around(3)).counters] == ["e", "a", "b"]
    assert (await hosts["e"].look_around(9)).counters == dict.fromkeys("abcd", 1)
    await hosts["a"].forget_host("b")
    await hosts["a"].add_hosts(["c", "cc"])
    assert (await hosts["a"].look_around(3)).counters == {"c": 1, "cc": 0, "d": 1}
    await client.close()


async def test_a_death_is_known_to_all_until_the_host_is_back(server: TcpServer) -> None:
    client = ScriptClient(connect(server.server.url, connections=1, timeout_s=5), owned=True)
    one, two = (RedisHosts(client, Layout(), name, 60_000) for name in ("one", "two"))
    await one.note_dead("two", 60.0)
    await one.note_dead("long gone", 60.0)
    assert (await one.look_around(3)).dead == {"two", "long gone"}
    server.ask("ZADD", "voicesession:@dead", 1, "long gone")
    await two.raise_lease("instance")
    assert (await one.look_around(3)).dead == {"long gone"}
    await one.note_dead("three", 60.0)
    assert (await one.look_around(3)).dead == {"three"}
    assert 0 < server.ask("PTTL", "voicesession:@dead") <= 60_000
    await client.close()


async def test_no_turn_of_the_loop_is_long_while_a_dead_hosts_sessions_are_adopted(tmp_path: Path) -> None:
    with RedisServer(binaries()["valkey"]) as server:
        old, new = (
            RedisBackend(server.url, ttl_s=1000, timeout_s=20, host_id=host_id) for host_id in ("old", "new")
        )
        meta = StoredMeta(host="old", epoch=1, version=1, owner="w1", state="live")
        for start in range(0, SESSIONS, 500):
            names = [f"call-{number}" for number in range(start, start + 500)]
            await old.write([Whole(name, DOCUMENT % name.encode(), meta, active=True, beat_ms=5) for name in names])
        registry = new.hosts
        assert registry is not None
        adopted, longest_s = await adopt(registry, tmp_path)
        await old.close()
        await new.close()
        assert adopted == SESSIONS
        assert longest_s < TURN_S


async def adopt(registry: HostRegistry, directory: Path) -> tuple[int, float]:
    """Adopt the sessions of `old`; returns how many, and the CPU time of the longest turn of the loop, seconds."""
    config, metrics = Config(), Metrics()
    engine = Engine(config.limits, config.reaper, SystemClock(), "stream")
    journal = Journal(directory / "journal", checkpoint_min_bytes=config.journal.checkpoint_min_bytes)
    journal.replay(lambda _: None)
    journal.start()
    server = Server(engine, journal, metrics, config.limits)
    reconciler = Reconciler(engine.ctx, "new", metrics)
    adopter = Adopter(registry, engine.ctx, reconciler, server.group.commit, "new", "instance", set(), metrics)
    longest_s = 0.0

    async def watch() -> None:
        nonlocal longest_s
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest_s, last = max(longest_s, now - last), now

    gc.disable()  # a collection of all that the tests have left is not the daemon's
    watching = asyncio.ensure_future(watch())
    try:
        adopted = await adopter.adopt_all("old")
    finally:
        watching.cancel()
        gc.enable()
        journal.close()
    return adopted, longest_s
