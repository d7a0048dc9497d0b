"""Why a journal can't be used. The daemon then refuses to start (exit status 4) rather than lose acknowledged
writes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

REPAIR: Final = "callstated journal repair"
"""The command that the messages recommend."""


class JournalError(Exception):
    """The journal can't be used as it is; the message says where, why, and what to do."""


class JournalFormatError(JournalError):
    """The journal was written by a newer callstated.

    Args:
        path: of the file.
        what: its format, in words.
    """

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"{path} {what}. Install the newer version again; or move its calls here: export them with it "
            f"(callstated journal export), set {path.parent} aside, and import them (callstate import)"
        )


class JournalDamagedError(JournalError):
    """Something that was known to be on disk can't be read any more.

    Args:
        path: the damaged file.
        offset: where in it the damage begins, bytes.
        what: what is wrong, in words.
    """

    def __init__(self, path: Path, offset: int, what: str) -> None:
        self.path = path
        self.offset = offset
        self.what = what
        super().__init__(
            f"{path} is damaged at byte {offset}: {what}. The data lost there had been synced to disk. "
            f"Take a copy of {path.parent}, then run: {REPAIR} {path.parent}"
        )
