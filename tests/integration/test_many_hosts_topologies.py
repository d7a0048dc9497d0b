"""Two daemons over a Redis Cluster and over Sentinels: leases, claims across hosts and hosts that die, also after a
primary was replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress

import msgspec
import pytest

from callstate_client import CallStore, ConflictError, FencedError, SessionState, StoreUnavailableError, connect
from callstate_client.engine.sessions.stored import StoreError
from callstate_client.protocol import LoadResult
from callstate_client.protocol.events import Event
from callstate_sidecar.stores.redis.client import ScriptClient
from callstate_sidecar.stores.redis.client import connect as connect_servers
from support.daemon import Daemon
from support.owners import claim, claim_next
from support.redis_server import binaries
from support.redis_topologies import ClusterServers, Watched, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(180), pytest.mark.asyncio(loop_factories=["uvloop"])]

PREFIX = "voicesession:"
LEASE = ("--set", "store.host_lease_s=2", "--set", "store.timeout_s=0.5", "--set", "reaper.heartbeat_timeout_s=120")
EXPECTED = "the store|now belongs to host|dead|whether another daemon|sessions have not been compared"
NAMES = [f"call-{number}" for number in range(24)]
"""Of all three primaries' slots."""

Servers = ClusterServers | Watched


CASES = [
    (ClusterServers, "valkey", "at peace"),
    (ClusterServers, "valkey", "after a failover"),
    (ClusterServers, "redis", "after a failover"),
    (Watched, "valkey", "after a failover"),
    (Watched, "redis", "at peace"),
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0].__name__}-{case[1]}-{case[2]}")
def case(request: pytest.FixtureRequest) -> Iterator[tuple[Servers, bool]]:
    """Servers, and whether one of them is to fail."""
    kind, binary, when = request.param
    if binary not in binaries():
        pytest.skip("no Redis is installed")
    with kind(binaries()[binary]) as servers:
        yield servers, when != "at peace"


@pytest.fixture
def servers(case: tuple[Servers, bool]) -> Servers:
    return case[0]


class Hosts:
    """Two daemons, `one` and `two`, with a store at each, of the workers w1 and w2."""

    def __init__(self, url: str) -> None:
        self.one, self.two = (
            Daemon(*LEASE, "--set", f"host.id={host_id}", store=url) for host_id in ("one", "two")
        )
        self.here: CallStore
        self.there: CallStore


@pytest.fixture
async def hosts(servers: Servers) -> AsyncIterator[Hosts]:
    made = Hosts(servers.url)
    try:
        await asyncio.gather(made.one.in_thread("start"), made.two.in_thread("start"))
        async with AsyncExitStack() as stack:
            made.here = await stack.enter_async_context(connect(made.one.socket, worker_id="w1"))
            made.there = await stack.enter_async_context(connect(made.two.socket, worker_id="w2"))
            yield made
    finally:
        for daemon in (made.one, made.two):
            await asyncio.to_thread(daemon.close, expect=EXPECTED)


@pytest.fixture
async def redis(servers: Servers) -> AsyncIterator[ScriptClient]:
    client = ScriptClient(connect_servers(servers.url, connections=2, timeout_s=5), owned=True)
    yield client
    await client.close()


async def fail_over(servers: Servers) -> None:
    """Kill a primary, and return once its replica has taken over."""
    primary = servers.primary if isinstance(servers, Watched) else servers.primaries[0]
    await asyncio.to_thread(primary.server.kill)
    await asyncio.to_thread(until, servers.promoted)


async def is_up(*stores: CallStore) -> None:
    """Return once the store answers each of them again."""
    async with asyncio.timeout(30):
        for store in stores:
            while (await store.stats())["store"] != "up":
                await asyncio.sleep(0.02)


async def begin_calls(hosts: Hosts) -> None:
    for name in NAMES:
        await hosts.here.save(SessionState(name, status="active", provider="sip"), labels={"app": "sales"})
        await hosts.here.add_turn(name, "user", "before")
    assert (await hosts.here.flush(timeout_s=20)).unflushed == 0


