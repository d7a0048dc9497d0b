"""One blocking connection to the daemon."""

from __future__ import annotations

import os
import socket as sockets
import struct
from time import monotonic
from typing import Final

from callstate_client.transport.backoff import REPLY_BYTES

REQUEST_ID: Final = 1
"""Of every request: a connection has one under way and is left when that fails, so no reply can be another's,
and a line may be made once and sent often."""

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


class NoReplyError(ConnectionError):
    """What came is no reply; the peer is no callstated."""


class BlockingConnection:
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
            NoReplyError: something else came.
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
            reply = self._recv(FIRST_READ_BYTES)
            end = reply.find(b"\n") + 1
            if not end:
                reply = self._rest(reply, until)
                end = reply.find(b"\n") + 1
        except BlockingIOError as error:
            raise TimeoutError from error
        if end == len(reply) and reply.startswith(REPLY_HEADS):
            return reply
        raise NoReplyError(repr(reply[:40]))

    def _rest(self, data: bytes, until: float) -> bytes:
        parts = [data]
        size = len(data)
        while not data.endswith(b"\n"):
            if not data:
                raise ConnectionResetError("closed")
            if size > REPLY_BYTES:
                raise NoReplyError(f"over {REPLY_BYTES} bytes")
            self._limit(until - monotonic())
            data = self._recv(READ_BYTES)
            parts.append(data)
            size += len(data)
        return b"".join(parts)

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
