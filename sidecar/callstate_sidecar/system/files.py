"""The file calls of journal and state directory, in one object, so that tests can make them fail.

Every file that the daemon or a tool of it creates, truncates or writes to is opened here or in the client's
`new_files`: never through a symbolic link (O_NOFOLLOW), for one that somebody has put in its place would let root
destroy the file it leads to; not inherited by other programs (O_CLOEXEC); and open to its owner alone, as
transcripts and numbers are in it. The exception is what an operator names as the output, such as /dev/stdout.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from callstate_client.new_files import PRIVATE_FILE, open_new

PRIVATE_DIRECTORY: Final = 0o700

_WRITTEN: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT: Final = _WRITTEN | os.O_CREAT


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to errors of calls that only take a descriptor."""
    try:
        yield
    except OSError as error:
        add_name(error, path)
        raise


def add_name(error: OSError, path: Path) -> None:
    """Add the file's name to an error of a call that only takes a descriptor."""
    if error.errno is not None and error.filename is None:
        error.filename = str(path)


def make_directory(path: Path) -> None:
    """Make a directory, and those above it that are missing, for this user alone; one that exists stays as it is.

    Raises:
        OSError: it can't be made, or is a file.
    """
    try:
        path.mkdir(PRIVATE_DIRECTORY)
    except FileNotFoundError:
        make_directory(path.parent)  # parents=True would give these the mode of the umask
        path.mkdir(PRIVATE_DIRECTORY, exist_ok=True)
    except OSError:
        if not path.is_dir():
            raise


def open_kept(path: Path) -> int:
    """Open a file that stays, such as a lock, for reading and writing; it is made if it is absent.

    Raises:
        OSError: it can't be opened, or is a symbolic link.
    """
    return os.open(path, _KEPT, PRIVATE_FILE)


def open_existing(path: Path) -> int:
    """Open a file that exists for reading and writing.

    Raises:
        OSError: it can't be opened, is absent, or is a symbolic link.
    """
    return os.open(path, _WRITTEN)


class Files:
    """The operating system's file calls. Every method raises OSError."""

    def create(self, path: Path) -> int:
        """Open a new, empty file, in place of any other of its name."""
        return open_new(path)

    def open(self, path: Path) -> int:
        """Open an existing file for writing."""
        return open_existing(path)

    def make_directory(self, path: Path) -> None:
        """Make a directory for this user alone, with those above it, if it is absent."""
        make_directory(path)

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
