"""callstated compared with an echo server: which part of the cost is ours, and which is the machine's."""

from __future__ import annotations

import socket
import time
from typing import Final

from bench.compare import pool
from bench.processes import Server, on_one_processor
from bench.sampling import Spread, percentile
from bench.wire import heartbeat
from callstate_client import sync

PIPELINED: Final = 100
"""Requests in one write: what a worker with a hundred calls sends in one turn of its event loop."""


def _connected(server: Server) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(str(server.path))
    return connection


def blocking_heartbeat(daemon: Server, echo: Server, *, rounds: int, heartbeats: int) -> Spread:
    """The blocking client's median heartbeat over the median round trip of the same line to the echo."""
    session_id = pool(20, 1)[0]
    line = heartbeat(session_id)
    ratios: list[float] = []
    together = on_one_processor(daemon, echo)
    with together, sync.connect(str(daemon.path)) as store, _connected(echo) as connection:
        for _ in range(rounds):
            there: list[float] = []
            back: list[float] = []
            for _ in range(heartbeats):
                began = time.perf_counter()
                store.update_heartbeat(session_id)
                done = time.perf_counter()
                there.append(done - began)
            for _ in range(heartbeats):
                began = time.perf_counter()
                connection.sendall(line)
                connection.recv(4096)
                done = time.perf_counter()
                back.append(done - began)
            ratios.append(percentile(there, 0.5) / percentile(back, 0.5))
    return Spread.of(ratios)


def pipelined_cpu(daemon: Server, echo: Server, *, rounds: int, batches: int) -> tuple[Spread, Spread]:
    """The daemon's CPU time per pipelined heartbeat: over the echo server's for the same line, and in seconds."""
    ids = pool(20, PIPELINED)
    batch = b"".join(map(heartbeat, ids))
    ratios: list[float] = []
    costs: list[float] = []
    with on_one_processor(daemon, echo), _connected(daemon) as ours, _connected(echo) as theirs:
        for _ in range(rounds):
            cost = _cost(daemon, ours, batch, batches)
            ratios.append(cost / _cost(echo, theirs, batch, batches))
            costs.append(cost)
    return Spread.of(ratios), Spread.of(costs)


def _cost(server: Server, connection: socket.socket, batch: bytes, batches: int) -> float:
    before = server.cpu_s()
    for _ in range(batches):
        connection.sendall(batch)
        left = PIPELINED
        while left:
            left -= connection.recv(1 << 20).count(b"\n")
    return (server.cpu_s() - before) / (batches * PIPELINED)
