"""Several daemons over one Redis, each a host of its own: leases, claims across hosts, and hosts that die."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from callstate_client import (
    CallStore,
    ConflictError,
    FencedError,
    SessionEndedError,
    SessionState,
    SidecarStore,
    connect,
)
from callstate_sidecar.stores.hosts import Take, TakeOutcome
from callstate_sidecar.stores.redis import RedisBackend
from callstate_sidecar.system.exits import Exit
from support.daemon import Daemon
from support.owners import claim, claim_next, release
from support.redis_server import RedisServer, binaries
from support.remote import forker, remote
from support.wire import Wire

pytestmark = pytest.mark.system
on_uvloop = pytest.mark.asyncio(loop_factories=["uvloop"])  # the loop of the test; the daemons' is uvloop anyway

LEASE = ("--set", "store.host_lease_s=1", "--set", "store.timeout_s=0.5")
RIVALS = ("--set", "store.host_lease_s=8")
"""For two daemons with one host id: the later one takes the lease if the counter stands still for half of this, as
it would beside a daemon that a busy machine pauses for as long."""

STORE_AWAY = "the store is (down|refusing)"
PREFIX = "voicesession:"


on_both = pytest.mark.parametrize("redis", binaries(), indirect=True)
"""On each kind of server: at least one test of each script and command that hosts use."""


@pytest.fixture
def redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(binaries()[getattr(request, "param", "valkey")]) as server:
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


async def operator(daemon: Daemon, method: str, **params: Any) -> Any:
    """The result of a request by a connection that is no worker's."""

    def ask() -> Any:
        with Wire(daemon.socket) as wire:
            return wire.call(method, **params)

    return await asyncio.to_thread(ask)


async def until_fenced(store: CallStore, session_id: str) -> None:
    """Return once the store's daemon knows that the session is another host's."""
    async with asyncio.timeout(20):
        with pytest.raises(FencedError):
            while True:
                await store.update(session_id, provider="late")


async def until_subscribed(store: CallStore) -> None:
    """Return once somebody gets the events of this store's daemon."""
    while (await store.stats())["subscribers"] == 0:
        await asyncio.sleep(0)


# -- leases -------------------------------------------------------------------------------------------------------


@on_both
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
    first = hosts.add("one", *RIVALS)
    second = hosts.add("one", *RIVALS, expect="another callstated with host id one")
    await first.in_thread("start")
    second.launch()
    assert second.process is not None
    assert await asyncio.to_thread(second.process.wait, 20) == Exit.ALREADY_RUNNING
    assert "another callstated with host id one is running" in second.log()
    assert first.answers()


@on_uvloop
async def test_a_host_id_whose_daemon_has_stopped_may_be_used_again(hosts: Hosts) -> None:
    first, second = hosts.add("one"), hosts.add("one")
    await first.in_thread("start")
    await first.in_thread("kill")
    await second.in_thread("start")
    assert "watching whether it still runs" in second.log()


@on_uvloop
@pytest.mark.parametrize("forgets", [False, True])
async def test_of_two_that_started_without_the_store_the_later_stops_and_has_written_nothing(
    hosts: Hosts, forgets: bool
) -> None:
    """Both have a call of the same id, as a cloned machine has."""
    first = hosts.add("one", *RIVALS, expect="lost data" if forgets else "")
    second = hosts.add("one", *RIVALS, expect="another callstated")
    await first.in_thread("start")
    async with connect(first.socket, worker_id="w1") as here:
        await here.save(SessionState("c1", status="active"))
        await here.flush()
        if forgets:
            hosts.redis.kill()
        else:
            hosts.redis.pause()
        await second.in_thread("start")
        async with connect(second.socket, worker_id="w1") as there:
            await there.save(SessionState("c1", status="active", provider="clone"))
            await there.save(SessionState("c2", status="active"))
        await here.add_turn("c1", "user", "mine")
        if forgets:
            await asyncio.to_thread(hosts.redis.start)
        else:
            hosts.redis.resume()
        assert second.process is not None
        assert await asyncio.to_thread(second.process.wait, 20) == Exit.ALREADY_RUNNING
        assert (await here.flush(timeout_s=20)).unflushed == 0
        stats = await here.stats()
        assert (stats["quarantined"], stats["store"]) == (0, "up")
        assert b"mine" in hosts.redis.command("GET", f"{PREFIX}c1")
        assert hosts.redis.command("EXISTS", f"{PREFIX}c2") == b":0\r\n"


