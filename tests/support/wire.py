"""A raw client for tests: it sends bytes and reads lines, with nothing between the test and the socket."""

from __future__ import annotations

import itertools
import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support import privacy

ANSWERED_WITHIN_S = 20.0


class Refused(Exception):  # noqa: N818 - a reply, not a fault of the test
    """An error reply.

    Args:
        error: its `error` member.
    """

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']} {error['message']} {error['data']}")
        self.code: int = error["code"]
        self.kind: str = error["data"]["kind"]
        self.data: dict[str, Any] = error["data"]
        self.message: str = error["message"]


class Wire:
    """One connection.

    Args:
        path: the daemon's socket.
        timeout_s: longest wait for anything.
        connected: a connection that somebody else has made; None: make one.
    """

    def __init__(
        self, path: Path, timeout_s: float = ANSWERED_WITHIN_S, connected: socket.socket | None = None
    ) -> None:
        self.socket = connected or socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout_s)
        if connected is None:
            self.socket.connect(str(path))
        self._path = path
        self._lines = self.socket.makefile("rb")
        self._ids = itertools.count(1)

    def send(self, data: bytes) -> None:
        """Send exactly these bytes."""
        privacy.sent(self._path, data)
        self.socket.sendall(data)

    def line(self) -> bytes:
        """The next line, newline included; empty if the daemon has closed the connection."""
        return self._lines.readline()

    def reply(self) -> dict[str, Any]:
        """The next line, which must be a well-formed message."""
        line = self.line()
        assert line.endswith(b"\n"), f"no whole line: {line[:200]!r}"
        reply: dict[str, Any] = json.loads(line)
        assert reply["jsonrpc"] == "2.0"
        forms = ({"jsonrpc", "id", "result"}, {"jsonrpc", "id", "error"}, {"jsonrpc", "method", "params"})
        assert reply.keys() in forms, reply
        return reply

    def ask(self, line: bytes) -> dict[str, Any]:
        """Send a line, and return the reply."""
        self.send(line + b"\n")
        return self.reply()

    def refusal(self, line: bytes) -> dict[str, Any]:
        """Send a line, and return the `error` of the reply, with its id."""
        reply = self.ask(line)
        assert "error" in reply, f"not refused: {line[:200]!r}: {reply}"
        error: dict[str, Any] = reply["error"] | {"id": reply["id"]}
        return error

    def call(self, method: str, **params: Any) -> Any:
        """Send a request, and return its result.

        Raises:
            Refused: the reply is an error.
        """
        request_id = next(self._ids)
        self.send(request(request_id, method, params))
        reply = self.reply()
        assert reply["id"] == request_id
        if "error" in reply:
            raise Refused(reply["error"])
        return reply["result"]

    def document(self, session_id: str) -> bytes:
        """The line with the loaded session, to compare before and after."""
        self.send(request(0, "session.load", {"session_id": session_id}))
        line = self.line()
        assert b'"result"' in line, line
        return line

    def at_eof(self) -> bool:
        """Whether the daemon closes the connection before it sends another line."""
        return self.line() == b""

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def request(request_id: int | None, method: str, params: dict[str, Any]) -> bytes:
    """A request line; a notification if there is no id."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    if request_id is not None:
        message["id"] = request_id
    return json.dumps(message).encode() + b"\n"
