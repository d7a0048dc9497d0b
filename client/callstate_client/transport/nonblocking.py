"""Sockets on an event loop: connecting to the daemon, and the lines of one connection."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol, TypeVar, cast

from callstate_client.errors import CallstateError, ConnectionLostError
from callstate_client.protocol.framing import LineBuffer
from callstate_client.transport import fork_safety
from callstate_client.transport.backoff import REPLY_BYTES
from callstate_client.transport.dial import Attempt, Greeting, handshake
from callstate_client.transport.discovery import Candidate
from callstate_client.transport.identity import Identity

WRITE_HIGH_BYTES: Final = 1024 * 1024
WRITE_LOW_BYTES: Final = 256 * 1024
"""Unsent bytes at which writing pauses and resumes. Both are set: uvloop's own low mark is 16 bytes."""

REFUSAL_BYTES: Final = 4096
"""Longest refusal of a connection, bytes."""

HANDSHAKE_ID: Final = 0
"""Id of the requests of a handshake; other requests are numbered from 1."""

ProtocolT = TypeVar("ProtocolT", bound="Connected")


class Connected(asyncio.BaseProtocol):
    """A protocol that has its transport once it is connected."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)


async def _nothing(_: object) -> None:
    return


async def dial(
    attempt: Attempt,
    factory: Callable[[], ProtocolT],
    greet: Callable[[ProtocolT], Awaitable[None]] = _nothing,
) -> tuple[ProtocolT, Candidate] | None:
    """Connect to the first place that answers; None if none does, and `attempt` says why.

    Args:
        attempt: the places to try.
        factory: creates a connection's protocol.
        greet: has to succeed on a connection before that is used; fails with a CallstateError or OSError.
    """
    loop = asyncio.get_running_loop()
    for place in attempt:
        protocol = None
        try:
            made = fork_safety.connected(place.path)
            _, protocol = await loop.create_unix_connection(factory, sock=made)
            await greet(protocol)
        except BaseException as error:
            if protocol is not None:
                protocol.transport.abort()
            if not isinstance(error, OSError | CallstateError):
                raise
            attempt.failed(place, error)
        else:
            return protocol, place
    return None


class Owner(Protocol):
    """Gets what happens to the connection of a LineProtocol."""

    def received(self, source: LineProtocol, lines: list[bytes | None]) -> None:
        """These lines were received; None stands for one over REPLY_BYTES."""
        ...

    def writable(self) -> None:
        """Writing may continue after a pause."""
        ...

    def lost(self, source: LineProtocol, error: Exception | None) -> None:
        """The connection was lost."""
        ...


class LineProtocol(Connected, asyncio.BufferedProtocol):
    """One connection: splits what is received into lines, for the handshake at first, then for the owner.

    The owner also gets lines of a connection that it has left; it can tell by their source, the protocol.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._buffer = LineBuffer(REPLY_BYTES)
        self._reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        """Waits for the next line, the reply to a request of the handshake; or a refusal, which may be there before
        anything was sent."""
        self.may_write = True

    async def handshake(self, identity: Identity | None, timeout_s: float) -> Greeting:
        """See `dial.handshake`.

        Raises:
            CallstateError: the daemon refuses this worker, or the connection was lost.
            TimeoutError: it did not answer within `timeout_s`, seconds.
        """
        dialogue = handshake(identity, HANDSHAKE_ID)
        line = next(dialogue)
        async with asyncio.timeout(timeout_s):
            while True:
                if not self._reply.done():
                    self.transport.write(line)
                try:
                    line = dialogue.send(await self._reply)
                except StopIteration as done:
                    greeting: Greeting = done.value
                    return greeting
                self._reply = asyncio.get_running_loop().create_future()
                if self.transport.is_closing():
                    raise ConnectionLostError("the connection was lost")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer.view

    def buffer_updated(self, nbytes: int) -> None:
        lines = self._buffer.cut(nbytes)
        if not self._reply.done():
            if lines:
                self._reply.set_result(lines[0] or b"")
            return
        self._owner.received(self, lines)

    def pause_writing(self) -> None:
        self.may_write = False

    def resume_writing(self) -> None:
        self.may_write = True
        self._owner.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._reply.done():
            refusal = self._left_unread() if exc is not None else b""
            if refusal:
                self._reply.set_result(refusal)
            else:
                self._reply.set_exception(ConnectionLostError("the connection was lost"))
                self._reply.exception()  # nobody may be waiting for it: not to be reported as never retrieved
        self._owner.lost(self, exc)

    def _left_unread(self) -> bytes:
        """The line that was received before a write failed: a daemon that refuses a client says why, and hangs up
        without reading, so that the first write may fail before the loop has read the reason."""
        with suppress(OSError):
            return os.read(self.transport.get_extra_info("socket").fileno(), REFUSAL_BYTES).partition(b"\n")[0]
        return b""
