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
    state: str | None = None
    uid: int | None = None
    gid: int | None = None


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


class EraseResult(Struct):
    """Of `server.erase`: `remains` says, in words, where the daemon can't erase."""

    remains: list[str]


class Quarantined(Struct, kw_only=True, omit_defaults=True):
    """What the store does not have of a session, and is not going to have as it is.

    Args:
        kind: `session` or `deletion`: the store refuses it, and it is tried again; `copy`: another host has taken
            the session over, and this is what it was here then.
        reason: why, in words.
        since_s: since when, seconds.
        attempts: how often the store has refused it; 0 for a copy.
        retry_in_s: when it is tried again, seconds; absent for a copy.
        version, epoch: of the session, deletion or copy.
    """

    session_id: str
    kind: str
    reason: str
    since_s: float
    version: int
    epoch: int
    attempts: int = 0
    retry_in_s: float | UnsetType = UNSET


class QuarantineListResult(Struct, omit_defaults=True):
    """Of `quarantine.list`."""

    quarantined: list[Quarantined]
    next_cursor: str | None = None


class InStore(Struct, omit_defaults=True):
    """What the store has of a session; members at their default are left out.

    Args:
        version, epoch, host, owner: as its writer has them; empty where other software wrote the document.
        deleted: there is a tombstone.
        ended_at: when it ended, RFC 3339.
        document_bytes: the document's size.
    """

    version: int = 0
    epoch: int = 0
    host: str = ""
    owner: str = ""
    deleted: bool = False
    ended_at: str = ""
    document_bytes: int = 0


class QuarantineShowResult(Quarantined, kw_only=True, omit_defaults=True):
    """Of `quarantine.show`.

    Args:
        session: the document as it is here, without its history, of a copy with it; not of a deletion.
        turn_count: the history's length.
        stored: what the store has; None: nothing.
        store_error: why the store could not be asked.
    """

    session: Raw | UnsetType = UNSET
    turn_count: int = 0
    stored: InStore | UnsetType | None = UNSET
    store_error: str = ""


class QuarantineRetryResult(Struct):
    """Of `quarantine.retry`: how many are tried again."""

    retried: int


class Finding(Struct, omit_defaults=True):
    """One of `server.check`'s findings.

    Args:
        kind: what is wrong, in a word.
        detail: what was found.
        remedy: what to do about it.
        session_id: the session concerned; empty if none is.
        repaired: it has been repaired.
    """

    kind: str
    detail: str
    remedy: str
    session_id: str = ""
    repaired: bool = False


class CheckResult(Struct):
    """Of `server.check`.

    Args:
        checked: how many sessions were compared with the store.
        findings: what is not as it should be.
        left_out: how many more findings there are.
    """

    checked: int
    findings: list[Finding]
    left_out: int = 0


class RegisterResult(Struct):
    """Of `worker.register`; `drain`: the daemon takes no new sessions."""

    worker_id: str
    drain: bool = False


class WorkerInfo(Struct, kw_only=True, omit_defaults=True):
    """One of `worker.list`'s `workers`.

    Args:
        state: `connected`; `exited` (its process has, and a connection is still open); `away` (it may reconnect);
            `restored` (from the journal, and not seen since the daemon started).
        connections: how many of its connections are open.
        sessions: how many sessions in memory it holds that have not ended.
        watched: the exit of its process is noticed at once; else only connections and heartbeats count.
        pid: of its process, as the daemon sees it; absent where that is not known.
        since: when it joined, RFC 3339; absent for one that has not been seen since the daemon started.
    """

    worker_id: str
    state: str
    connections: int
    sessions: int
    watched: bool
    pid: int | UnsetType = UNSET
    since: str | UnsetType = UNSET


class WorkerListResult(Struct, omit_defaults=True):
    """Of `worker.list`."""

    workers: list[WorkerInfo]
    next_cursor: str | None = None


class Setting(Struct, kw_only=True, omit_defaults=True):
    """One key of the daemon's configuration.

    Args:
        key: such as `store.url`.
        value: in force; without passwords.
        source: where it comes from: `default`, `file`, `environment` or `flag`.
        name: of the file, variable or flag; empty for a default.
        default: the value if it is not configured.
        resolved: what an empty value stands for on this host.
        pending: what a reload has read and only a restart applies; absent if there is nothing of the kind.
    """

    key: str
    value: str | int | float
    source: str
    name: str = ""
    default: str | int | float
    resolved: str = ""
    pending: str | int | float | UnsetType = UNSET


class ConfigResult(Struct):
    """Of `server.config`."""

    settings: list[Setting]


class DrainResult(Struct):
    """Of `server.drain`: whether it drains now, and how many sessions have not ended."""

    drain: bool
    sessions: int


class SubscribeResult(Struct):
    """Of `events.subscribe`: the place after which events follow."""

    stream: str
    seq: int
