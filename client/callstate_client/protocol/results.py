"""The result of each verb, as the client decodes it; members that a newer daemon adds are skipped."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from msgspec import UNSET, Raw, Struct, UnsetType

SessionT = TypeVar("SessionT")


class SaveResult(Struct):
    """Of `session.save`. `heartbeat_timeout_s` is the one in force; older daemons give neither it nor `epoch`.

    `unverified`: the store could not be read; what the save left out is added from there later.
    """

    version: int
    updated_at: str
    epoch: int | None = None
    heartbeat_timeout_s: float | None = None
    unverified: bool = False


class VersionResult(Struct):
    """Of every other mutation; `turn_count` only with `session.add_turn`, `index` with `session.amend_turn`."""

    version: int
    turn_count: int | None = None
    index: int | None = None


class LoadResult(Struct, Generic[SessionT], kw_only=True):
    """Of `session.load`, and one of `session.list`'s `sessions`."""

    session: SessionT
    version: int
    epoch: int = 0
    turn_count: int = 0
    history_from: int | None = None
    owner: str | None = None
    ended_reason: str | None = None
    ended_detail: Any = None
    labels: dict[str, str] = {}
    heartbeat_timeout_s: float | None = None
    max_duration_s: float | None = None
    handovers: int = 0
    restored: bool = False


class ListActiveResult(Struct):
    """Of `session.list_active`."""

    session_ids: list[str]
    next_cursor: str | None = None


class ListResult(Struct):
    """Of `session.list`."""

    sessions: list[LoadResult[Raw]]
    next_cursor: str | None = None


class HeartbeatResult(Struct):
    """Of `session.heartbeat` with several ids: which of them got no heartbeat, and why.

    `timeouts`: the heartbeat timeouts, seconds, of sessions that were given another since they were claimed.
    `unreadable` and `timeouts` are there only if they are not empty.
    """

    missing: list[str] = []
    ended: list[str] = []
    fenced: list[str] = []
    unreadable: list[str] = []
    timeouts: dict[str, float] | UnsetType = UNSET


class FlushResult(Struct):
    """Of `server.flush`: how many sessions the store has, and how many it does not have yet."""

    flushed: int
    unflushed: int


class RegisterResult(Struct):
    """Of `worker.register`; `drain`: the daemon takes no new sessions."""

    worker_id: str
    drain: bool = False


class DrainResult(Struct):
    """Of `server.drain`: whether it drains now, and how many sessions have not ended."""

    drain: bool
    sessions: int


class SubscribeResult(Struct):
    """Of `events.subscribe`: the place after which events follow."""

    stream: str
    seq: int
