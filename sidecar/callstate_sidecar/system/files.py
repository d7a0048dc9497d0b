"""The file calls of journal and state directory, in one object, so that tests can make them fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to errors of calls that only take a descriptor."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


class Files:
    """The operating system's file calls. Every method raises OSError."""

    def create(self, path: Path) -> int:
        """Open a new, empty file."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def open(self, path: Path) -> int:
        """Open an existing file for writing."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def allocate(self, fd: int, size: int) -> None:
        """Allocate disk space, so that no later write into it can fail for lack of space."""
        os.posix_fallocate(fd, 0, size)

    def write(self, fd: int, data: bytes, at: int) -> None:
        """Write in one call. A short write is an error: the disk is full, or worse."""
        written = os.pwrite(fd, data, at)
        if written != len(data):
            raise OSError(errno.ENOSPC, f"short write: {written} of {len(data)} bytes")

    def truncate(self, fd: int, size: int) -> None:
        """Truncate a file."""
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Wait until what was written is on disk (fdatasync)."""
        os.fdatasync(fd)

    def free_bytes(self, path: Path) -> int | None:
        """Free space on a path's file system for this user; None if unknown."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize if found.f_blocks else None

    def is_linked(self, fd: int) -> bool:
        """Whether an open file still has a name."""
        return os.fstat(fd).st_nlink > 0

    def close(self, fd: int) -> None:
        """Close a file."""
        os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file, replacing any other of the new name."""
        old.rename(new)

    def unlink(self, path: Path) -> None:
        """Remove a file, if it exists."""
        path.unlink(missing_ok=True)

    def sync_directory(self, path: Path) -> None:
        """Wait until the names in a directory are on disk."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with naming(path):
                os.fsync(fd)
        finally:
            os.close(fd)

    def replace(self, path: Path, data: bytes) -> None:
        """Replace a file atomically; the new content is on disk when this returns."""
        draft = path.with_name(f"{path.name}.tmp")
        with naming(draft):
            fd = self.create(draft)
            try:
                self.write(fd, data, 0)
                self.sync(fd)
            finally:
                self.close(fd)
        self.rename(draft, path)
        self.sync_directory(path.parent)
