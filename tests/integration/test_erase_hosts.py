"""Erasing a call where it has been in more places than one: nodes of a cluster, and hosts that had it before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from support.daemon import Daemon
from support.redis_server import RedisServer, binaries
from support.redis_topologies import ClusterServers, TcpServer, until
from support.wire import Refused, Wire

pytestmark = pytest.mark.system

SAID, NUMBER = "erase-me-turn", "447700900123"
TURN = {"role": "user", "content": f"{SAID} " * 50}
SESSION = {"id": "c1", "call_id": "CA1", "from": f"+{NUMBER}", "status": "active", "history": [TURN]}


def found(data: bytes) -> list[str]:
    return [word for word in (SAID, NUMBER) if word.encode() in data]


def in_files(root: Path) -> list[str]:
    return found(b"\n".join(path.read_bytes() for path in root.rglob("*") if path.is_file()))


def in_memory_of(node: TcpServer) -> bytes:
    """Every key and value of a node, as it would dump them without compression."""
    with Redis(unix_socket_path=str(node.server.socket), protocol=2) as raw:
        raw.response_callbacks.clear()
        raw.execute_command("CONFIG", "SET", "rdbcompression", "no")
        keys = raw.execute_command("KEYS", "*")
        if node.info("replication")["role"] == "slave":
            raw.execute_command("READONLY")
        return b"\n".join(b"%b %b" % (key, raw.execute_command("DUMP", key)) for key in keys)


@pytest.fixture
def two(own_redis_server: RedisServer) -> Iterator[tuple[Daemon, Daemon]]:
    daemons = [Daemon("--set", f"host.id={name}", store=own_redis_server.url) for name in ("one", "two")]
    try:
        yield daemons[0].start(), daemons[1].start()
    finally:
        for daemon in daemons:
            daemon.close(expect="session c1 now belongs to host two")


def test_on_a_cluster_no_node_has_it_any_more() -> None:
    with ClusterServers(binaries()["valkey"]) as cluster, Daemon(store=cluster.url) as daemon:
        with Wire(daemon.socket) as wire:
            for number in range(20):  # so that each node has some
                wire.call("session.save", session=SESSION | {"id": f"other-{number}", "from": "", "history": []})
            wire.call("session.save", session=SESSION)
            wire.call("server.flush", timeout_s=10)
            until(lambda: any(found(in_memory_of(node)) for node in cluster.servers))
            remains = wire.call("server.erase", session_id="c1", end=True)["remains"]
            assert "append-only files" in remains[0]
        for node in cluster.primaries:
            content = in_memory_of(node)
            assert b"other-" in content
            assert found(content) == []
        until(lambda: found(in_memory_of(cluster.replica)) == [])  # it follows
        assert in_files(daemon.state_dir) == []


def test_a_host_that_had_it_before_keeps_it_in_its_journal_until_it_erases_it_too(
    two: tuple[Daemon, Daemon], own_redis_server: RedisServer
) -> None:
    before, now = two
    with Wire(before.socket) as there, Wire(now.socket) as here:
        there.call("session.save", session=SESSION)
        there.call("server.flush", timeout_s=10)
        here.call("worker.register", worker_id="w2")
        here.call("session.claim", session_id="c1", worker_id="w2")
        remains = here.call("server.erase", session_id="c1", end=True)["remains"]
        assert any("journals of other hosts" in line and line.endswith(": one") for line in remains)
        assert in_files(now.state_dir) == []
        assert own_redis_server.command("GET", "voicesession:c1").startswith(b"$-1")
        assert in_files(before.state_dir) == [SAID, NUMBER]
        with pytest.raises(Refused):  # once it knows that it has it no more
            while True:
                there.call("session.update", session_id="c1", set={"note": 1})
        remains = there.call("server.erase", session_id="c1")["remains"]
        assert any(line.endswith(": two") for line in remains)
        assert in_files(before.state_dir) == []
        for wire in (there, here):
            with pytest.raises(Refused, match="no session"):
                wire.call("session.load", session_id="c1")


def test_one_that_is_another_hosts_is_refused(two: tuple[Daemon, Daemon]) -> None:
    before, now = two
    with Wire(before.socket) as there, Wire(now.socket) as here:
        there.call("session.save", session=SESSION)
        there.call("server.flush", timeout_s=10)
        with pytest.raises(Refused) as refused:
            here.call("server.erase", session_id="c1", end=True)
        assert refused.value.kind in ("fenced", "conflict")
        assert there.call("session.load", session_id="c1")["session"]["from"] == f"+{NUMBER}"
