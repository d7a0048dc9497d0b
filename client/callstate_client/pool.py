"""Blocking connections to the daemon: one request under way on each, as many as threads that ask at once.

Not one connection under a lock: then one thread's slow load (a store behind that does not answer) would hold up
the heartbeats of all. Not one a thread: each thread that ended would leave one behind. A connection whose
request failed is left, so no reply can be taken for another request's, and all requests carry the same id.
"""

from __future__ import annotations

import logging
import os
import socket as sockets
import struct
from collections.abc import Sequence
from threading import Event, RLock
from time import monotonic
from typing import Final

from callstate_client.discovery import Candidate, Tried, describe, no_daemon, refusal
from callstate_client.errors import (
    ConnectionLostError,
    NoDaemonError,
    RequestTimeoutError,
    StoreClosedError,
)
from callstate_client.inflight import OPS_REMEMBERED
from callstate_client.patience import REPLY_BYTES, Backoff

_log = logging.getLogger("callstate")

REQUEST_ID: Final = 1
"""Of every request, so a request line may be made once and sent often."""

REPLY_HEADS: Final = (b'{"jsonrpc":"2.0","id":1,', b'{"jsonrpc":"2.0","id":null,')
"""How a reply begins. One without id tells of a line that could not be read; there is only ours."""

FIRST_READ_BYTES: Final = 16 * 1024
"""Taken by the first read, bytes: all replies but those of long histories fit, and a larger buffer costs more."""

READ_BYTES: Final = 256 * 1024
"""Taken by each further read, bytes: what a Unix socket holds."""

LONGEST_S: Final = 10 * 365 * 86400.0
"""More than anybody waits, and what a timeval of any platform can say."""

SHORTEST_S: Final = 0.001
"""A timeval of zero means for ever."""


class Connection:
    """One connection, for one request at a time.

    The time limit is the kernel's (SO_RCVTIMEO, SO_SNDTIMEO; socket(7)): with Python's own, each call is
    preceded by a poll. Only where something else has made the descriptor non-blocking, as gevent and eventlet
    do, it is Python's.

    Args:
        socket: a Unix stream socket.
    """

    __slots__ = ("_limit_s", "_recv", "_send", "_socket")

    def __init__(self, socket: sockets.socket) -> None:
        self._socket = socket
        self._send = socket.send
        self._recv = socket.recv
        self._limit_s = -1.0

    def connect(self, path: str, timeout_s: float) -> None:
        """Connect; raises OSError."""
        self._limit(timeout_s)
        self._socket.connect(path)

    def exchange(self, line: bytes, timeout_s: float, until: float) -> bytes:
        """Send a request and wait for its reply's line, newline included.

        Args:
            line: the request.
            timeout_s: how long it may take, seconds.
            until: the same as an instant of the monotonic clock.

        Raises:
            TimeoutError: it took longer.
            BrokenPipeError: the daemon was gone before it had the whole line.
            OSError: the connection was lost.
        """
        if timeout_s != self._limit_s:
            self._limit(timeout_s)
        try:
            sent = self._send(line)
            while sent < len(line):
                self._limit(until - monotonic())
                sent += self._send(memoryview(line)[sent:])
            data = self._recv(FIRST_READ_BYTES)
            return data if data.endswith(b"\n") else self._rest(data, until)
        except BlockingIOError as error:
            raise TimeoutError from error

    def _rest(self, data: bytes, until: float) -> bytes:
        parts = [data]
        size = len(data)
        while data and size <= REPLY_BYTES:
            self._limit(until - monotonic())
            data = self._recv(READ_BYTES)
            parts.append(data)
            size += len(data)
            if data.endswith(b"\n"):
                return b"".join(parts)
        raise ConnectionResetError("closed" if not data else f"a reply over {REPLY_BYTES} bytes")

    def _limit(self, timeout_s: float) -> None:
        if timeout_s <= 0:
            raise TimeoutError
        self._limit_s = timeout_s
        if not os.get_blocking(self._socket.fileno()):
            self._socket.settimeout(timeout_s)
            return
        whole_s, part_s = divmod(min(max(timeout_s, SHORTEST_S), LONGEST_S), 1)
        timeval = struct.pack("@ll", int(whole_s), int(part_s * 1_000_000))
        self._socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVTIMEO, timeval)
        self._socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDTIMEO, timeval)

    def interrupt(self) -> None:
        """Wake the thread that waits on it."""
        try:
            self._socket.shutdown(sockets.SHUT_RDWR)
        except OSError:  # lost already, or never connected
            return

    def close(self) -> None:
        """Leave."""
        self._socket.close()


