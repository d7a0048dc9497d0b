"""What a session is to the store behind the table: a document and what is kept beside it. No I/O."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct


class StoreError(Exception):
    """The store as a whole failed, not just one session in it; a later attempt may succeed."""


class StoreDownError(StoreError):
    """The store can't be reached, or the connection broke: pending writes may or may not have been applied."""


class StoreTimeoutError(StoreDownError):
    """The store did not answer in time: it is down, or what it was asked took it too long."""


class StoreRefusingError(StoreError):
    """The store answers, but takes no writes at present (out of memory, read-only, loading, no permission)."""


class StoredMeta(Struct, kw_only=True):
    """What is kept beside a document.

    Args:
        host: id of the host whose daemon wrote it.
        epoch: changes with the owner.
        version: grows with each mutation.
        owner: the worker that holds the session, or empty.
        ended_reason: empty while it lives.
        ended_detail: what the worker said beside the reason, as JSON; empty for nothing.
        ended_at: RFC 3339 text, empty while it lives.
        labels: what the worker selects its calls by.
        heartbeat_timeout_s: the session's own, or None for the daemon's.
        max_duration_s: the session's own, or None for none.
        reaped: the reaper ended it, no worker did.
        deleted: a tombstone: no document, but nothing older may come back.
        ops: results of the last repeatable mutations by their `op`, as JSON, oldest first; a tombstone's too.
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
    deleted: bool = False
    ops: Mapping[str, bytes] = {}


class Write(Struct):
    """One session as it shall be in the store: `document` None deletes it.

    `seen`: only where the store has nothing of this host above this version; 0: only where it has nothing at all.
    `call_id`: what the session can also be found by; empty for nothing.
    """

    session_id: str
    document: bytes | None
    meta: StoredMeta
    active: bool
    beat_ms: int = 0
    seen: int | None = None
    call_id: str = ""


class Query(Struct, frozen=True):
    """Which sessions are looked for. A store gives all that match, and may give others: whoever asks looks again.

    Args:
        call_id: of the call at its provider.
        owner: the worker that holds it.
        status: of the document.
        labels: all of them must be there.
        ended_since: only what ended then or later: RFC 3339 text in UTC, whole seconds.
    """

    call_id: str | None = None
    owner: str | None = None
    status: str | None = None
    labels: Mapping[str, str] = {}
    ended_since: str | None = None


class StoredSession(Struct):
    """What a store has under an id.

    Args:
        document: the session as JSON, or None where there is only a tombstone.
        meta: None where somebody else (the Go package) wrote the document.
        beat_ms: last heartbeat, milliseconds since 1970, 0 when none is known.
    """

    document: bytes | None
    meta: StoredMeta | None
    beat_ms: int = 0
