"""What the daemon asks of a store behind it. Every write is absolute and may be repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol

from msgspec import Struct


class StoreDownError(Exception):
    """The store can't be reached, or went away: what was under way may or may not be there."""


class StoreRefusingError(Exception):
    """The store answers, but takes nothing now (out of memory, read-only, loading, no authority)."""


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


class Outcome(Enum):
    """What became of one write."""

    WRITTEN = "written"
    SUPERSEDED = "superseded"
    """The store has a higher epoch, or the same epoch with a version as high from elsewhere: refused."""
    UNSEEN = "unseen"
    """The store has what the write's maker has not seen (`Write.seen`): refused, to be read first."""
    REJECTED = "rejected"
    """The store can't take this one, whatever happens; it holds up no other."""


class WriteResult(Struct):
    """An outcome, and in words why where it is not WRITTEN."""

    outcome: Outcome
    detail: str = ""


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


class Backend(Protocol):
    """A store as the daemon uses it. Methods raise StoreDownError or StoreRefusingError, nothing else."""

    @property
    def name(self) -> str:
        """`sqlite`, `redis`."""
        ...

    @property
    def losses(self) -> int:
        """How often all that had been written turned out to be gone: a file removed or replaced."""
        ...

    async def look(self) -> None:
        """Notice what there is of `losses` now, where that costs little."""
        ...

    async def read(self, session_id: str) -> StoredSession | None:
        """What is there; None when nothing is, not even a tombstone."""
        ...

    async def write(self, batch: Sequence[Write]) -> list[WriteResult]:
        """Write these, in one round trip where the store can; one result each, in order."""
        ...

    async def write_beats(self, beats: Mapping[str, int]) -> None:
        """Note last heartbeats: session id to milliseconds since 1970."""
        ...

    async def active_ids(self, cursor: str = "") -> tuple[list[str], str]:
        """Active sessions of every host, some of those behind a cursor, and the next cursor; empty: that is all.

        What is there all the time is given, perhaps twice.
        """
        ...

    async def find(self, query: Query, cursor: str, limit: int) -> tuple[list[tuple[str, StoredSession]], str]:
        """Sessions of every host, as `active_ids`, about `limit` of them at a time; tombstones are left out."""
        ...

    async def ping(self) -> None:
        """Return once the store has answered."""
        ...

    async def close(self) -> None:
        """Give up connections and files; may be called twice."""
        ...