async def orphaned(store: CallStore, names: list[str], seen: dict[str, Event], listening: asyncio.Event) -> None:
    """Gather the events of adopted sessions until all of these are orphans here."""
    async with store.events("orphaned") as events:
        listening.set()
        async for event in events:
            seen[str(event.session_id)] = event
            if {*seen} >= {*names}:
                return


async def counter(redis: ScriptClient, host_id: str) -> int:
    """The counter of a host's lease; this client may have to find out first that a primary is gone."""
    async with asyncio.timeout(30):
        while True:
            with suppress(StoreError):
                return int(await redis.command("GET", f"{PREFIX}@host:{host_id}".encode()) or 0)
            await asyncio.sleep(0.02)


async def raised(redis: ScriptClient, host_id: str) -> None:
    """Return once a host's lease is raised again."""
    before = await counter(redis, host_id)
    async with asyncio.timeout(30):
        while await counter(redis, host_id) == before:
            await asyncio.sleep(0.02)


async def test_hosts_take_calls_from_each_other_and_from_the_dead(
    case: tuple[Servers, bool], hosts: Hosts, redis: ScriptClient
) -> None:
    servers, fails = case
    await begin_calls(hosts)
    assert await counter(redis, "one") > 0
    if fails:
        await fail_over(servers)
    for host_id in ("one", "two"):
        await raised(redis, host_id)
    await is_up(hosts.here, hosts.there)
    assert (await hosts.there.stats())["sessions"] == {}, "a failover kills no host"
    await check_thefts(hosts, NAMES[:6])
    await check_death(hosts, NAMES[6:])
    for key, names in (("active", NAMES), ("@host:two:sessions", NAMES), ("@host:one:sessions", [])):
        found = await redis.command("SMEMBERS", f"{PREFIX}{key}".encode())
        assert {raw.decode() for raw in found} == {*names}, key


async def claimed(store: CallStore, name: str, *, steal: bool = False) -> LoadResult[msgspec.Raw]:
    """Claim a call; the sentinel may take its new primary for dead once more."""
    async with asyncio.timeout(30):
        while True:
            with suppress(StoreUnavailableError):
                return await claim(store, name, "w2", steal=steal)


async def check_thefts(hosts: Hosts, names: list[str]) -> None:
    """A theft fences the host that had the session."""
    for name in names:
        with pytest.raises(ConflictError) as refused:
            await claimed(hosts.there, name)
        assert refused.value.owner == "w1"
        stolen = await claimed(hosts.there, name, steal=True)
        assert (stolen.epoch >> 20, stolen.turn_count) == (1, 1)
        await hosts.there.add_turn(name, "agent", "after", epoch=stolen.epoch)
    for name in names:
        with pytest.raises(FencedError) as fenced:
            async with asyncio.timeout(20):
                while True:
                    await hosts.here.add_turn(name, "user", "late")
        assert (fenced.value.owner, fenced.value.host) == ("w2", "two")
    assert (await hosts.there.flush(timeout_s=20)).unflushed == 0
    for name in names:
        loaded = await hosts.here.load(name)
        assert [turn.content for turn in loaded.history] == ["before", "after"], "read from the store"


async def check_death(hosts: Hosts, names: list[str]) -> None:
    """A dead host's sessions are orphans at the other one, and are claimed there."""
    seen, listening = dict[str, Event](), asyncio.Event()
    telling = asyncio.ensure_future(orphaned(hosts.there, names, seen, listening))
    await listening.wait()
    await hosts.one.in_thread("kill")
    async with asyncio.timeout(60):
        await telling
    assert {(event.reason, event.owner) for event in seen.values()} == {("host_lost", "w1")}
    given = [await claim_next(hosts.there, "w2", labels={"app": "sales"}) for _ in names]
    assert sorted(filter(None, given)) == sorted(names)
    for name in names:
        record = await hosts.there.get(name)
        assert (record.epoch, [turn.content for turn in record.state.history]) == ((1 << 20) + 1, ["before"])
        await hosts.there.add_turn(name, "agent", "after", epoch=record.epoch)
    assert (await hosts.there.flush(timeout_s=20)).unflushed == 0
    await hosts.one.in_thread("start")
    with pytest.raises(FencedError) as fenced:
        await hosts.here.add_turn(names[0], "user", "back again")
    assert fenced.value.host == "two", "known before it served"
