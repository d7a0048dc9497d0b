"""New files that the command line writes, perhaps as root and where others can write as well."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

PRIVATE: Final = 0o600
"""For transcripts and numbers."""

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def open_new(path: Path, mode: int = PRIVATE) -> int:
    """Open a new, empty file, in place of one that an earlier run has left behind; returns its descriptor.

    A symbolic link that somebody has put there is removed, and what it leads to stays as it is.

    Raises:
        OSError: it can't be made.
    """
    try:
        return os.open(path, _NEW, mode)
    except FileExistsError:
        path.unlink(missing_ok=True)
        return os.open(path, _NEW, mode)