@on_uvloop
async def test_one_that_started_without_the_store_writes_when_it_is_the_only_one(hosts: Hosts) -> None:
    daemon = hosts.add("one")
    hosts.redis.pause()
    await daemon.in_thread("start")
    async with connect(daemon.socket, worker_id="w1") as store:
        await store.save(SessionState("c1", status="active"))
        hosts.redis.resume()
        assert (await store.flush(timeout_s=20)).unflushed == 0


# -- claims across hosts ------------------------------------------------------------------------------------------


@pytest.fixture
async def two(hosts: Hosts) -> tuple[Daemon, Daemon]:
    """Two hosts, `one` and `two`."""
    one = hosts.add("one", expect="now belongs to host two")
    two = hosts.add("two", expect="now belongs to host one")
    await asyncio.gather(one.in_thread("start"), two.in_thread("start"))
    return one, two


@on_both
@on_uvloop
async def test_an_owned_session_of_a_live_host_is_a_conflict_and_may_be_stolen(two: tuple[Daemon, Daemon]) -> None:
    async with connect(two[0].socket, worker_id="w1") as here, connect(two[1].socket, worker_id="w2") as there:
        with pytest.raises(FencedError):
            async with here.hold(SessionState("c1", status="active", provider="sip")) as call:
                await call.add_turn("user", "before")
                await here.flush()
                with pytest.raises(ConflictError) as refused:
                    await claim(there, "c1", "w2")
                assert refused.value.owner == "w1"
                with pytest.raises(FencedError):
                    await there.add_turn("c1", "user", "not yet ours")

                stolen = await claim(there, "c1", "w2", steal=True)
                assert (stolen.epoch >> 20, stolen.turn_count) == (1, 1)
                await there.add_turn("c1", "agent", "after", epoch=stolen.epoch)
                async with asyncio.timeout(20):
                    lost = await call.wait_lost()
                assert isinstance(lost, FencedError)
                assert lost.owner == "w2"
                with pytest.raises(FencedError) as fenced:
                    await here.add_turn("c1", "user", "too late")
                assert fenced.value.host == "two"
        await there.flush()
        loaded = await here.load("c1")
        assert [turn.content for turn in loaded.history] == ["before", "after"], "read from the store"


@on_uvloop
async def test_writes_acknowledged_before_a_theft_was_noticed_are_set_aside(hosts: Hosts) -> None:
    long = ("--set", "store.host_lease_s=60")  # no pause of this test is an absence
    two = [hosts.add(name, *long, expect="now belongs to host") for name in ("one", "two")]
    await asyncio.gather(*(daemon.in_thread("start") for daemon in two))
    async with connect(two[0].socket, worker_id="w1") as here, connect(two[1].socket, worker_id="w2") as there:
        await here.save(SessionState("c1", status="active"))
        await here.flush()
        fenced = here.events("fenced")
        told = asyncio.ensure_future(anext(fenced))
        await until_subscribed(here)
        two[0].signal(signal.SIGSTOP)
        stolen = await claim(there, "c1", "w2", steal=True)
        late = asyncio.ensure_future(here.add_turn("c1", "user", "late"))
        await asyncio.sleep(0)
        two[0].signal(signal.SIGCONT)
        await late
        async with asyncio.timeout(20):
            event = await told
        assert (event.session_id, event.reason) == ("c1", "superseded")
        assert (await here.stats())["quarantined"] == 1
        assert (await there.load("c1")).history == []
        assert (await there.get("c1")).epoch == stolen.epoch
        await two[0].in_thread("kill")
        await two[0].in_thread("start")
        assert (await here.stats())["quarantined"] == 1, "the journal has it"


