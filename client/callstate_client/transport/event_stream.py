"""A subscription to the daemon's events, over a connection of its own that resumes where it was lost.

Nothing runs in the background: events are read when they are taken. A subscriber that takes none for a long time is
disconnected by the daemon; it then subscribes again from the last event it took, and gets what it missed, or a gap
if the daemon no longer has it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final

import msgspec
from msgspec import Raw

from callstate_client.errors import CallstateError, ConnectionLostError, InternalError
from callstate_client.protocol.events import Cursor, Event, decode_event
from callstate_client.protocol.framing import LineSplitter
from callstate_client.protocol.messages import decode_incoming, decode_subscribe, encode_request, reply_id
from callstate_client.protocol.params import SubscribeParams
from callstate_client.transport.backoff import CONNECT, REPLY_BYTES, TIMEOUT_S, Backoff
from callstate_client.transport.dial import Attempt
from callstate_client.transport.discovery import Candidate
from callstate_client.transport.nonblocking import Connected, dial

__all__ = ["EventStream"]

_log = logging.getLogger("callstate")

FULL_LINES: Final = 1000
"""Lines that may be queued; then the socket is not read until half of them have been taken."""

SUBSCRIBE_ID: Final = 1
"""Id of the single request on the connection."""


class _Lines(Connected, asyncio.Protocol):
    """The lines of one connection, in order. Those received before it was lost can still be taken."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._splitter = LineSplitter(REPLY_BYTES)
        self._received: deque[bytes | None] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self._lost = False

    def data_received(self, data: bytes) -> None:
        self._received.extend(self._splitter.feed(data))
        if not self._paused and len(self._received) > FULL_LINES and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def line(self) -> bytes:
        """The next line.

        Raises:
            ConnectionLostError: the connection was lost, and all lines have been taken.
            InternalError: the line is longer than a daemon sends.
        """
        while not self._received:
            if self._lost:
                raise ConnectionLostError("the connection was lost")
            self._waiter = self._loop.create_future()
            await self._waiter
        line = self.pop()
        if line is None:
            raise InternalError(f"a line over {REPLY_BYTES} bytes")
        return line

    @property
    def has_line(self) -> bool:
        """Whether a line can be taken."""
        return bool(self._received) and self._received[0] is not None

    def pop(self) -> bytes | None:
        """The first line; None if it is longer than a daemon sends."""
        line = self._received.popleft()
        if self._paused and len(self._received) < FULL_LINES // 2 and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()
        return line

    def leave(self) -> None:
        """Disconnect, which wakes the task that waits for a line."""
        self.transport.abort()

    def leave_soon(self) -> None:
        """Disconnect, from any thread: the garbage collector's."""
        with suppress(RuntimeError):  # the loop is closed, and with it all of its connections
            self._loop.call_soon_threadsafe(self.transport.abort)


