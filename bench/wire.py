"""Raw lines on a socket: to fill daemons quickly, and to measure them without the cost of a client."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self

from bench.documents import CONTENT, DURATION_MS, ROLE
from bench.processes import Server

AT_ONCE: Final = 64
"""Requests sent before their replies are read: few enough for the socket's buffers, so that neither end blocks."""

PATIENCE_S: Final = 120.0


def line(method: str, params: str = "{}", request_id: int = 1) -> bytes:
    """A request line."""
    return f'{{"jsonrpc":"2.0","id":{request_id},"method":"{method}","params":{params}}}\n'.encode()


def heartbeat(session_id: str) -> bytes:
    """The request line of a heartbeat."""
    return line("session.heartbeat", f'{{"session_id":"{session_id}"}}')


def add_turn(session_id: str) -> bytes:
    """The request line of a turn, the same turn that the peers add."""
    turn = (
        f'{{"role":"{ROLE}","content":"{CONTENT}","timestamp":"2026-01-01T00:00:00Z","duration_ms":{DURATION_MS}}}'
    )
    return line("session.add_turn", f'{{"session_id":"{session_id}","turn":{turn}}}')


def save(document: bytes, more: str = "") -> bytes:
    """The request line of a save; `more` holds further parameters, with a leading comma."""
    return line("session.save", f'{{"session":{document.decode()}{more}}}')


class Wire:
    """A blocking connection."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(str(server.path))
        self._replies = self.socket.makefile("rb")

    def send_all(self, lines: Iterable[bytes]) -> None:
        """Send these requests and read their replies.

        Raises:
            RuntimeError: one was refused.
        """
        waiting = iter(lines)
        while batch := [*islice(waiting, AT_ONCE)]:
            self.socket.sendall(b"".join(batch))
            for _ in batch:
                self.reply()

    def reply(self) -> bytes:
        """The next reply.

        Raises:
            RuntimeError: it is an error, or there is none.
        """
        reply = self._replies.readline()
        if b'"error":{' in reply[:80] or not reply:
            raise RuntimeError(f"refused: {reply.decode()}")
        return reply

    def call(self, method: str, **params: Any) -> Any:
        """The result of a request."""
        self.socket.sendall(line(method, json.dumps(params)))
        return json.loads(self.reply())["result"]

    def flush(self) -> None:
        """Flush everything to the store.

        Raises:
            RuntimeError: some sessions were not flushed.
        """
        if unflushed := self.call("server.flush", timeout_s=PATIENCE_S)["unflushed"]:
            raise RuntimeError(f"{unflushed} sessions were not flushed")

    def close(self) -> None:
        """Close the connection."""
        self._replies.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def fill(server: Server, sessions: Mapping[str, bytes]) -> None:
    """Save these sessions in a daemon and flush them to its store."""
    with Wire(server) as wire:
        wire.send_all(save(document) for document in sessions.values())
        wire.flush()


def paced_heartbeats(wire: Wire, session_ids: Sequence[str], *, seconds: float, every_s: float) -> list[float]:
    """Send heartbeats at a fixed rate, one at a time; returns the latency of each, seconds.

    One that is late because the previous reply was late is measured from when it was due: otherwise a long stall
    would be counted once, where a worker with many calls suffers it with each (coordinated omission).
    """
    heartbeats = [heartbeat(session_id) for session_id in session_ids]
    latencies: list[float] = []
    clock = time.perf_counter
    began = due = clock()
    number = 0
    while due < began + seconds:
        now = clock()
        if now < due:
            time.sleep(due - now)
            now = clock()
            since = now
        else:
            since = due
        wire.socket.sendall(heartbeats[number % len(heartbeats)])
        wire.reply()
        latencies.append(clock() - since)
        number += 1
        due += every_s
    return latencies
