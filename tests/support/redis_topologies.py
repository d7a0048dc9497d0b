"""Several real servers that belong together: a primary with replica and sentinel, and a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis import Redis
from redis.crc import key_slot

from support.redis_server import RedisServer, free_port

SETTLED_WITHIN_S = 30.0
ASK_EVERY_S = 0.02

SLOTS = 16384

AT_ONCE = "repl-diskless-sync-delay 0"
"""Otherwise a primary waits for 5 s for more replicas to come."""


def until(true: Callable[[], object], within_s: float = SETTLED_WITHIN_S) -> None:
    """Ask until it is so: servers agree with each other by gossip, and there is no event to wait for."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(ASK_EVERY_S)


class TcpServer:
    """A server with a port, and a client of its own.

    Args:
        config: further lines of its configuration.
    """

    def __init__(self, binary: Path, *config: str, sentinel: bool = False, port: int = 0) -> None:
        self.port = port or free_port()
        self.server = RedisServer(binary, "bind 127.0.0.1", f"port {self.port}", *config, sentinel=sentinel)
        self.address = f"127.0.0.1:{self.port}"

    def ask(self, *words: str | int | bytes) -> Any:
        """The plain reply to a command."""
        path = str(self.server.socket)
        with Redis(unix_socket_path=path, protocol=2, socket_timeout=SETTLED_WITHIN_S) as client:
            client.response_callbacks.clear()
            return client.execute_command(*words)

    def info(self, section: str) -> dict[str, str]:
        """A section of INFO."""
        lines = self.ask("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)


class Group:
    """Servers that are started and ended together."""

    def __init__(self, servers: list[TcpServer]) -> None:
        self.servers = servers

    def start(self) -> None:
        """Start all, and let them find each other."""
        for server in self.servers:
            server.server.start()

    def close(self) -> None:
        """End all."""
        for server in self.servers:
            server.server.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


class Watched(Group):
    """A primary, its replica, and a sentinel that fails over when the primary is gone for a second.

    Args:
        config: further lines of configuration of the two servers.
        sentinel: the same of the sentinel; about the service `calls`.
    """

    def __init__(self, binary: Path, *config: str, sentinel: tuple[str, ...] = ()) -> None:
        self.primary = TcpServer(binary, AT_ONCE, *config)
        self.replica = TcpServer(binary, AT_ONCE, f"replicaof 127.0.0.1 {self.primary.port}", *config)
        self.sentinel = TcpServer(
            binary,
            f"sentinel monitor calls 127.0.0.1 {self.primary.port} 1",
            "sentinel down-after-milliseconds calls 1000",
            "sentinel failover-timeout calls 3000",
            *sentinel,
            sentinel=True,
        )
        super().__init__([self.primary, self.replica, self.sentinel])
        self.url = f"redis+sentinel://{self.sentinel.address}/calls"

    def start(self) -> None:
        """Start all, and wait until the replica is in step and the sentinel knows it."""
        super().start()
        until(lambda: self.replica.info("replication")["master_link_status"] == "up")
        until(lambda: len(self.sentinel.ask("SENTINEL", "REPLICAS", "calls")) == 1)

    def promoted(self) -> bool:
        """Whether the replica is the primary now."""
        return self.replica.info("replication")["role"] == "master"


class ClusterServers(Group):
    """A cluster of three primaries, of which the first has a replica.

    Args:
        config: further lines of configuration of each node.
    """

    def __init__(self, binary: Path, *config: str) -> None:
        self._bus_ports = [free_port() for _ in range(4)]
        nodes = [
            TcpServer(
                binary, "cluster-enabled yes", f"cluster-port {bus_port}", "cluster-node-timeout 1500",
                "cluster-replica-validity-factor 0", AT_ONCE, *config,
            )
            for bus_port in self._bus_ports
        ]  # fmt: skip
        super().__init__(nodes)
        *self.primaries, self.replica = nodes
        self.url = f"redis+cluster://{','.join(node.address for node in nodes[1:])}"

    def start(self) -> None:
        """Start all, share out the slots, and wait until they agree."""
        super().start()
        share = -(-SLOTS // len(self.primaries))
        for number, node in enumerate(self.primaries):
            first = number * share
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, min(first + share, SLOTS) - 1)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node, bus_port in zip(self.servers[1:], self._bus_ports[1:], strict=True):
            self.servers[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port, bus_port)
        until(lambda: all(node.ask("CLUSTER", "NODES").count(b" connected") == 4 for node in self.servers))
        self.replica.ask("CLUSTER", "REPLICATE", self.id_of(self.primaries[0]))
        until(lambda: self.replica.info("replication")["master_link_status"] == "up")
        until(lambda: all(b"cluster_state:ok" in node.ask("CLUSTER", "INFO") for node in self.servers))

    def id_of(self, node: TcpServer) -> bytes:
        """A node's id."""
        found: bytes = node.ask("CLUSTER", "MYID")
        return found

    def promoted(self) -> bool:
        """Whether the replica is a primary now."""
        return self.replica.info("replication")["role"] == "master"

    def move(self, slot: int, source: TcpServer, target: TcpServer, but: TcpServer | None = None) -> None:
        """Move a slot with all its keys; `but` is down and not told of it."""
        self.begin_move(slot, source, target)
        while self.move_keys(slot, source, target):
            pass
        self.end_move(slot, source, target, but)

    def begin_move(self, slot: int, source: TcpServer, target: TcpServer) -> None:
        """Begin to move a slot."""
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))

    def move_keys(self, slot: int, source: TcpServer, target: TcpServer, count: int = 1000) -> int:
        """Move keys of a slot that is being moved; returns how many."""
        keys: list[bytes] = source.ask("CLUSTER", "GETKEYSINSLOT", slot, count)
        if keys:
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        return len(keys)

    def end_move(self, slot: int, source: TcpServer, target: TcpServer, but: TcpServer | None = None) -> None:
        """Give a slot to its new primary."""
        for node in (target, source, *(other for other in self.primaries if other not in (source, target, but))):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target))


def slot_of(key: str) -> int:
    """The hash slot of a key."""
    slot: int = key_slot(key.encode())
    return slot