class EventStream:
    """Events as they arrive: `async for event in stream`. For one task at a time.

    Nothing is missed from `async with stream` on, or else from the first event that is awaited: after a lost
    connection the stream continues after the last event taken. If the daemon no longer has what came in between,
    because it was restarted or the subscriber was disconnected or slow for too long, there is an event of type
    `gap`. The stream ends when it is closed.

    Args:
        places: where to look for the daemon's socket.
        types: of the events; none: all types but `turn`.
        since: the last event seen; later ones that the daemon still keeps come first.
        worker_id: leave out what workers other than this one do with their own sessions; None: leave out nothing.
        timeout_s: how long the daemon may take to answer before another connection is tried, seconds.
    """

    def __init__(
        self,
        places: Sequence[Candidate],
        types: Sequence[str] = (),
        since: Cursor | None = None,
        *,
        worker_id: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._places = places
        self._types = [*types] or None
        self._worker_id = worker_id
        self._timeout_s = timeout_s
        self._backoff = Backoff(CONNECT)
        self._closing = asyncio.Event()
        self._lines: _Lines | None = None
        self._subscribed = False
        self.cursor = since
        """The last event taken, or the position that events are read from; None before subscribing."""

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._closing.is_set()

    # -- opening and closing -------------------------------------------------------------------------------

    async def open(self) -> None:
        """Return once subscribed, however long that takes.

        Raises:
            InvalidParamsError: there is no such type, or `since` is beyond the last event.
            MethodNotFoundError: the daemon is too old to have events.
            InternalError: what listens there is not callstated.
        """
        while not (self._subscribed or self.closed):
            delay_s = self._backoff.pause_s()
            if delay_s:
                with suppress(TimeoutError):
                    async with asyncio.timeout(delay_s):
                        await self._closing.wait()
            if not self.closed:
                await self._attempt()

    def close(self) -> None:
        """End the stream; a task that waits for an event gets none. May be called twice."""
        self._closing.set()
        self._hang_up()

    async def aclose(self) -> None:
        """As `close()`; for `contextlib.aclosing`."""
        self.close()

    async def __aenter__(self) -> EventStream:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # `async for` does not close an iterator that it leaves by `break`
        if self._lines is not None:
            self._lines.leave_soon()

    def forked(self) -> None:
        """In a child: the connection belongs to the parent, and the stream ends."""
        self._lines = None
        self._closing.set()

    def _hang_up(self) -> None:
        lines, self._lines = self._lines, None
        self._subscribed = False
        if lines is not None:
            lines.leave()

    # -- subscribing ----------------------------------------------------------------------------------------

    async def _attempt(self) -> None:
        """Try to connect and subscribe once. After a transient failure the stream is not connected."""
        found = await dial(Attempt(self._places), _Lines)
        if found is None:
            return
        lines = self._lines = found[0]
        if self.closed:  # meanwhile
            self._hang_up()
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._subscribe(lines)
        except BaseException as error:
            self._hang_up()
            if not isinstance(error, TimeoutError) and not (isinstance(error, CallstateError) and error.retryable):
                raise
            _log.debug("no events yet: %s", str(error) or "no answer in time")

    async def _subscribe(self, lines: _Lines) -> None:
        since = None if self.cursor is None else self.cursor.since()
        params = SubscribeParams(types=self._types, since=since, worker_id=self._worker_id)
        lines.transport.write(encode_request(SUBSCRIBE_ID, "events.subscribe", params))
        while reply_id(line := await lines.line()) != SUBSCRIBE_ID:
            _read(line)
        result = decode_subscribe(line)
        if self.cursor is None:
            self.cursor = Cursor(result.stream, result.seq)
        self._subscribed = True

    # -- events ---------------------------------------------------------------------------------------------

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        """The next event, however long it takes.

        Raises:
            StopAsyncIteration: the stream is closed.
            InvalidParamsError, MethodNotFoundError, InternalError: see `open()`.
        """
        while True:
            await self.open()
            lines = self._lines
            if lines is None:
                raise StopAsyncIteration
            try:
                event = _read(await lines.line())
            except ConnectionLostError:
                self._hang_up()
            except InternalError:
                self._hang_up()
                raise
            else:
                if event is not None:
                    return self._taken(event)

    def take(self) -> Event | None:
        """The next event if one has been received, else None.

        Raises:
            InternalError: what was received is not an event.
        """
        while self._subscribed and self._lines is not None and self._lines.has_line:
            event = _read(self._lines.pop() or b"")
            if event is not None:
                return self._taken(event)
        return None

    def _taken(self, event: Event) -> Event:
        self.cursor = event.cursor
        self._backoff.reset()
        return event


def _read(line: bytes) -> Event | None:
    """The event in a line; None if it is something else.

    Raises:
        InternalError: callstated would not send that.
    """
    try:
        incoming = decode_incoming(line)
        if incoming.method == "event" and isinstance(incoming.params, Raw):
            return decode_event(incoming.params)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InternalError(f"an event that can't be read: {error}") from error
    if incoming.error is not None:  # such as that we read too slowly, before it disconnects us
        _log.warning("the daemon: %s", incoming.error.message)
    return None