@on_uvloop
@pytest.mark.parametrize("state", ["released", "unowned", "suspect"])
async def test_a_session_without_a_live_owner_is_claimed_without_stealing(
    two: tuple[Daemon, Daemon], state: str
) -> None:
    async with connect(two[0].socket, worker_id="w1") as here, connect(two[1].socket, worker_id="w2") as there:
        timeout_s = 0.2 if state == "suspect" else None
        if state == "unowned":
            await operator(two[0], "session.save", session={"id": "c1", "status": "active"})
        else:
            await here.save(SessionState("c1", status="active"), heartbeat_timeout_s=timeout_s)
        if state == "released":
            await release(here, "c1", (await here.get("c1")).epoch)
        if state == "suspect":
            async with asyncio.timeout(20):
                await anext(here.events("suspect", since=None))
        await here.flush()
        taken = await claim(there, "c1", "w2")
        assert (taken.owner, taken.epoch >> 20) == ("w2", 1)
        await until_fenced(here, "c1")


@on_uvloop
async def test_of_many_hosts_that_claim_one_gets_it(hosts: Hosts) -> None:
    daemons = [hosts.add(f"h{number}", expect="now belongs to host") for number in range(4)]
    await asyncio.gather(*(daemon.in_thread("start") for daemon in daemons))
    async with AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(connect(daemon.socket, worker_id=f"w{number}"))
            for number, daemon in enumerate(daemons)
        ]
        for round_ in range(10):
            session_id = f"c{round_}"
            await operator(daemons[0], "session.save", session={"id": session_id, "status": "active"})
            await operator(daemons[0], "server.flush")
            results = await asyncio.gather(
                *(claim(store, session_id, f"w{n}") for n, store in enumerate(stores) if n), return_exceptions=True
            )
            won = [result for result in results if not isinstance(result, BaseException)]
            assert len(won) == 1
            assert all(isinstance(result, ConflictError) for result in results if isinstance(result, BaseException))


# -- sessions that another host has reaped ------------------------------------------------------------------------


@pytest.fixture
async def reapers(hosts: Hosts) -> list[Daemon]:
    """Three hosts that end a session soon after its worker's death; no pause of a test is an absence of theirs."""
    quick = ("--set", "reaper.grace_s=0.05", "--set", "store.host_lease_s=60")
    daemons = [hosts.add(name, *quick, expect="now belongs to host") for name in ("one", "two", "three")]
    await asyncio.gather(*(daemon.in_thread("start") for daemon in daemons))
    return daemons


async def reap(here: SidecarStore, daemon: Daemon, directory: Path, *session_ids: str) -> None:
    """Let a worker's process die that holds these sessions, and return once they were reaped and stored."""
    reaped: set[str] = set()
    with forker(directory) as path:
        async with remote(path, "uvloop") as process, asyncio.timeout(20), here.events("expired") as expired:
            worker = await process.open(daemon.socket, "w1")
            for session_id in session_ids:
                await worker.save(SessionState(session_id, status="on_hold"), labels={"app": "sales"})
                await worker.add_turn(session_id, "user", "before")
            await process.kill()
            while not reaped.issuperset(session_ids):
                event = await anext(expired)
                assert event.reason == "worker_exited"
                reaped.add(str(event.session_id))
    await here.flush()


