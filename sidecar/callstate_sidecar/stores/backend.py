"""What the daemon asks of a store behind it. Every write is absolute and may be repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol

from msgspec import Struct

from callstate_client.engine.sessions.stored import Query, StoredSession, Write


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


class Backend(Protocol):
    """A store as the daemon uses it. Methods raise StoreDownError or StoreRefusingError, nothing else."""

    @property
    def name(self) -> str:
        """`sqlite`, `redis`."""
        ...

    @property
    def data_losses(self) -> int:
        """How often all that had been written turned out to be gone: a file removed or replaced."""
        ...

    async def check_for_loss(self) -> None:
        """Notice what there is of `data_losses` now, where that costs little."""
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
