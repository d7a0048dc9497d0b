"""How much the engine keeps: bounds on all sessions together and on each of them."""

from __future__ import annotations

from typing import Final, Protocol

from msgspec import Struct

SESSIONS: Final = 200_000
"""Sessions held in memory, where nothing else is configured."""

SESSION_BYTES: Final = 8 * 1024 * 1024
"""Bytes to which one session may grow, where nothing else is configured (the wire contract)."""


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


class DefaultLimits(Struct, frozen=True, kw_only=True):
    """The limits of a daemon that was configured without any."""

    sessions: int = SESSIONS
    session_bytes: int = SESSION_BYTES
