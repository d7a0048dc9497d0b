"""A primary of a cluster that is gone without a replica: what is in its slots waits, and nothing else does."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator

import pytest

from callstate_client import SessionState, SidecarStore, StoreUnavailableError, connect
from callstate_sidecar.stores.redis.client import ScriptClient
from callstate_sidecar.stores.redis.client import connect as connect_servers
from support.daemon import Daemon
from support.redis_server import binaries
from support.redis_topologies import ClusterServers, TcpServer, slot_of

pytestmark = [pytest.mark.system, pytest.mark.timeout(120), pytest.mark.asyncio(loop_factories=["uvloop"])]

PREFIX = "voicesession:"
NAMES = [f"call-{number}" for number in range(40)]
TIMEOUT_S = 0.5


@pytest.fixture
def cluster() -> Iterator[ClusterServers]:
    # kept on disk, so that a primary that is started again has what it had
    config = ("cluster-require-full-coverage no", "appendonly yes", "appendfsync always")
    with ClusterServers(binaries()["valkey"], *config) as servers:
        yield servers


def share_of(name: str) -> int:
    """Which of the three primaries has a session."""
    return slot_of(PREFIX + name) // 5462


def without_shared_keys(cluster: ClusterServers) -> tuple[int, TcpServer]:
    """A primary without a replica and without the active set."""
    number = next(n for n in (1, 2) if n != share_of("active"))
    return number, cluster.primaries[number]


async def says(store: SidecarStore, text: str) -> None:
    """Return once `store_error` has this text, or is empty."""
    async with asyncio.timeout(20):
        while True:
            error = str((await store.stats()).get("store_error", ""))
            if text in error and bool(text) == bool(error):
                return
            await asyncio.sleep(0.02)


async def stored_turns(cluster: ClusterServers, names: list[str]) -> dict[str, int]:
    redis = ScriptClient(connect_servers(cluster.url, connections=1, timeout_s=5), owned=True)
    documents = {name: await redis.command("GET", (PREFIX + name).encode()) for name in names}
    await redis.close()
    return {name: document.count(b'"role"') for name, document in documents.items()}


@pytest.mark.parametrize("how", ["killed", "hanging"])
async def test_sessions_of_other_slots_go_on_and_those_of_its_own_wait(cluster: ClusterServers, how: str) -> None:
    number, primary = without_shared_keys(cluster)
    waiting = [name for name in NAMES if share_of(name) == number]
    others = [name for name in NAMES if share_of(name) != number]
    daemon = Daemon("--set", f"store.timeout_s={TIMEOUT_S}", store=cluster.url)
    try:
        await daemon.in_thread("start")
        async with connect(daemon.socket) as store:
            for name in NAMES:
                await store.save(SessionState(name, status="active"))
            assert (await store.flush(timeout_s=20)).unflushed == 0
            if how == "killed":
                await asyncio.to_thread(primary.server.kill)
            else:
                primary.server.signal(signal.SIGSTOP)
            for name in NAMES:
                await store.add_turn(name, "user", "meanwhile")
            await says(store, f"primary {primary.address} of the cluster does not answer")

            started = time.monotonic()
            for name in others:
                await store.add_turn(name, "user", "goes on")
            assert (await store.flush(others, timeout_s=20)).unflushed == 0
            assert time.monotonic() - started < 5, "no batch waits for the dead"
            assert set((await stored_turns(cluster, others)).values()) == {2}
            stats = await store.stats()
            assert (stats["store"], stats["dirty"], stats["quarantined"]) == ("up", len(waiting), 0)
            assert {finding.kind for finding in (await store.check()).findings} == {"partly_down"}

            started = time.monotonic()
            with pytest.raises(StoreUnavailableError):
                await store.load(next(f"never-{i}" for i in range(100) if share_of(f"never-{i}") == number))
            assert time.monotonic() - started < TIMEOUT_S, "at once"
            await store.end(others[0])
            await store.end(waiting[0])
            await store.delete(waiting[1])
            await store.save(SessionState("new", status="active"), if_version=0)

            if how == "killed":
                await asyncio.to_thread(primary.server.start)
            else:
                primary.server.signal(signal.SIGCONT)
            await says(store, "")
            assert (await store.flush(timeout_s=20)).unflushed == 0
            await store.check()  # notices that it was restarted, if it was
            assert (await store.check()).findings == []
            kept = [name for name in waiting if name != waiting[1]]
            assert set((await stored_turns(cluster, kept)).values()) == {1}
        assert daemon.log().count("does not answer") == 1
        assert "answers again" in daemon.log()
    finally:
        await asyncio.to_thread(daemon.close, expect="the store|sessions are written to it again")


async def test_new_calls_wait_where_the_active_set_is_away(cluster: ClusterServers) -> None:
    """No session is written that the active set may lack; turns of those that are in it go on."""
    number = share_of("active")
    primary, others = cluster.primaries[number], [name for name in NAMES if share_of(name) != number]
    if number == 0:
        await asyncio.to_thread(cluster.replica.server.kill)
    daemon = Daemon("--set", f"store.timeout_s={TIMEOUT_S}", store=cluster.url)
    try:
        await daemon.in_thread("start")
        async with connect(daemon.socket) as store:
            for name in others:
                await store.save(SessionState(name, status="active"))
                await store.add_turn(name, "user", "before")
            assert (await store.flush(timeout_s=20)).unflushed == 0
            await asyncio.to_thread(primary.server.kill)
            await says(store, f"primary {primary.address} of the cluster does not answer")
            for name in others:
                await store.add_turn(name, "user", "goes on")
            assert (await store.flush(others, timeout_s=20)).unflushed == 0
            await store.save(SessionState("new", status="active"), if_version=0)
            await store.end(others[0])
            assert (await store.stats())["dirty"] == 2
            await asyncio.to_thread(primary.server.start)
            assert (await store.flush(timeout_s=20)).unflushed == 0
            assert {*await store.list_active()} == {*others[1:], "new"}
    finally:
        await asyncio.to_thread(daemon.close, expect="the store|sessions are written to it again")
