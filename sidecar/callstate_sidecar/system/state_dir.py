"""The state directory: it is locked by one daemon at a time, and keeps the host's id."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from pathlib import Path
from typing import Final

from callstate_sidecar.system.files import Files, naming

LOCK_NAME: Final = "lock"
HOST_ID_NAME: Final = "host-id"
JOURNAL_NAME: Final = "journal"

ID_BYTES: Final = 8
_WHOLE_ID: Final = re.compile(r"[0-9a-f]{16}")


class AlreadyRunningError(Exception):
    """Another daemon uses the state directory; the message names its pid."""


class StateDir:
    """The directory of journal, SQLite file and host id, locked while this object is open.

    Raises:
        AlreadyRunningError: another daemon holds it.
        OSError: it can't be created or locked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                error.errno, f"no state directory: {error.strerror}; choose another with --state-dir", str(path)
            ) from error
        self._fd = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with naming(path / LOCK_NAME):
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)
        except BlockingIOError:
            pid = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise AlreadyRunningError(f"another callstated (pid {pid}) uses {path}") from None
        except OSError:
            os.close(self._fd)
            raise

    def host_id(self, configured: str, journaled: str = "") -> str:
        """The configured id, else the one stored here, else the journal's, else a new random one, which is stored.

        It must not change: under another id, our own sessions in the store would count as another host's.

        Args:
            configured: from the configuration; takes precedence, and is not stored.
            journaled: from the journal's manifest; also used if the stored id is incomplete.

        Raises:
            OSError: the file can't be read or written.
        """
        if configured:
            return configured
        path = self.path / HOST_ID_NAME
        try:
            kept = path.read_bytes().decode("ascii", "replace").strip()
        except FileNotFoundError:
            kept = ""
        if not _WHOLE_ID.fullmatch(kept):
            # zeros, nothing, or half an id, as a power loss leaves in a file that was not synced
            fallback = kept if kept.isascii() and kept.isprintable() else ""
            kept = journaled or fallback or secrets.token_hex(ID_BYTES)
            Files().replace(path, kept.encode() + b"\n")
        return kept

    def close(self) -> None:
        """Release the lock."""
        os.close(self._fd)
