"""A daemon that was away beyond its lease compares its sessions with the store before it serves.

It was stopped or suspended, and its sessions may be another host's by now. Nobody tells a process that it was
stopped, and what clients sent meanwhile is read first; so each connection asks here, before it serves lines, by a
clock that goes on during suspend. While the store does not answer, the daemon serves: it was not away then, and
what it acknowledges is set aside if another host turns out to have the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from callstate_client.engine.sessions.stored import StoreError
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.serving.connection import ClientConnection

log = EventLog(__name__)

HOLD_S: Final = 5.0
"""How long requests wait for the comparison, which goes on meanwhile if there are very many sessions."""


class AbsenceGate:
    """Holds requests back after an absence.

    Args:
        lease_s: `store.host_lease_s`.
        compare: gives up the sessions that other hosts have taken.
        since_boot: seconds, from a clock that goes on during suspend.
    """

    def __init__(
        self, lease_s: float, compare: Callable[[], Awaitable[None]], since_boot: Callable[[], float]
    ) -> None:
        self._lease_s = lease_s
        self._compare = compare
        self._since_boot = since_boot
        self._present_at = since_boot()
        self._waiting: dict[ClientConnection, None] = {}
        self._comparing: asyncio.Task[None] | None = None

    def present(self) -> None:
        """Note that the daemon is running; to be called several times per lease."""
        if self._comparing is None and not self._is_back():
            self._present_at = self._since_boot()

    def _is_back(self) -> bool:
        """Whether it was away, and has not compared its sessions since."""
        return self._since_boot() - self._present_at > self._lease_s

    def holds(self, connection: ClientConnection) -> bool:
        """Whether this connection has to wait; it is served when the comparison is done."""
        if self._comparing is None:
            if self._since_boot() - self._present_at <= self._lease_s:  # `_is_back`, for each request
                return False
            self._begin()
        self._waiting[connection] = None
        return True

    def _begin(self) -> None:
        away_s = self._since_boot() - self._present_at
        log.warning("daemon_away", "the daemon was away for %.1f s; comparing its sessions", away_s)
        self._comparing = asyncio.get_running_loop().create_task(self._run(), name="callstated-absence")

    async def _run(self) -> None:
        try:
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(HOLD_S):
                    await self._compare()
        finally:
            self._present_at, self._comparing = self._since_boot(), None
            waiting, self._waiting = self._waiting, {}
            for connection in waiting:
                connection.serve_soon()
