"""The client that is measured while another one attacks: it sends at a fixed pace, whatever comes back."""

from __future__ import annotations

import re
import select
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from bench.documents import document
from bench.processes import Server
from bench.wire import Wire, add_turn, heartbeat, save

EVERY_S: Final = 0.004
"""Its pace: 250 requests a second."""

TURN_EVERY: Final = 8
"""One request of so many is a turn, the others are heartbeats."""

LAST_S: Final = 20.0
"""The longest wait for replies that are missing at the end; those that still are count as if they came then."""

UNANSWERED: Final = 1000
"""With so many requests under way it sends no more: the daemon has stood still for seconds."""

READ_BYTES: Final = 1 << 20
ID: Final = re.compile(rb'"id":(\d+)')


class Victim:
    """A client with a call of 20 turns.

    Each request is sent when it is due, whether or not the ones before have been answered, and its latency counts
    from then: a stall is felt by all requests that fall into it, as with a worker that has many calls.

    Args:
        server: the daemon.
    """

    def __init__(self, server: Server) -> None:
        self._wire = Wire(server)
        self._wire.send_all([save(document("victim", 20))])
        self._socket = self._wire.socket
        self._socket.setblocking(False)
        self._number = 1
        self._due: dict[int, float] = {}
        self._tail = b""
        self._unsent = b""

    def run(self, until: Callable[[], bool]) -> list[float]:
        """Send until `until` says so, and wait for the last reply.

        Returns:
            the latencies, seconds.

        Raises:
            RuntimeError: the daemon has refused a request, or closed the connection.
        """
        latencies: list[float] = []
        due = time.perf_counter()
        while not until():
            now = time.perf_counter()
            while due <= now:
                if len(self._due) < UNANSWERED:
                    self._send(due)
                due += EVERY_S
            self._read(latencies, due - now)
        last = time.perf_counter() + LAST_S
        while self._due:
            now = time.perf_counter()
            if now > last:
                latencies += [now - due for due in self._due.values()]
                break
            self._read(latencies, 1.0)
        return latencies

    def _send(self, due: float) -> None:
        self._number += 1
        line = heartbeat("victim") if self._number % TURN_EVERY else add_turn("victim")
        self._due[self._number] = due
        self._unsent += line.replace(b'"id":1,', b'"id":%d,' % self._number, 1)
        self._flush()

    def _flush(self) -> None:
        """Send as much as the daemon takes: it may not read for minutes."""
        with suppress(BlockingIOError):
            self._unsent = self._unsent[self._socket.send(self._unsent) :]

    def _read(self, latencies: list[float], seconds: float) -> None:
        writing = [self._socket] if self._unsent else []
        readable, writable, _ = select.select([self._socket], writing, [], max(0.0, seconds))
        if writable:
            self._flush()
        if not readable:
            return
        chunk = self._socket.recv(READ_BYTES)
        now = time.perf_counter()
        if not chunk:
            raise RuntimeError("the victim was cut off")
        *lines, self._tail = (self._tail + chunk).split(b"\n")
        for line in lines:
            found = ID.search(line)
            if found is None or b'"error":{' in line[:80]:
                raise RuntimeError(f"the victim was refused: {line.decode()}")
            latencies.append(now - self._due.pop(int(found[1])))
