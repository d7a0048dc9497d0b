"""Blocking sockets: connecting to the daemon, and one connection for one request at a time."""

from __future__ import annotations

import os
import socket as sockets
import struct
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final

from callstate_client.errors import CallstateError
from callstate_client.transport import fork_safety
from callstate_client.transport.backoff import REPLY_BYTES
from callstate_client.transport.dial import Attempt, handshake
from callstate_client.transport.discovery import Candidate
from callstate_client.transport.identity import Identity

REQUEST_ID: Final = 1
"""Id of every request: a connection has one pending request and is closed when that fails, so no reply can belong
to another one, and a request's line can be encoded once and sent many times."""

REPLY_HEADS: Final = (b'{"jsonrpc":"2.0","id":1,', b'{"jsonrpc":"2.0","id":null,')
"""How a reply begins. One without an id is about a line that could not be read: the one just sent."""

FIRST_READ_BYTES: Final = 16 * 1024
"""Size of the first read, bytes: all but long histories fit, and a larger buffer costs more."""

READ_BYTES: Final = 256 * 1024
"""Size of each further read, bytes: what a Unix socket holds."""

LONGEST_S: Final = 10 * 365 * 86400.0
"""Longest timeout, seconds: ten years, which any platform's timeval can hold."""

SHORTEST_S: Final = 0.001
"""Shortest timeout, seconds: a timeval of zero means no timeout."""


class NoReplyError(ConnectionError):
    """What was received is not a reply: the peer is not callstated."""


class BlockingConnection:
    """One connection, for one request at a time.

    The timeout is the kernel's (SO_RCVTIMEO, SO_SNDTIMEO; socket(7)), since Python's own adds a poll to each call.
    If something has made the descriptor non-blocking, as gevent and eventlet do, it is Python's.

    Args:
        socket: a Unix stream socket.
    """

    __slots__ = ("__weakref__", "_limit_s", "_recv", "_send", "_socket")

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
            until: the same as a time of the monotonic clock.

        Raises:
            TimeoutError: it took longer.
            NoReplyError: something else was received.
            BrokenPipeError: the daemon closed the connection before it had the whole line.
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

    def refusal(self) -> bytes:
        """Why the daemon has hung up without reading a request: its error line; empty if it did not say."""
        with suppress(OSError):
            line = self._recv(FIRST_READ_BYTES)
            return line if line.startswith(REPLY_HEADS[1]) and line.endswith(b"\n") else b""
        return b""

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
        """Wake the thread that waits for a reply on it."""
        try:
            self._socket.shutdown(sockets.SHUT_RDWR)
        except OSError:  # lost already, or never connected
            return

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()


def dial(
    attempt: Attempt,
    identity: Identity | None,
    timeout_s: float,
    opened: Callable[[BlockingConnection], None] = lambda _: None,
) -> tuple[BlockingConnection, Candidate] | None:
    """Connect to the first place that answers; None if none does, and `attempt` says why.

    Args:
        attempt: the places to try.
        identity: the worker to register the connection for; None: none.
        timeout_s: how long each place may take to be connected, and again for the handshake, seconds.
        opened: called with each connection before it is connected, so that another thread can interrupt it.
    """
    for place in attempt:
        connection = BlockingConnection(fork_safety.unix_socket())
        try:
            opened(connection)
            connection.connect(place.path, timeout_s)
            _greet(connection, identity, timeout_s)
        except BaseException as error:
            connection.close()
            if not isinstance(error, OSError | CallstateError):
                raise
            attempt.failed(place, error)
        else:
            return connection, place
    return None


def _greet(connection: BlockingConnection, identity: Identity | None, timeout_s: float) -> None:
    """See `dial.handshake`."""
    until = monotonic() + timeout_s
    dialogue = handshake(identity, REQUEST_ID)
    line = next(dialogue)
    while True:
        try:
            reply = connection.exchange(line, until - monotonic(), until)
        except BrokenPipeError:
            if not (reply := connection.refusal()):
                raise
        try:
            line = dialogue.send(reply)
        except StopIteration:
            return
