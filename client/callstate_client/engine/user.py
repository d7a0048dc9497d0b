"""The user behind a connection, as the operating system names it: uid and groups. A MemoryStore has no users."""

from __future__ import annotations

from typing import Final, NamedTuple

UNKNOWN: Final = -1
"""In place of a uid or gid that is not known."""

MAX_ID: Final = 2**32 - 2
"""The highest uid or gid: the next one means that none is set."""


class User(NamedTuple):
    """A user. Ids that are not known are UNKNOWN, and no groups."""

    uid: int = UNKNOWN
    gid: int = UNKNOWN
    """The primary group."""
    groups: frozenset[int] = frozenset()
    """All groups, the primary one included."""

    def __str__(self) -> str:
        uid = "unknown" if self.uid == UNKNOWN else self.uid
        return f"uid {uid}, gid {'unknown' if self.gid == UNKNOWN else self.gid}"


NOBODY: Final = User()
"""A user of whom nothing is known."""
