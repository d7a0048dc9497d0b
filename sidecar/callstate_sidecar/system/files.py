"""File calls of journal and state directory, in one place: what a disk can refuse, and tests let it refuse."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of calls that know a descriptor only say which file it was."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


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

    def free_bytes(self, path: Path) -> int | None:
        """Room on the file system of a path, for this user; None where it does not say."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize if found.f_blocks else None

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
            with naming(path):
                os.fsync(fd)
        finally:
            os.close(fd)

    def replace(self, path: Path, data: bytes) -> None:
        """Put a file of this content in place of the present one, on disk before this returns."""
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
