"""Limits of the engine: bounds on sessions and events, and the timeouts of liveness."""

from __future__ import annotations

from typing import Final, Protocol

from msgspec import Struct

SESSIONS: Final = 200_000
"""Sessions held in memory, by default."""

HEAD_BYTES: Final = 1024 * 1024
"""Bytes to which a session without its history may grow, by default: as many as one request can have."""

SESSION_BYTES: Final = 8 * 1024 * 1024
"""Bytes to which one session may grow, by default (the wire contract)."""


EVENTS: Final = 10_000
"""Events kept for reconnecting subscribers, by default."""

KEPT_FOR_OTHERS: Final = 20
"""By default one user may take all but this fraction (1/20) of what there is for all."""


def user_share(configured: int, total: int, *, is_operator: bool) -> int:
    """How much of a total one user may take.

    Args:
        configured: what `limits.per_uid` says; 0: nothing.
        total: for all users.
        is_operator: by default an operator may take all.
    """
    if configured:
        return min(configured, total)
    return total if is_operator else total - total // KEPT_FOR_OTHERS


class Limits(Protocol):
    """The part of the configuration that bounds what the engine keeps."""

    @property
    def sessions(self) -> int:
        """Sessions held in memory; more are refused as overloaded."""
        ...

    @property
    def session_bytes(self) -> int:
        """Bytes to which a session may grow by turns and updates."""
        ...

    @property
    def head_bytes(self) -> int:
        """Bytes to which a session without its history may grow by saves and updates."""
        ...

    @property
    def events(self) -> int:
        """Events kept for reconnecting subscribers."""
        ...

    @property
    def hot_bytes(self) -> int:
        """Memory that sessions and what is kept beside them may take together, bytes; 0: no bound. See room.py."""
        ...


class DefaultLimits(Struct, frozen=True, kw_only=True):
    """The limits of a daemon whose configuration sets none, but for `hot_bytes`, which depends on its host."""

    sessions: int = SESSIONS
    session_bytes: int = SESSION_BYTES
    head_bytes: int = HEAD_BYTES
    events: int = EVENTS
    hot_bytes: int = 0


class Spans(Protocol):
    """How long the engine waits for signs of life, seconds."""

    @property
    def heartbeat_timeout_s(self) -> float:
        """Silence after which a session without a timeout of its own is suspected."""
        ...

    @property
    def grace_s(self) -> float:
        """How long a suspect has to recover before it is reaped."""
        ...

    @property
    def reconnect_grace_s(self) -> float:
        """How long a worker that may be alive can be disconnected before its sessions become orphans."""
        ...

    @property
    def retention_s(self) -> float:
        """How long an ended session stays in memory."""
        ...

    @property
    def max_handovers(self) -> int:
        """Claimers in a row that may die within a minute of their claim before the call is ended; 0: any number."""
        ...
