"""A session as the store has it: a document and what is kept beside it. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from callstate_client.engine.user import UNKNOWN

LIVE: Final = "live"
SUSPECT: Final = "suspect"
ORPHAN: Final = "orphan"
ENDED: Final = "ended"
"""The values of `StoredMeta.state`."""


class StoreError(Exception):
    """The store as a whole failed, not just one session in it; a later attempt may succeed."""


class StoreDownError(StoreError):
    """The store can't be reached, or the connection broke: pending writes may or may not have been applied."""


class StoreBrokenError(StoreDownError):
    """A connection that was in use has ended. The store may be up: an idle connection may have ended unnoticed."""


class StoreTimeoutError(StoreDownError):
    """The store did not answer in time: it is down, or what it was asked took it too long."""


class StorePartDownError(StoreDownError):
    """The part of the store that this concerns does not answer, while others do."""


class StoreBugError(StoreError):
    """What was asked of the store failed by a bug of ours, its cause, which a single session may trigger."""


class StoreRefusingError(StoreError):
    """The store answers, but accepts no writes (out of memory, read-only, loading, no permission)."""


class StoreUnsuitableError(StoreRefusingError):
    """The store is of another kind than the configuration says, or can't do what it asks for: somebody has to
    change one of them."""


class StoredMeta(Struct, kw_only=True):
    """What is kept beside a document.

    Args:
        host: id of the host whose daemon wrote it.
        epoch: changes with the owner.
        version: grows with each mutation.
        owner: the worker that holds the session, or empty.
        ended_reason: empty while it is live.
        ended_detail: what the worker gave in addition to the reason, as JSON; empty for nothing.
        ended_at: RFC 3339 text, empty while it is live.
        labels: by which workers select calls.
        heartbeat_timeout_s: the session's own, or None for the daemon's.
        max_duration_s: the session's own, or None for none.
        reaped: the reaper ended it, not a worker.
        status_before: the status of a reaped session before its end; stays when another host revives the session,
            until that host has written the document. Empty where an earlier version wrote it.
        state: `live`, `suspect`, `orphan` or `ended`; empty where an earlier version wrote it.
        orphan: why an orphan has no owner any more.
        uid: the user that created it; UNKNOWN where none is known.
        gid: the primary group of that user.
        deleted: a tombstone: there is no document, and nothing older may be written.
        ops: results of the last repeatable mutations by `op`, as JSON, oldest first; also for a tombstone.
    """

    host: str = ""
    epoch: int = 0
    version: int = 0
    owner: str = ""
    ended_reason: str = ""
    ended_detail: str = ""
    ended_at: str = ""
    labels: dict[str, str] = {}
    heartbeat_timeout_s: float | None = None
    max_duration_s: float | None = None
    reaped: bool = False
    status_before: str = ""
    state: str = ""
    orphan: str = ""
    uid: int = UNKNOWN
    gid: int = UNKNOWN
    deleted: bool = False
    ops: Mapping[str, bytes] = {}


class Query(Struct, frozen=True):
    """Which sessions are wanted. A store returns all that match, and may return others: the caller filters them.

    Args:
        call_id: of the call at its provider.
        owner: the worker that holds it.
        status: of the document.
        labels: all of them must match.
        ended_since: only sessions that ended then or later, or of which that is not noted: RFC 3339 text in UTC,
            whole seconds.
    """

    call_id: str | None = None
    owner: str | None = None
    status: str | None = None
    labels: Mapping[str, str] = {}
    ended_since: str | None = None


class StoredSession(Struct):
    """What a store has under an id.

    Args:
        document: the session as JSON, or None if there is only a tombstone; empty if it was not read.
        meta: None if another program (the Go package) wrote the document.
        beat_ms: last heartbeat, milliseconds since 1970, 0 when none is known.
        tombstone: version of the deletion that other software has written the document over; 0 for none.
        foreign_stamp: of a document that other software has changed since a daemon wrote it; empty for one that is
            as it was written, or has no meta.
        unread_bytes: how long a document is that was not read, as it is longer than this read takes; 0 for others.
    """

    document: bytes | None
    meta: StoredMeta | None
    beat_ms: int = 0
    foreign_stamp: bytes = b""
    tombstone: int = 0
    unread_bytes: int = 0


UNREADABLE: Final = StoredSession(b"", None)
"""Something of which nothing can be read: it is not absent, and nothing is created over it."""
