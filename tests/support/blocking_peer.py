"""A peer at the other end of a Unix socket, as which the test plays the daemon line by line, without a loop."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from callstate_client.errors import WireError

WITHIN_S = 20.0


class Side:
    """The peer's end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(WITHIN_S)
        self.socket = connection
        self._lines = connection.makefile("rb")

    def line(self) -> bytes:
        """The next request's line."""
        return self._lines.readline()

    def request(self) -> dict[str, Any]:
        """The next request."""
        request: dict[str, Any] = json.loads(self.line())
        return request

    def send(self, data: bytes) -> None:
        """Write this."""
        self.socket.sendall(data)

    def reply(self, result: Any, request_id: int = 1) -> None:
        """Answer a request."""
        self.send(b'{"jsonrpc":"2.0","id":%d,"result":%b}\n' % (request_id, compact(result)))

    def refuse(self, error: WireError) -> None:
        """Answer a request with an error."""
        self.send(b'{"jsonrpc":"2.0","id":1,"error":%b}\n' % compact(error.to_wire()))

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self.socket.close()


def compact(value: Any) -> bytes:
    """JSON as the daemon writes it."""
    return json.dumps(value, separators=(",", ":")).encode()


class Peer:
    """Listens where the test says; the test plays the daemon.

    Args:
        path: of the socket.
        says: the result with which a thread answers `server.info`, the first request of each pooled connection;
            None: the test answers it.
    """

    def __init__(self, path: Path, says: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.says = says
        self._sides: list[Side] = []
        self.start()

    def start(self) -> None:
        """Start to listen."""
        self._welcome: Queue[Side | None] = Queue()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.settimeout(WITHIN_S if self.says is None else None)
        self.listener.bind(str(self.path))
        self.listener.listen(64)
        if self.says is not None:
            Thread(target=self._greet, args=(self.listener, self._welcome), daemon=True).start()

    def _greet(self, listener: socket.socket, welcome: Queue[Side | None]) -> None:
        with contextlib.suppress(OSError):  # stopped
            while True:
                side = Side(listener.accept()[0])
                self._sides.append(side)
                if b'"server.info"' in side.line():
                    side.reply(self.says)
                    welcome.put(side)

    def accept(self, timeout_s: float = WITHIN_S) -> Side:
        """The next connection.

        Raises:
            TimeoutError: there was none in time.
        """
        if self.says is not None:
            try:
                welcome = self._welcome.get(timeout=timeout_s)
            except Empty:
                raise TimeoutError from None
            if welcome is None:
                raise ConnectionAbortedError("stopped")
            return welcome
        side = Side(self.listener.accept()[0])
        self._sides.append(side)
        return side

    def stop(self) -> None:
        """Close the socket and all connections; a waiting `accept` raises."""
        self._welcome.put(None)
        with contextlib.suppress(OSError):  # stopped already
            self.listener.shutdown(socket.SHUT_RDWR)  # close() alone does not wake a thread in accept()
        self.listener.close()
        while self._sides:
            self._sides.pop().close()
        self.path.unlink(missing_ok=True)
