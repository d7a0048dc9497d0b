"""The state directory: one daemon at a time, and the host's id."""

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
        """The configured id, else the one kept here, else the journal's, else a new random one; kept from now on.

        Under another id than before, everything in the store would be another host's, and be quarantined.

        Args:
            configured: from the configuration; it goes first, and is not kept here.
            journaled: from the journal's manifest; also taken where what is kept here is not whole.

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
            # zeros, nothing, or half an id: what a power loss leaves of a file that was not synced
            fallback = kept if kept.isascii() and kept.isprintable() else ""
            kept = journaled or fallback or secrets.token_hex(ID_BYTES)
            Files().replace(path, kept.encode() + b"\n")
        return kept

    def close(self) -> None:
        """Let another daemon in."""
        os.close(self._fd)
