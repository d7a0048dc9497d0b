"""MemoryStore: the whole client API without a daemon, for tests and for trying things out."""

from __future__ import annotations

from callstate_client import asks, protocol
from callstate_client.api import CallStore
from callstate_client.clock import Clock
from callstate_client.engine import Engine
from callstate_client.errors import StoreClosedError
from callstate_client.shelf import Shelf

__all__ = ["Clock", "MemoryStore"]


class MemoryStore(CallStore):
    """Keeps the state of calls in this process, with the daemon's rules and in the daemon's words.

    What goes in and comes out is copied; nothing is shared with the caller. There is no store behind, so an
    ended session is gone after its retention. Works in any loop, and by `clock.advance()` in any time.

    Args:
        clock: tells the time; default the system's, which can be moved on.
        heartbeat_timeout_s: silence after which a session without a timeout of its own is suspected.
        grace_s: how long a suspect may still come back before it is reaped, seconds.
        retention_s: how long an ended session is kept, seconds.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        heartbeat_timeout_s: float = 30.0,
        grace_s: float = 30.0,
        retention_s: float = 300.0,
    ) -> None:
        super().__init__()
        self.clock = clock or Clock()
        """What this store takes for the time."""
        self._shelf = Shelf(self.clock, heartbeat_timeout_s, grace_s, retention_s)
        self._engine = Engine(self._shelf)
        self._closed = False

    @property
    def name(self) -> str:
        """`memory`."""
        return "memory"

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._closed

    def count(self) -> int:
        """How many sessions there are, ended ones included until they are forgotten."""
        return len(self._shelf.all())

    async def request(
        self,
        method: str,
        params: protocol.Params | None = None,
        *,
        op_of: str | None = None,
        timeout_s: float | None = None,
    ) -> bytes:
        """Ask for a verb of the protocol; see CallStore."""
        if self._closed:
            raise StoreClosedError
        return self._engine.answer(protocol.encode_request(0, method, params))

    async def update_heartbeat(self, session_id: str, *, timeout_s: float | None = None) -> None:
        """Say that this call is alive; see CallStore."""
        ask = asks.heartbeat(session_id)
        ask.result(await self._send(ask, timeout_s))

    async def default_heartbeat_timeout_s(self) -> float:
        """What this store was made with."""
        return self._shelf.heartbeat_timeout_s

    async def _close(self) -> None:
        self._closed = True
