"""The listening socket, if systemd passed none; it never replaces one on which a daemon listens."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from pathlib import Path

from callstate_sidecar.config.errors import ConfigError
from callstate_sidecar.system.files import naming
from callstate_sidecar.system.state_dir import AlreadyRunningError

BACKLOG = 512
"""Connections that may wait to be accepted: after a restart, all workers of a host connect at once."""


class Listener:
    """A listening Unix socket, and its file, which `close` removes.

    A path can be bound only if it does not exist, and a socket file outlives its daemon. So, holding a lock beside
    the socket, try to connect, and replace the file only if nothing accepts the connection.

    Args:
        path: where to listen.
        key: the configuration's key for it, for errors.

    Raises:
        AlreadyRunningError: another process listens there.
        ConfigError: the path exists and is not a socket.
        OSError: the socket can't be made; names the path.
    """

    def __init__(self, path: Path, key: str = "server.socket") -> None:
        self.path = path
        self._key = key
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, parents=True)
        self._check_private(path.parent)
        self._lock_fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with naming(path):
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.socket = self._bind(path)
        except BlockingIOError:
            os.close(self._lock_fd)
            raise AlreadyRunningError(f"another callstated is listening on {path}") from None
        except BaseException:
            os.close(self._lock_fd)
            raise

    @staticmethod
    def _check_private(directory: Path) -> None:
        """In /tmp, anybody could have created our directory first."""
        if directory.parent == Path("/tmp") and directory.name == f"callstate-{os.getuid()}":  # noqa: S108
            found = directory.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
                raise PermissionError(f"{directory} is not a directory of this user with mode 0700")

    def _bind(self, path: Path) -> socket.socket:
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
        before = os.umask(0o177)  # 0600 from the start, so that others can never connect
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