@on_both
@on_uvloop
async def test_a_claim_revives_what_another_host_has_reaped(
    hosts: Hosts, reapers: list[Daemon], tmp_path: Path
) -> None:
    one, two, _ = reapers
    async with connect(one.socket, worker_id="w3") as here, connect(two.socket, worker_id="w2") as there:
        await reap(here, one, tmp_path, "c1")
        async with here.events("fenced") as fenced, there.events("claimed") as claimed:
            taken = await claim(there, "c1", "w2")
            assert (taken.owner, taken.epoch, taken.turn_count) == ("w2", (1 << 20) + 1, 1)
            assert (await there.load("c1")).status == "on_hold"
            await there.add_turn("c1", "agent", "after", epoch=taken.epoch)
            await there.flush()
            async with asyncio.timeout(20):
                assert (await anext(claimed)).reason == "reaped"
                assert (await anext(fenced)).session_id == "c1"
        with pytest.raises(FencedError) as refused:
            await here.add_turn("c1", "user", "late")
        assert (refused.value.host, refused.value.owner) == ("two", "w2")
        with pytest.raises(ConflictError):
            await claim(here, "c1", "w3")
        await here.flush()
        record = await here.get("c1")
        assert (record.owner, record.ended_reason, record.labels) == ("w2", None, {"app": "sales"})
        assert (record.state.status, [turn.content for turn in record.state.history]) == (
            "on_hold", ["before", "after"],
        )  # fmt: skip
        assert hosts.redis.command("SISMEMBER", f"{PREFIX}active", "c1") == b":1\r\n"


@on_uvloop
async def test_late_writes_at_the_host_that_reaped_a_session_are_set_aside(
    reapers: list[Daemon], tmp_path: Path
) -> None:
    one, two, _ = reapers
    async with connect(one.socket) as here, connect(two.socket, worker_id="w2") as there:
        await reap(here, one, tmp_path, "c1")
        version = (await here.get("c1")).version
        async with here.events("fenced") as fenced:
            one.signal(signal.SIGSTOP)
            taken = await claim(there, "c1", "w2")
            late = asyncio.ensure_future(here.save(SessionState("c1", status="active"), if_version=version))
            await asyncio.sleep(0)
            one.signal(signal.SIGCONT)
            await late  # revives its own copy
            async with asyncio.timeout(20):
                assert (await anext(fenced)).reason == "superseded"
        await asyncio.gather(here.flush(), there.flush())
        record = await here.get("c1")
        assert (record.epoch, record.owner, record.state.status) == (taken.epoch, "w2", "on_hold")


@on_uvloop
async def test_of_claims_at_several_hosts_one_revives_a_reaped_session(
    reapers: list[Daemon], tmp_path: Path
) -> None:
    ids = [f"c{number}" for number in range(8)]
    async with AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(connect(daemon.socket, worker_id=f"w{number}"))
            for number, daemon in enumerate(reapers, 2)
        ]
        await reap(stores[0], reapers[0], tmp_path, *ids)
        for session_id in ids:
            results = await asyncio.gather(
                *(claim(store, session_id, f"w{n}") for n, store in enumerate(stores, 2)), return_exceptions=True
            )
            await asyncio.gather(*(store.flush() for store in stores))
            owner = (await stores[1].get(session_id)).owner
            for n, (store, result) in enumerate(zip(stores, results, strict=True), 2):
                if f"w{n}" == owner:
                    assert not isinstance(result, BaseException)
                elif n == 2 and not isinstance(result, BaseException):
                    await until_fenced(store, session_id)  # it had not been told yet
                else:
                    assert isinstance(result, ConflictError), result


@on_uvloop
async def test_a_session_that_was_not_reaped_within_the_retention_is_not_revived(
    hosts: Hosts, reapers: list[Daemon], tmp_path: Path
) -> None:
    one, two, _ = reapers
    async with connect(one.socket, worker_id="w4") as here, connect(two.socket, worker_id="w2") as there:
        await here.save(SessionState("done", status="active"))
        await here.end("done")
        await reap(here, one, tmp_path, "past", "future", "unknown")
        for session_id, change in (
            ("past", "ended_at 2020-01-01T00:00:00Z"),
            ("future", "ended_at 2120-01-01T00:00:00Z"),
            ("unknown", 'status_before ""'),  # as an earlier version wrote it
        ):
            hosts.redis.command("HSET", f"{{{PREFIX}{session_id}}}:meta", *change.split())
        for session_id in ("done", "past", "future", "unknown"):
            with pytest.raises(SessionEndedError):
                await claim(there, session_id, "w2", steal=True)


