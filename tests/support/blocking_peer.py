"""A peer at the other end of a Unix socket, of which a test plays the daemon's part line by line; no loop."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
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
    """As the daemon writes it."""
    return json.dumps(value, separators=(",", ":")).encode()


class Peer:
    """Listens where the test says; the test plays the daemon."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sides: list[Side] = []
        self.start()

    def start(self) -> None:
        """Listen from now on."""
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.settimeout(WITHIN_S)
        self.listener.bind(str(self.path))
        self.listener.listen(64)

    def accept(self) -> Side:
        """The next connection."""
        side = Side(self.listener.accept()[0])
        self._sides.append(side)
        return side

    def stop(self) -> None:
        """Be gone, with all connections."""
        with contextlib.suppress(OSError):  # stopped already
            self.listener.shutdown(socket.SHUT_RDWR)  # close() alone does not wake who accepts
        self.listener.close()
        while self._sides:
            self._sides.pop().close()
        self.path.unlink(missing_ok=True)
