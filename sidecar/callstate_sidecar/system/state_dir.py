"""The state directory: it is locked by one daemon at a time, and keeps the host's id."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from pathlib import Path
from typing import Final

from callstate_sidecar.system.files import Files, make_directory, naming, open_kept
from callstate_sidecar.system.strict_modes import check_path

LOCK_NAME: Final = "lock"
HOST_ID_NAME: Final = "host-id"
JOURNAL_NAME: Final = "journal"

KEY: Final = "server.state_dir"
ID_BYTES: Final = 8
_WHOLE_ID: Final = re.compile(r"[0-9a-f]{16}")


class AlreadyRunningError(Exception):
    """Another daemon uses the state directory; the message names its pid."""


def check_state_dir(path: Path) -> None:
    """Check that nobody else can change what is in a state directory, and in the journal, which may be elsewhere.

    Raises:
        UnsafePathError: somebody could.
        OSError: they can't be examined.
    """
    check_path(path, KEY)
    check_path(path / JOURNAL_NAME, KEY)


class StateDir:
    """The directory of journal, SQLite file and host id, locked while this object is open.

    Args:
        path: created if absent.
        strict: refuse one in which other users could change something.

    Raises:
        AlreadyRunningError: another daemon holds it.
        UnsafePathError: others could change what is in it, or in the journal; nothing has been made in it.
        OSError: it can't be created or locked.
    """

    def __init__(self, path: Path, *, strict: bool = True) -> None:
        self.path = path
        if strict:
            check_state_dir(path)
        try:
            make_directory(path)
        except OSError as error:
            raise OSError(
                error.errno, f"no state directory: {error.strerror}; choose another with --state-dir", str(path)
            ) from error
        if strict:
            check_state_dir(path)  # where all may make directories, somebody else may have been first
        self._fd = open_kept(path / LOCK_NAME)
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
