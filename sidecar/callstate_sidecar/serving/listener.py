"""The listening socket, if systemd passed none; it never replaces one on which a daemon listens."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from callstate_client.new_files import PRIVATE_FILE
from callstate_sidecar.config.errors import ConfigError
from callstate_sidecar.system.files import make_directory, naming, open_kept
from callstate_sidecar.system.state_dir import AlreadyRunningError
from callstate_sidecar.system.strict_modes import ROOT, UnsafePathError, check_path

BACKLOG = 512
"""Connections that may wait to be accepted: after a restart, all workers of a host connect at once."""


KEY: Final = "server.socket"


def check_socket_dir(path: Path, key: str = KEY) -> None:
    """Check that nobody else can put a socket in place of one at this path: in a sticky directory nobody can.

    Raises:
        UnsafePathError: somebody could.
        OSError: the directory can't be examined.
    """
    check_path(path.absolute().parent, key, sticky=True)


def check_passed(sockets: Iterable[socket.socket]) -> None:
    """Refuse sockets of a service manager on which the kernel would not vouch for who connects.

    Raises:
        ConfigError: one is not a Unix stream socket, such as a TCP socket, which other hosts could reach.
    """
    for passed in sockets:
        if passed.family != socket.AF_UNIX or passed.type != socket.SOCK_STREAM:
            raise ConfigError(
                f"LISTEN_FDS: {passed.getsockname()}: sessions are served on Unix stream sockets only; forward one"
                " with ssh -L if they are needed elsewhere"
            )


class Listener:
    """A listening Unix socket, and its file, which `close` removes.

    A path can be bound only if it does not exist, and a socket file outlives its daemon. So, holding a lock beside
    the socket, try to connect, and replace the file only if nothing accepts the connection.

    Args:
        path: where to listen.
        key: the configuration's key for it, for errors.
        strict: refuse a directory in which other users could replace the socket.
        mode: of the socket.

    Raises:
        AlreadyRunningError: another process listens there.
        UnsafePathError: others could replace the socket, or hold its lock.
        ConfigError: the path exists and is not a socket.
        OSError: the socket can't be made; names the path.
    """

    def __init__(self, path: Path, key: str = KEY, strict: bool = True, mode: int = PRIVATE_FILE) -> None:
        self.path = path
        self._key = key
        if strict:
            check_socket_dir(path, key)
        make_directory(path.parent)
        self._check_private(path.parent)
        if strict:
            check_socket_dir(path, key)  # where all may make directories, somebody else may have been first
        lock = path.with_name(f"{path.name}.lock")
        self._lock_fd = open_kept(lock)
        try:
            if strict:
                self._check_ours(lock)
            with naming(path):
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.socket = self._bind(path, mode)
        except BlockingIOError:
            os.close(self._lock_fd)
            raise AlreadyRunningError(f"another callstated is listening on {path}") from None
        except BaseException:
            os.close(self._lock_fd)
            raise

    def _check_ours(self, lock: Path) -> None:
        """In a directory of all users, somebody else could hold a lock of his own under this name."""
        owner = os.fstat(self._lock_fd).st_uid
        if owner not in (ROOT, os.geteuid()):
            raise UnsafePathError(f"{self._key}: the lock {lock} belongs to uid {owner}: choose another path")

    @staticmethod
    def _check_private(directory: Path) -> None:
        """In /tmp, anybody could have created our directory first."""
        if directory.parent == Path("/tmp") and directory.name == f"callstate-{os.getuid()}":  # noqa: S108
            found = directory.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
                raise PermissionError(f"{directory} is not a directory of this user with mode 0700")

    def _bind(self, path: Path, mode: int) -> socket.socket:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(1.0)
                try:
                    probe.connect(str(path))
                except (ConnectionRefusedError, FileNotFoundError):
                    path.unlink(missing_ok=True)  # left behind by a daemon that has exited
                else:
                    raise AlreadyRunningError(f"another program is listening on {path}")
        elif os.path.lexists(path):
            raise ConfigError(f"{self._key}: {path} exists and is not a socket: move it, or choose another path")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o777 & ~mode)  # from the start, so that others can never connect
        try:
            listening.bind(str(path))
        except BaseException:
            listening.close()
            raise
        finally:
            os.umask(before)
        listening.listen(BACKLOG)
        listening.setblocking(False)
        return listening

    def close(self) -> None:
        """Remove the socket file. The lock file stays, so that all daemons lock the same file."""
        self.path.unlink(missing_ok=True)
        os.close(self._lock_fd)
