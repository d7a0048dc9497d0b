"""The lower limit: a server that only sends lines back, `python -m bench.echo SOCKET`.

It splits the input into lines and joins them again, the least that any server of this protocol has to do.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop


class Echo(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: a client has connected."""
        self._transport = cast(asyncio.Transport, transport)
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes have arrived; complete lines are sent back."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if lines:
            lines.append(b"")
            self._transport.write(b"\n".join(lines))


async def serve(path: str) -> None:
    """Serve until cancelled."""
    server = await asyncio.get_running_loop().create_unix_server(Echo, path)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
