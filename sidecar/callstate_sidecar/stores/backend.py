"""The interface between the daemon and its store.

Write-behind writes through it, read-through and listings read through it. Three rules hold for every
implementation:

- A write may be repeated: it carries the whole session, its meta and its stamp, or a patch that fits only the
  version it was made for. So a batch whose reply was lost is simply written again.
- A write is fenced: the store compares stamps (fencing.py) atomically with the write.
- A session the store can't take (`REJECTED`) fails alone; everything that concerns the whole store raises
  StoreError.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple, Protocol

from msgspec import Struct

from callstate_client.engine.limits import SESSION_BYTES
from callstate_client.engine.sessions.stored import Query, StoredSession, StoreError
from callstate_client.engine.sessions.writes import Write
from callstate_client.protocol.results import Finding
from callstate_sidecar.stores.hosts import HostRegistry

DOCUMENT_FACTOR: Final = 4
"""A document of so many times `limits.session_bytes` is not read: Go writes some characters in six bytes, and a few
of what clients send in two."""

DOCUMENT_BYTES: Final = DOCUMENT_FACTOR * SESSION_BYTES
"""The longest document that is read, with the default of `limits.session_bytes`."""

TOGETHER_BYTES: Final = 128 * 1024
"""Longer documents are not read together with others, or a hundred of them would not fit in memory."""


class WriteOutcome(Enum):
    """The result of one write of a batch."""

    WRITTEN = "written"
    SUPERSEDED = "superseded"
    """Refused by the fencing rule: the store has a higher epoch, or this epoch from another host or with a higher
    version."""
    UNSEEN = "unseen"
    """Refused because the store has a state that the session is not based on (`Write.seen`): read it first."""
    NOT_BASE = "not_base"
    """Refused because the store does not have what the patch was made for: write the whole document."""
    AWAY = "away"
    """The part of the store that has this session does not answer, while others do. Nobody knows whether it was
    written."""
    REJECTED = "rejected"
    """The store can't take this session, however often it is tried."""


class WriteResult(Struct, frozen=True):
    """An outcome.

    Args:
        detail: the reason in words, unless it is WRITTEN.
        set_aside: software that knows no meta had changed the document since our last write; what it wrote was set
            aside before it was replaced.
    """

    outcome: WriteOutcome
    detail: str = ""
    set_aside: bool = False


class StoredVersion(NamedTuple):
    """A session that the store is known to have in a version.

    Args:
        call_id: the call id it can be found by; empty for none.
        live: whether it has not ended, so that its TTL is to be renewed.
    """

    session_id: str
    version: int
    call_id: str
    live: bool


class Deviation(Enum):
    """What the store was found to have in place of a version that it is known to have."""

    MISSING = "missing"
    """Nothing: it was lost."""
    DELETED = "deleted"
    """Nothing: other software has deleted it."""
    CHANGED = "changed"
    """A document that other software has changed."""
    OTHER = "other"
    """Another version, or another host's."""


class Flaw(Enum):
    """What is not as it should be beside a session's document, where the document is right."""

    NO_TTL = "no_ttl"
    """It never expires."""
    WRONG_TYPE = "wrong_type"
    """A key of it holds another type."""
    UNLISTED = "unlisted"
    """It is live and not among the active ones."""
    LISTED = "listed"
    """It has ended and is among the active ones."""


class Reads(Protocol):
    """What is read from a store on behalf of clients. Methods raise StoreError, nothing else."""

    async def read(self, session_id: str) -> StoredSession | None:
        """Read one session; None if the store has nothing under this id, not even a tombstone. A document that is
        longer than any may be is not read (`StoredSession.unread_bytes`)."""
        ...

    async def read_each(self, session_ids: Sequence[str]) -> Sequence[StoredSession | StoreError | None]:
        """As `read` for several different ones, in one round trip if the store can; errors that concern some of
        them in their places. Documents of more than TOGETHER_BYTES are not read."""
        ...

    async def active_ids(self, cursor: str = "") -> tuple[list[str], str]:
        """A page of the active sessions of all hosts, and the cursor of the next page, empty after the last.

        A session that is active throughout the listing is returned at least once, perhaps twice.
        """
        ...

    async def find(self, query: Query, cursor: str, limit: int) -> tuple[list[str], str]:
        """The ids of a page of about `limit` sessions of all hosts, also of some that don't match or don't exist.
        Cursors are as in `active_ids`."""
        ...


class Backend(Reads, Protocol):
    """A store as the daemon uses it. Methods raise StoreError, nothing else."""

    @property
    def name(self) -> str:
        """`sqlite` or `redis`."""
        ...

    @property
    def hosts(self) -> HostRegistry | None:
        """The hosts that share the store; None: it has one host."""
        ...

    @property
    def away(self) -> str:
        """Which part of the store does not answer while others do, in words; empty for none."""
        ...

    @property
    def data_losses(self) -> int:
        """How often everything written so far was found to be lost, because the file was removed or replaced."""
        ...

    async def check_for_loss(self) -> None:
        """Bring `data_losses` up to date, where that is cheap."""
        ...

    async def write(self, batch: Sequence[Write]) -> list[WriteResult]:
        """Write a batch, in one round trip if the store can; one result each, in order."""
        ...

    async def check(self, sessions: Sequence[StoredVersion]) -> list[tuple[str, Deviation]]:
        """Compare sessions with the store, and renew TTLs of which a quarter has passed.

        Returns:
            those that the store has otherwise.
        """
        ...

    async def examine(self, sessions: Sequence[StoredVersion]) -> list[tuple[str, Flaw]]:
        """What these sessions lack beside their documents."""
        ...

    def inspect(self, wall_us: Callable[[], int], *, repair: bool) -> AsyncIterator[Finding]:
        """What is not as it should be with the store itself.

        Args:
            wall_us: this host's clock, microseconds since 1970.
            repair: also repair what can be repaired safely.
        """
        ...

    async def erase(self, session_id: str, timeout_s: float) -> list[str]:
        """Remove what the store still has of a session whose deletion was written to it.

        Args:
            session_id: whose.
            timeout_s: how long to wait for other users of the store, seconds.

        Returns:
            where its bytes may be nevertheless, in words.
        """
        ...

    async def write_beats(self, beats: Mapping[str, int]) -> None:
        """Write last heartbeats: session id to milliseconds since 1970."""
        ...

    async def ping(self) -> None:
        """Check that the store answers."""
        ...

    async def close(self) -> None:
        """Close connections and files; may be called twice."""
        ...
