"""The interfaces of the Go package's session stores as typing.Protocols, and Record, which `get` returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from callstate_client.model.state import SessionState

__all__ = ["HealthChecker", "Namer", "Record", "SessionStore"]


@runtime_checkable
class SessionStore(Protocol):
    """Keeps the state of calls. Safe to use from many tasks of one loop.

    After `close()`, which may be called twice, every operation raises `StoreClosedError`.
    """

    async def save(self, state: SessionState | None) -> int | None:
        """Save this state, whole, under its id, and set its `updated_at`. None is a no-op.

        Returns:
            the new version, if the store keeps versions.
        """
        ...

    async def load(self, session_id: str) -> SessionState:
        """The state of this session; its `updated_at` is the later of the last save and the last heartbeat.

        Raises:
            SessionNotFoundError: there is none.
        """
        ...

    async def delete(self, session_id: str) -> None:
        """Delete this session.

        Raises:
            SessionNotFoundError: there is none.
        """
        ...

    async def list_active(self) -> list[str]:
        """The ids of all sessions that have not ended."""
        ...

    async def update_heartbeat(self, session_id: str) -> None:
        """Send a heartbeat for this call, which changes nothing else.

        Raises:
            SessionNotFoundError: there is no such session.
        """
        ...

    async def close(self) -> None:
        """Close the connections, or whatever else the store has open."""
        ...


@runtime_checkable
class HealthChecker(Protocol):
    """A store whose health can be checked."""

    async def ping(self) -> None:
        """Return once the store has answered, or raise why it does not."""
        ...


@runtime_checkable
class Namer(Protocol):
    """A store that has a name, for logs."""

    @property
    def name(self) -> str:
        """Such as `memory`, `redis`, `sqlite`, `sidecar`."""
        ...


@dataclass(slots=True)
class Record:
    """A session with what is known about it besides its document.

    Args:
        state: the document.
        version: grows with each mutation; opaque beyond that.
        epoch: changes with the owner; a fencing token.
        owner: the worker that holds the session.
        ended_reason: why it ended; None if it has not.
        ended_detail: the `detail` it was ended with, as decoded JSON; None for none.
        labels: strings to select calls by.
        history_from: index of the first turn in `state.history`; over 0 when loaded in part.
        turn_count: the whole history's length.
        heartbeat_timeout_s: silence after which it is suspected, seconds; None if the reply does not say it:
            listings leave the default out.
        max_duration_s: the age at which it is ended, seconds; None for no limit, or if the reply does not say.
        handovers: how often in a row it was claimed and then held for less than a minute, for whatever reason.
        restored: the daemon has restarted, and there has been no sign of life of this session since.
        liveness: in a listing, `suspect` or `orphan` for a session that is; None otherwise.
        uid, gid: in a listing with `users`, the user that created it and its primary group; None if not known.
    """

    state: SessionState
    version: int = 0
    epoch: int = 0
    owner: str | None = None
    ended_reason: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    history_from: int = 0
    turn_count: int = 0
    heartbeat_timeout_s: float | None = None
    max_duration_s: float | None = None
    handovers: int = 0
    restored: bool = False
    ended_detail: Any = field(default=None, repr=False)  # it may have what was said
    liveness: str | None = None
    uid: int | None = None
    gid: int | None = None