class Ours:
    """What one process has of a pool; a forked child gets one of its own."""

    def __init__(self) -> None:
        self.idle: list[Connection] = []
        """The newest last: as few as will do are used, and they stay warm. Its pop and append are atomic."""
        self.closing = Event()
        self._all: set[Connection] = set()
        self._mutations: dict[str, list[int]] = {}
        # a signal's handler may ask too, in the middle of this
        self._lock = RLock()

    def add(self, connection: Connection) -> None:
        """One more; interrupted at once if the pool was closed meanwhile."""
        with self._lock:
            self._all.add(connection)
            if self.closing.is_set():
                connection.interrupt()

    def drop(self, connection: Connection) -> None:
        """Leave one that is in nobody's hands but the caller's."""
        with self._lock:
            self._all.discard(connection)
            connection.close()

    def drop_idle(self) -> None:
        """Leave those that nobody uses."""
        while self.idle:
            try:
                connection = self.idle.pop()
            except IndexError:  # another thread was quicker
                return
            self.drop(connection)

    def close(self) -> None:
        """Wake who waits, and leave all others; those that are woken leave their own."""
        with self._lock:
            self.closing.set()
            for connection in self._all:
                connection.interrupt()
        self.drop_idle()

    def abandon(self) -> None:
        """In a child: leave the parent's connections to it."""
        for connection in self._all:  # no lock: whoever held it is not here
            connection.close()

    def begin(self, session_id: str) -> int:
        """A mutation of this session begins; gives its number."""
        with self._lock:
            counts = self._mutations.setdefault(session_id, [0, 0])
            counts[0] += 1
            counts[1] += 1
            return counts[1]

    def done(self, session_id: str) -> None:
        """It is over."""
        with self._lock:
            counts = self._mutations[session_id]
            counts[0] -= 1
            if not counts[0]:
                del self._mutations[session_id]

    def is_remembered(self, session_id: str, number: int) -> bool:
        """Whether the daemon must still know a mutation's `op`, if it was done."""
        return self._mutations[session_id][1] - number < OPS_REMEMBERED


class Pool:
    """The connections of one store.

    Args:
        places: where to look for the socket; the first that answers is kept to from then on.
        timeout_s: how long a call waits for its reply, seconds.
    """

    def __init__(self, places: Sequence[Candidate], timeout_s: float) -> None:
        self._places = places
        self._timeout_s = timeout_s
        self._by_process: dict[int, Ours] = {}
        self.closed = False

    @property
    def path(self) -> str:
        """The socket of the daemon."""
        return self._places[0].path

    def open(self, wait_s: float) -> None:
        """Connect, trying for so long while the daemon is not there yet.

        Raises:
            NoDaemonError: it never was.
        """
        ours = self._ours()
        ours.idle.append(self._connect(ours, monotonic() + wait_s, Backoff(), self._timeout_s))

    def close(self) -> None:
        """Leave. What is under way in other threads fails with StoreClosedError. May be called twice."""
        self.closed = True
        self._ours().close()

    def _ours(self) -> Ours:
        pid = os.getpid()
        ours = self._by_process.get(pid)
        if ours is None:  # of several threads that come here at once, all get the same
            ours = self._by_process.setdefault(pid, Ours())
            for other in [number for number in self._by_process if number != pid]:
                inherited = self._by_process.pop(other, None)
                if inherited is not None:
                    inherited.abandon()
        return ours

    # -- asking -------------------------------------------------------------------------------------------

    def mutate(self, line: bytes, op_of: str, timeout_s: float | None) -> bytes:
        """Like `exchange`, for a mutation with an `op`: sent again while the daemon can know that it was.

        Args:
            line: the request.
            op_of: the session that remembers it.
            timeout_s: seconds; None for the pool's own.
        """
        ours = self._ours()
        number = ours.begin(op_of)
        try:
            return self.exchange(line, timeout_s, lambda: ours.is_remembered(op_of, number))
        finally:
            ours.done(op_of)
