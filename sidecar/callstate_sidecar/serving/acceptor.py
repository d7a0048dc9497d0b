"""Accepting connections, a few in one turn of the loop; clients without a place are refused right away.

Event loops accept all that wait at once, and make a transport of each. A burst of clients could then take all
descriptors before a single one was refused, and uvloop closes connections silently when there are none left. Here
a refused client costs one descriptor for a moment: it is told why, and closed. If there really are no descriptors,
one that is kept for this is used to tell the client so.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from callstate_client.engine.request import NULL_ID, error_line
from callstate_client.engine.user import User
from callstate_client.errors import OverloadedError, WireError
from callstate_sidecar.access.peer import peer_user
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.serving.connection import ClientConnection
from callstate_sidecar.serving.listener import BACKLOG

log = EventLog(__name__)

AT_ONCE: Final = 16
"""Connections accepted in one turn of the loop, each some 0.1 ms, and on their way to a place or a refusal."""

SETTLING_TURNS: Final = 4
"""Turns of the loop that a client waits before it is refused: others may have hung up before it connected, which
the loop has yet to read."""

NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Why accept(2) fails for want of something of the system's."""

PAUSE_S: Final = 0.1
"""How long nothing is accepted after that, seconds: else the loop would spin."""


class Acceptor:
    """Accepts the connections of one listening socket.

    Args:
        listening: the socket, which `close` closes.
        serve: makes the protocol of a connection.
        refusal: why a client is not served, or None; gets who connected, and how many accepted connections will
            take a place before it does.
        refused: is told of a refusal, and returns its line.
    """

    def __init__(
        self,
        listening: socket.socket,
        serve: Callable[[], ClientConnection],
        refusal: Callable[[User, int], WireError | None],
        refused: Callable[[WireError], bytes],
    ) -> None:
        self._listening = listening
        self._serve = serve
        self._refusal = refusal
        self._refused = refused
        self._connecting = 0
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._spare_fd = os.dup(self._listening.fileno())
        listening.setblocking(False)
        listening.listen(BACKLOG)  # one that systemd passed has its backlog
        self._loop.add_reader(listening.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more. Further clients are refused by the kernel, or wait for the next daemon if systemd has the
        socket."""
        self._loop.remove_reader(self._listening.fileno())
        if self._pause is not None:
            self._pause.cancel()
        self._listening.close()
        os.close(self._spare_fd)

    def _accept(self) -> None:
        for _ in range(AT_ONCE - len(self._opening)):
            try:
                accepted, _address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in NO_DESCRIPTORS:
                    raise
                self._refuse_without_descriptors(error)
                return
            self._take(accepted)

    def _take(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        task = self._loop.create_task(self._open(accepted), name="callstated-accept")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, accepted: socket.socket) -> None:
        turns = 0
        while (refusal := self._refusal(peer_user(accepted), self._connecting)) is not None:
            if (turns := turns + 1) > SETTLING_TURNS or not isinstance(refusal, OverloadedError):
                _hang_up(accepted, self._refused(refusal))
                return
            await asyncio.sleep(0)
        self._connecting += 1
        try:
            await self._loop.connect_accepted_socket(self._serve, accepted)
        except OSError as error:
            accepted.close()
            log.error("accept_failed", "no connection can be accepted: %s", error)
        finally:
            self._connecting -= 1

    def _refuse_without_descriptors(self, error: OSError) -> None:
        """Tell one client that waits, and look again in a while."""
        log.error("accept_failed", "no connection can be accepted: %s", error)
        os.close(self._spare_fd)
        with suppress(OSError):
            refused = OverloadedError(f"the daemon can't accept a connection: {os.strerror(error.errno or 0)}")
            _hang_up(self._listening.accept()[0], error_line(NULL_ID, refused))
        self._spare_fd = os.dup(self._listening.fileno())
        self._loop.remove_reader(self._listening.fileno())
        self._pause = self._loop.call_later(PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listening.fileno(), self._accept)


def _hang_up(accepted: socket.socket, line: bytes) -> None:
    """Send a line that fits any socket's buffer, and hang up."""
    with accepted, suppress(OSError):
        accepted.setblocking(False)
        accepted.send(line)
