"""The file calls of the journal, in one place: what a disk can refuse, and what tests let it refuse."""

from __future__ import annotations

import errno
import os
from pathlib import Path


class Files:
    """The operating system's file calls, each all or nothing. Every method raises OSError."""

    def create(self, path: Path) -> int:
        """Open a new, empty file."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def open(self, path: Path) -> int:
        """Open a file that is there, for writing."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def allocate(self, fd: int, size: int) -> None:
        """Take the room on disk now, so that no write into it can fail for want of room later."""
        os.posix_fallocate(fd, 0, size)

    def write(self, fd: int, data: bytes, at: int) -> None:
        """Write in one call. A short write is an error like any other: the disk is full or worse."""
        written = os.pwrite(fd, data, at)
        if written != len(data):
            raise OSError(errno.ENOSPC, f"short write: {written} of {len(data)} bytes")

    def truncate(self, fd: int, size: int) -> None:
        """Cut a file."""
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Return when what was written is on disk."""
        os.fdatasync(fd)

    def is_linked(self, fd: int) -> bool:
        """Whether the open file still has a name."""
        return os.fstat(fd).st_nlink > 0

    def close(self, fd: int) -> None:
        """Close a file."""
        os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        """Rename, replacing what was there."""
        old.rename(new)

    def unlink(self, path: Path) -> None:
        """Remove a name, where it is there."""
        path.unlink(missing_ok=True)

    def sync_directory(self, path: Path) -> None:
        """Return when the names in a directory are on disk."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
