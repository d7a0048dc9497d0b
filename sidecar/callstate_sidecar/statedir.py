"""The state directory: one daemon at a time, and the host's id."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import Final

LOCK_NAME: Final = "lock"
HOST_ID_NAME: Final = "host-id"


class AlreadyRunningError(Exception):
    """Another daemon uses the state directory; the text names its pid."""


class StateDir:
    """The directory of journal, SQLite file and host id, locked while this object is open.

    Raises:
        AlreadyRunningError: another daemon holds it.
        OSError: it can't be made or locked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                error.errno, f"no state directory: {error.strerror}; --state-dir gives another", str(path)
            ) from error
        self._fd = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise AlreadyRunningError(f"another callstated (pid {pid}) uses {path}") from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)

    def host_id(self, configured: str) -> str:
        """The configured id, else the one kept here, else a new random one, kept from now on."""
        if configured:
            return configured
        path = self.path / HOST_ID_NAME
        try:
            kept = path.read_text("ascii").strip()
        except FileNotFoundError:
            kept = ""
        if kept:
            return kept
        fresh = secrets.token_hex(8)
        draft = path.with_suffix(".tmp")
        draft.write_text(fresh + "\n", "ascii")
        draft.rename(path)
        return fresh

    def close(self) -> None:
        """Let another daemon in."""
        os.close(self._fd)
