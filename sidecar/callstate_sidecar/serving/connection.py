"""One connection: bytes in, lines to the server, replies out, and bounds on both."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, cast

from callstate_client.protocol.framing import (
    LineSplitter,
)

if TYPE_CHECKING:
    from callstate_sidecar.serving.server import Server

LINES_A_TURN: Final = 8
"""Lines of one connection served in one turn of the loop; then others have theirs, and the replies leave: a client
with many requests under way reads the first while the next are served, and both processors are at work. Fewer would
make too many groups and writes of them."""

LOW_WATER_SHARE: Final = 4
"""Served again when unsent replies are down to this part of `limits.pending_reply_bytes`. uvloop's own low mark
is 16 bytes."""

HANG_UP_S: Final = 10.0
"""How long a connection that was closed may take to read the rest."""

MAX_WAITING: Final = 1000
"""Requests of one connection that may wait for the store or a flush at a time; then it is not read from."""


class Connection(asyncio.Protocol):
    """One client. Lines that can't be served now (its turn is over, it does not read) wait here, and while
    any waits the socket is not read from: the kernel's buffers push back on the client."""

    __slots__ = (
        "_backlog", "_blocked", "_ended", "_loop", "_paused_reading", "_pending_bytes", "_scheduled", "_server",
        "_splitter", "closing", "instance", "line_bytes", "out", "out_bytes", "told_timeout_s", "transport",
        "waiting", "worker",
    )  # fmt: skip

    def __init__(self, server: Server, line_bytes: int) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._splitter = LineSplitter(line_bytes)
        self.line_bytes = line_bytes
        self._pending_bytes = server.limits.pending_reply_bytes
        self._backlog: deque[bytes | None] = deque()
        self._blocked = False
        self._ended = False
        self._scheduled = False
        self._paused_reading = False
        self.out: list[bytes] = []
        self.out_bytes = 0
        self.waiting = 0
        self.closing = False
        self.worker = ""
        """The worker it is registered as; empty for none."""
        self.instance = ""
        """Which store of the worker it is of; empty where it did not say."""
        self.told_timeout_s = 0.0
        """The default timeout that `server.info` has told it, seconds; 0: it was not told."""
        self.transport: asyncio.Transport | None = None

    # -- asyncio.Protocol -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is there."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=self._pending_bytes, low=self._pending_bytes // LOW_WATER_SHARE)
        self._server.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone; half a line goes with it."""
        self.transport = None
        self._backlog.clear()
        self._server.disconnected(self)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came."""
        lines = self._splitter.feed(data)
        if lines:
            self._backlog.extend(lines)
            if not self._scheduled:
                self._serve()

    def eof_received(self) -> bool:
        """asyncio: no more requests come (`printf … | nc -U`); those that came are answered before we hang up."""
        self._ended = True
        self._read_or_not()
        return True

    def pause_writing(self) -> None:
        """asyncio: the client does not read its replies."""
        self._blocked = True

    def resume_writing(self) -> None:
        """asyncio: the client reads again."""
        self._blocked = False
        self.serve_soon()

    # -- serving --------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Serve lines until there are none, the turn is over, or the client has to read or wait first."""
        self._scheduled = False
        left = LINES_A_TURN
        backlog = self._backlog
        while backlog and left and not self._blocked and not self.closing:
            if self.out_bytes > self._pending_bytes or self.waiting >= MAX_WAITING:
                break
            self._server.handle(self, backlog.popleft())
            left -= 1
        if backlog and not left:
            self.serve_soon()
        self._read_or_not()

    @property
    def unsent_bytes(self) -> int:
        """Replies that the client has not taken."""
        return self.out_bytes + (self.transport.get_write_buffer_size() if self.transport else 0)

    def serve_soon(self) -> None:
        """Go on serving in the next turn of the loop."""
        if self._backlog or self._ended:
            if not self._scheduled:
                self._scheduled = True
                self._loop.call_soon(self._serve)
        else:
            self._read_or_not()

    def _read_or_not(self) -> None:
        """Read from the socket only while nothing waits here; hang up when nothing can come any more."""
        if self._ended:
            done = not (self._backlog or self.waiting or self.out_bytes)
            if done and self.transport is not None:
                self.transport.close()
            return
        pause = bool(self._backlog)
        if pause is self._paused_reading or self.transport is None or self.transport.is_closing():
            return
        self._paused_reading = pause
        if pause:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def send(self, reply: bytes) -> int:
        """Queue a reply for the end of this turn of the loop; gives its place among those queued."""
        out = self.out
        if not out:
            self._server.turn.touched(self)
        out.append(reply)
        self.out_bytes += len(reply)
        return len(out) - 1

    def replace(self, place: int, reply: bytes) -> None:
        """Send this in place of a queued reply."""
        self.out_bytes += len(reply) - len(self.out[place])
        self.out[place] = reply

    def take(self) -> bytes:
        """What is queued, as one piece of bytes to `release` when it may leave."""
        data = self.out[0] if len(self.out) == 1 else b"".join(self.out)
        self.out = []
        return data

    def release(self, data: bytes) -> None:
        """Write what was taken, all in one go."""
        self.out_bytes -= len(data)
        if self.transport is not None and data:
            self.transport.write(data)
            if self._ended or (self._backlog and not self._blocked):
                self.serve_soon()
        if self.closing and not self.out_bytes:
            self._hang_up()

    def flush(self) -> None:
        """Write what is queued."""
        self.release(self.take())

    def close(self) -> None:
        """Serve no more, and hang up when what is queued has left: as all replies do, with their group."""
        self.closing = True
        if not self.out_bytes:
            self._hang_up()

    def _hang_up(self) -> None:
        """Close, in a while also on a client that does not read the rest."""
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.close()
            self._loop.call_later(HANG_UP_S, transport.abort)
