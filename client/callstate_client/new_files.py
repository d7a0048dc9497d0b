"""New files, made by a daemon or command that may run as root, perhaps where others can write as well."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

PRIVATE_FILE: Final = 0o600
"""For transcripts and numbers."""

_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def open_new(path: Path) -> int:
    """Open a new, empty file, in place of one that an earlier run has left behind; returns its descriptor.

    A symbolic link that somebody has put there is removed, and what it leads to stays as it is.

    Raises:
        OSError: it can't be made.
    """
    try:
        return os.open(path, _NEW, PRIVATE_FILE)
    except FileExistsError:
        path.unlink(missing_ok=True)
        return os.open(path, _NEW, PRIVATE_FILE)


@contextmanager
def output_file(path: Path) -> Iterator[IO[bytes]]:
    """Where a command writes what it is to write to `path`: a new file, which takes the place of an old one once it
    is complete and on disk; or the pipe or device that is there.

    Raises:
        OSError: it can't be written.
    """
    if not _is_replaceable(path):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC), "wb") as there:
            yield there
        return
    draft = path.with_name(f"{path.name}.part")
    try:
        with os.fdopen(open_new(draft), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _is_replaceable(path: Path) -> bool:
    """Whether a new file may be put at this path: there is none, or an ordinary one.

    A pipe or a device stays and is written to, and so is one of our own streams under another name, such as
    /dev/stdout; but not what other users have put there, as they could read it.
    """
    try:
        if path.lstat().st_uid not in (0, os.geteuid()):
            return True
        found = path.stat()
    except OSError:
        return True
    for stream in (1, 2):
        with suppress(OSError):  # it may be closed
            if path.is_symlink() and os.path.samestat(found, os.fstat(stream)):
                return False
    return stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
