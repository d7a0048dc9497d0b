"""Several daemons over one Redis, each a host of its own: leases, claims across hosts, and hosts that die."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest

from callstate_sidecar.system.exits import Exit
from support.daemon import Daemon
from support.redis_server import RedisServer, binaries

pytestmark = pytest.mark.system
on_uvloop = pytest.mark.asyncio(loop_factories=["uvloop"])  # the loop of the test; the daemons' is uvloop anyway

LEASE = ("--set", "store.host_lease_s=1", "--set", "store.timeout_s=0.5")
STORE_AWAY = "the store is (down|refusing)"
PREFIX = "voicesession:"


@pytest.fixture(params=binaries())
def redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Each kind of server."""
    with RedisServer(binaries()[request.param]) as server:
        yield server


class Hosts:
    """Daemons over one Redis, by their host ids."""

    def __init__(self, redis: RedisServer) -> None:
        self.redis = redis
        self.daemons: list[tuple[Daemon, str]] = []

    def add(self, host_id: str, *args: str, expect: str = "") -> Daemon:
        """A daemon that is not started yet; `expect`: errors that its log may have."""
        daemon = Daemon(*LEASE, "--set", f"host.id={host_id}", *args, store=self.redis.url)
        self.daemons.append((daemon, f"{STORE_AWAY}|{expect}" if expect else STORE_AWAY))
        return daemon

    def counter(self, host_id: str) -> int:
        """The lease counter of a host."""
        found = re.search(rb"\r\n(\d+)\r\n", self.redis.command("GET", f"{PREFIX}@host:{host_id}"))
        return int(found[1]) if found else 0


@pytest.fixture
def hosts(redis: RedisServer) -> Iterator[Hosts]:
    made = Hosts(redis)
    try:
        yield made
    finally:
        for daemon, expect in made.daemons:
            daemon.close(expect=expect)


async def moves(hosts: Hosts, host_id: str) -> None:
    """Return once a host's lease has been raised again."""
    before = hosts.counter(host_id)
    while hosts.counter(host_id) == before:
        await asyncio.sleep(0.01)


# -- leases -------------------------------------------------------------------------------------------------------


@on_uvloop
async def test_a_lease_is_raised_as_long_as_its_daemon_lives(hosts: Hosts) -> None:
    one = hosts.add("one")
    await one.in_thread("start")
    assert hosts.counter("one") > 0
    await moves(hosts, "one")
    await one.in_thread("kill")
    counter = hosts.counter("one")
    await one.in_thread("start")
    assert hosts.counter("one") > counter
    assert "watching whether it still runs" not in one.log(), "its own predecessor is known to be dead"


@on_uvloop
async def test_a_second_live_daemon_with_the_same_host_id_refuses_to_start(hosts: Hosts) -> None:
    first, second = hosts.add("one"), hosts.add("one", expect="another callstated with host id one")
    await first.in_thread("start")
    second.launch()
    assert second.process is not None
    assert await asyncio.to_thread(second.process.wait, 20) == Exit.ALREADY_RUNNING
    assert "another callstated with host id one is running" in second.log()
    assert first.answers()


@on_uvloop
async def test_a_host_id_whose_daemon_is_gone_may_be_used_again(hosts: Hosts) -> None:
    first, second = hosts.add("one"), hosts.add("one")
    await first.in_thread("start")
    await first.in_thread("kill")
    await second.in_thread("start")
    assert "watching whether it still runs" in second.log()


@on_uvloop
async def test_the_later_of_two_that_started_without_the_store_stops(hosts: Hosts) -> None:
    first, second = hosts.add("one"), hosts.add("one", expect="another callstated with host id one")
    await first.in_thread("start")
    hosts.redis.pause()
    await second.in_thread("start")
    hosts.redis.resume()
    assert second.process is not None
    assert await asyncio.to_thread(second.process.wait, 20) == Exit.ALREADY_RUNNING
    assert first.answers()