@on_uvloop
async def test_a_revived_session_whose_host_died_before_it_wrote_it_lives(
    hosts: Hosts, reapers: list[Daemon], tmp_path: Path
) -> None:
    one, two, _ = reapers
    async with connect(one.socket) as here, connect(two.socket, worker_id="w2") as there:
        await reap(here, one, tmp_path, "c1")
        meta = f"{{{PREFIX}c1}}:meta"
        hosts.redis.command("HSET", meta, "ended_reason", "max_duration", "max_duration_s", "0.001")
        gone = RedisBackend(hosts.redis.url, ttl_s=1000, timeout_s=5, host_id="gone", synced=False)
        assert gone.hosts is not None
        take = Take("c1", "one", 0, "w9", force=False)
        assert [taken.outcome for taken in await gone.hosts.take([take])] == [TakeOutcome.CHANGED]
        for expected in (TakeOutcome.TAKEN, TakeOutcome.CHANGED):
            [taken] = await gone.hosts.take([take._replace(revive=True)])
            assert taken.outcome is expected
        await gone.close()
        record = await there.get("c1")
        assert (record.owner, record.ended_reason, record.state.status) == ("w9", None, "on_hold")
        with pytest.raises(ConflictError):
            await claim(there, "c1", "w2")
        stolen = await claim(there, "c1", "w2", steal=True)
        assert (stolen.epoch >> 20, (await there.load("c1")).status) == (2, "on_hold")
        await there.flush()
        for name in ("status_before", "max_duration_s"):
            assert hosts.redis.command("HGET", meta, name) == b"$0\r\n\r\n", name


# -- hosts that die -----------------------------------------------------------------------------------------------


@on_both
@on_uvloop
async def test_the_sessions_of_a_dead_host_are_orphans_at_another_and_are_claimed_there(
    two: tuple[Daemon, Daemon],
) -> None:
    async with connect(two[1].socket, worker_id="w2") as there:
        async with connect(two[0].socket, worker_id="w1") as here:
            await here.save(SessionState("c1", status="active", provider="sip"), labels={"app": "sales"})
            await here.add_turn("c1", "user", "before")
            await here.flush()
            orphaned = there.events("orphaned")
            told = asyncio.ensure_future(anext(orphaned))
            await until_subscribed(there)
            await two[0].in_thread("kill")
        async with asyncio.timeout(30):
            event = await told
        assert (event.session_id, event.reason, event.owner) == ("c1", "host_lost", "w1")
        assert event.labels == {"app": "sales"}
        assert await claim_next(there, "w2", labels={"app": "sales"}) == "c1"
        record = await there.get("c1")
        assert (record.epoch, len(record.state.history)) == ((1 << 20) + 1, 1)
        await there.add_turn("c1", "agent", "after", epoch=record.epoch)
        await there.flush()
        await two[0].in_thread("start")
        async with connect(two[0].socket, worker_id="w1") as here:
            with pytest.raises(FencedError) as fenced:
                await here.add_turn("c1", "user", "back again")
            assert fenced.value.host == "two", "known before it served"
            assert (await here.stats())["quarantined"] == 1


@on_uvloop
async def test_a_daemon_that_was_stopped_beyond_its_lease_compares_before_it_serves(
    two: tuple[Daemon, Daemon],
) -> None:
    async with connect(two[0].socket, worker_id="w1") as here, connect(two[1].socket, worker_id="w2") as there:
        await here.save(SessionState("c1", status="active"))
        await here.flush()
        orphaned = asyncio.ensure_future(anext(there.events("orphaned")))
        await until_subscribed(there)
        two[0].signal(signal.SIGSTOP)
        async with asyncio.timeout(30):
            await orphaned
        late = asyncio.ensure_future(here.add_turn("c1", "user", "too late"))
        await asyncio.sleep(0)
        two[0].signal(signal.SIGCONT)
        with pytest.raises(FencedError) as fenced:
            await late
        assert fenced.value.host == "two"
        assert (await there.load("c1")).history == []


