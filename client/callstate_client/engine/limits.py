"""How much the engine keeps, and how long: bounds on sessions and events, and the spans of liveness."""

from __future__ import annotations

from typing import Final, Protocol

from msgspec import Struct

SESSIONS: Final = 200_000
"""Sessions held in memory, where nothing else is configured."""

SESSION_BYTES: Final = 8 * 1024 * 1024
"""Bytes to which one session may grow, where nothing else is configured (the wire contract)."""


EVENTS: Final = 10_000
"""Events kept for subscribers that come back, where nothing else is configured."""


class Limits(Protocol):
    """What the engine asks of its configuration."""

    @property
    def sessions(self) -> int:
        """Sessions held in memory; more are refused as overloaded."""
        ...

    @property
    def session_bytes(self) -> int:
        """Bytes to which a session may grow by turns and updates."""
        ...

    @property
    def events(self) -> int:
        """Events kept for subscribers that come back."""
        ...


class DefaultLimits(Struct, frozen=True, kw_only=True):
    """The limits of a daemon that was configured without any."""

    sessions: int = SESSIONS
    session_bytes: int = SESSION_BYTES
    events: int = EVENTS


class Spans(Protocol):
    """How long the engine waits for signs of life, seconds."""

    @property
    def heartbeat_timeout_s(self) -> float:
        """Silence after which a session without a timeout of its own is suspected."""
        ...

    @property
    def grace_s(self) -> float:
        """How long a suspect may still come back before it is ended."""
        ...

    @property
    def reconnect_grace_s(self) -> float:
        """How long a worker that may live can be without a connection before its sessions are orphans."""
        ...

    @property
    def retention_s(self) -> float:
        """How long an ended session stays hot."""
        ...

    @property
    def max_handovers(self) -> int:
        """So many claimers a call may kill, each within a minute of its claim; 0: any number."""
        ...
