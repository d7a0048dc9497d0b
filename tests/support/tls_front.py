"""TLS in front of a server's Unix socket: the wheel's Valkey is built without it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from support.certificates import Certificates


@asynccontextmanager
async def tls_front(socket: Path, certificates: Certificates, *, client_certificates: bool) -> AsyncIterator[int]:
    """Serve a Unix socket over TLS on a port of 127.0.0.1, which this gives.

    Args:
        client_certificates: refuse clients that have none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.server_key)
    if client_certificates:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates.authority)
    joined: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, asking = await asyncio.open_unix_connection(socket)
        for source, sink in ((reader, asking), (answers, writer)):
            joined.add(asyncio.ensure_future(_copy(source, sink)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in joined:
            task.cancel()
        await asyncio.gather(*joined, return_exceptions=True)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        finally:
            sink.close()
            await sink.wait_closed()