@on_uvloop
async def test_unclaimed_sessions_of_a_dead_host_are_reaped_once(hosts: Hosts) -> None:
    reaper = ("--set", "reaper.heartbeat_timeout_s=5", "--set", "reaper.grace_s=0.2")
    one, *others = (hosts.add(name, *reaper, expect="now belongs to host") for name in ("one", "two", "three"))
    await asyncio.gather(*(daemon.in_thread("start") for daemon in (one, *others)))
    ids = {f"c{number}" for number in range(50)}
    expired: list[str] = []
    all_expired = asyncio.Event()

    async def listen(store: CallStore) -> None:
        async for event in store.events("expired"):
            expired.append(str(event.session_id))
            if ids <= {*expired}:
                all_expired.set()

    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(connect(daemon.socket)) for daemon in others]
        listening = [asyncio.ensure_future(listen(store)) for store in stores]
        for store in stores:
            await until_subscribed(store)
        async with connect(one.socket, worker_id="w1") as here:
            await asyncio.gather(*(here.save(SessionState(session_id, status="active")) for session_id in ids))
            await here.flush()
            await one.in_thread("kill")
        async with asyncio.timeout(60):
            await all_expired.wait()
        for store in stores:
            await store.flush()
        loaded = [await stores[0].get(session_id) for session_id in ids]
        assert {record.ended_reason for record in loaded} == {"heartbeat_timeout"}
        assert hosts.redis.command("SCARD", f"{PREFIX}active") == b":0\r\n"
        await one.in_thread("start")
        async with connect(one.socket) as here:
            assert (await here.stats())["sessions"] == {}
        assert sorted(expired) == sorted(ids), "each once"
        for task in listening:
            task.cancel()


@on_uvloop
async def test_a_host_that_lost_its_state_directory_has_its_sessions_again(hosts: Hosts) -> None:
    one = hosts.add("one")
    await one.in_thread("start")
    async with connect(one.socket, worker_id="w1") as here:
        for number in range(30):
            await here.save(SessionState(f"c{number}", status="active"), labels={"n": str(number)})
        await here.add_turn("c7", "user", "hello")
        await here.save(SessionState("over", status="ended"))
        await here.flush()
        epoch = (await here.get("c7")).epoch
    await one.in_thread("kill")
    again = hosts.add("one")
    await again.in_thread("start")
    async with connect(again.socket, worker_id="w1") as here:
        assert sorted(await here.list_active()) == sorted(f"c{number}" for number in range(30))
        record = await here.get("c7")
        assert (record.epoch, record.owner, record.labels) == (epoch, "w1", {"n": "7"})
        await here.add_turn("c7", "agent", "again", epoch=epoch)


# -- listings and ghosts ------------------------------------------------------------------------------------------


@on_both
@on_uvloop
async def test_listings_of_all_hosts_show_each_hosts_sessions_by_status(two: tuple[Daemon, Daemon]) -> None:
    async with connect(two[0].socket, worker_id="w1") as here, connect(two[1].socket, worker_id="w2") as there:
        for store, name in ((here, "a"), (there, "b")):
            for number, status in enumerate(("active", "on_hold", "ended")):
                await store.save(SessionState(f"{name}{number}", status=status))
            await store.flush()
        for number, status in enumerate(("active", "on_hold", "ended")):
            listed = await operator(two[0], "session.list", status=status, scope="all")
            assert sorted(found["session"]["id"] for found in listed["sessions"]) == [f"a{number}", f"b{number}"]


@on_both
@on_uvloop
async def test_one_host_sweeps_the_active_set_for_all(hosts: Hosts) -> None:
    daemons = [hosts.add(name) for name in ("one", "two")]
    await asyncio.gather(*(daemon.in_thread("start") for daemon in daemons))
    await operator(daemons[0], "session.save", session={"id": "live", "status": "active"})
    await operator(daemons[0], "server.flush")
    hosts.redis.command("SADD", f"{PREFIX}active", "ghost1", "ghost2")
    async with asyncio.timeout(30):
        while hosts.redis.command("SCARD", f"{PREFIX}active") != b":1\r\n":
            await asyncio.sleep(0.01)
    assert hosts.redis.command("SISMEMBER", f"{PREFIX}active", "live") == b":1\r\n"
