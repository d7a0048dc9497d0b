"""A peer at the other end of a Unix socket that does what the test says, also what no real daemon would."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from callstate_client.errors import WireError

GREETINGS = tuple(
    b'{"jsonrpc":"2.0","id":0,"method":"%b"' % method for method in (b"worker.register", b"server.info")
)
"""How the first request of each connection begins."""


class ScriptedPeer:
    """Listens, and queues what it reads in `received` and new connections in `connections`."""

    def __init__(self, path: Path, *, registers: bool = True) -> None:
        self.path = path
        self.registers = registers
        """Answer the greeting of each client, and leave it out of `received`."""
        self.received: asyncio.Queue[bytes] = asyncio.Queue()
        """The data of each read."""
        self.connections: asyncio.Queue[asyncio.Transport] = asyncio.Queue()
        self.gone: asyncio.Queue[None] = asyncio.Queue()
        """One item per connection that was closed, by either side."""
        self._open: list[asyncio.Transport] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Start to listen."""
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Side(self), str(self.path))

    async def stop(self) -> None:
        """Close all connections and the socket."""
        self.hang_up()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None
        self.path.unlink(missing_ok=True)

    def hang_up(self) -> None:
        """Close all connections."""
        while self._open:
            self._open.pop().close()

    async def requests(self, count: int) -> list[dict[str, Any]]:
        """The next requests."""
        lines: list[bytes] = []
        while len(lines) < count:
            lines += (await self.received.get()).splitlines()
        assert len(lines) == count
        return [json.loads(line) for line in lines]

    def send(self, data: bytes) -> None:
        """Write to the newest connection."""
        self._open[-1].write(data)

    def reply(self, request: dict[str, Any], result: Any) -> None:
        """Answer a request."""
        reply = {"jsonrpc": "2.0", "id": request["id"], "result": result}
        self.send(json.dumps(reply, separators=(",", ":")).encode() + b"\n")

    def refuse(self, request: dict[str, Any], error: WireError) -> None:
        """Answer a request with an error."""
        reply = {"jsonrpc": "2.0", "id": request["id"], "error": error.to_wire()}
        self.send(json.dumps(reply, separators=(",", ":")).encode() + b"\n")


class _Side(asyncio.Protocol):
    def __init__(self, peer: ScriptedPeer) -> None:
        self._peer = peer

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._peer._open.append(transport)
        self._peer.connections.put_nowait(transport)

    def data_received(self, data: bytes) -> None:
        while self._peer.registers and data.startswith(GREETINGS):
            line, _, data = data.partition(b"\n")
            greeting = json.loads(line)
            self._answer({"protocol": 1} if "params" not in greeting else {**greeting["params"], "drain": False})
        if data:
            self._peer.received.put_nowait(data)

    def _answer(self, result: dict[str, Any]) -> None:
        reply = {"jsonrpc": "2.0", "id": 0, "result": result}
        self._transport.write(json.dumps(reply, separators=(",", ":")).encode() + b"\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self._peer.gone.put_nowait(None)
