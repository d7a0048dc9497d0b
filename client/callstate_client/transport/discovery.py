"""Where the daemon's socket may be, and for each path a sentence that says why it could not be used."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from callstate_client.errors import NoDaemonError

__all__ = ["MAX_PATH_BYTES", "Candidate", "Tried", "candidates", "describe", "no_daemon", "refusal"]

MAX_PATH_BYTES: Final = 103 if sys.platform == "darwin" else 107
"""sockaddr_un.sun_path without its NUL: 108 on Linux (unix(7)), 104 on macOS."""

SYSTEM_SOCKET: Final = "/run/callstate/callstate.sock"
"""The socket of the packaged systemd units."""

SOCKET_NAME: Final = "callstate.sock"


class Candidate(NamedTuple):
    """A place where the socket may be.

    Args:
        path: of the socket.
        source: where the path comes from, in words.
        private: any user could have created its directory, so that must be our own with mode 0700.
    """

    path: str
    source: str
    private: bool = False


class Tried(NamedTuple):
    """A place that could not be used.

    Args:
        path: of the socket.
        why: the reason.
        final: no later place may be used instead.
        hopeless: it is useless to try again.
        silent: something listens there but did not answer in time.
        refused: a daemon is there and takes no more connections now.
    """

    path: str
    why: str
    final: bool
    hopeless: bool = False
    silent: bool = False
    refused: bool = False


def candidates(socket: str | os.PathLike[str] | None, environ: Mapping[str, str], uid: int) -> list[Candidate]:
    """Where to look, in order. A path that was given is the only place: another daemon has other calls.

    Args:
        socket: the path that the caller gave, if any.
        environ: the process's environment variables.
        uid: of the user whose `/tmp/callstate-<uid>/` is looked in.
    """
    if socket is not None:
        return [Candidate(os.fspath(socket), "the argument")]
    if named := environ.get("CALLSTATE_SOCKET"):
        return [Candidate(named, "CALLSTATE_SOCKET")]
    found = []
    if runtime_dir := environ.get("XDG_RUNTIME_DIR"):
        found.append(Candidate(str(Path(runtime_dir) / SOCKET_NAME), "XDG_RUNTIME_DIR"))
    found.append(Candidate(SYSTEM_SOCKET, "the system's daemon"))
    found.append(Candidate(f"/tmp/callstate-{uid}/{SOCKET_NAME}", "a daemon of this user", private=True))  # noqa: S108
    return found


def refusal(candidate: Candidate, uid: int) -> Tried | None:
    """Why a place must not be connected to; None if it may be.

    It looks only at inodes of in-memory file systems, so it does not block on a disk.
    """
    path, _, private = candidate
    size = len(os.fsencode(path))
    if size > MAX_PATH_BYTES:
        why = f"the path has {size} bytes, a Unix socket's has at most {MAX_PATH_BYTES}"
        return Tried(path, why, final=True, hopeless=True)
    if not private:
        return None
    directory = str(Path(path).parent)
    try:
        info = os.lstat(directory)
    except OSError:
        return Tried(path, "absent", final=False)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != uid or stat.S_IMODE(info.st_mode) != 0o700:
        return Tried(path, f"{directory} must be a directory of our own with mode 0700", final=True)
    return None


def describe(candidate: Candidate, error: OSError) -> Tried:
    """Why connecting to a place failed.

    A socket that exists ends the search even if nobody listens: its daemon may be restarting, and a daemon at the
    next place would not know our calls.
    """
    path = candidate.path
    number = error.errno
    if number in (errno.ENOENT, errno.ENOTDIR):
        return Tried(path, "absent", final=False)
    if number in (errno.EACCES, errno.EPERM):
        # if we may not search the directory, it is unknown whether there is a socket
        exists = os.access(Path(path).parent, os.X_OK)
        return Tried(path, "permission denied: join group callstate", final=exists)
    if number == errno.ECONNREFUSED:
        return Tried(path, "nobody listens", final=True)
    if number == errno.EAGAIN:  # unix(7): the listener's backlog is full
        return Tried(path, "its queue of waiting connections is full", final=True, refused=True)
    silent = isinstance(error, TimeoutError)
    why = error.strerror or str(error) or ("no answer in time" if silent else type(error).__name__)
    return Tried(path, why, final=True, silent=silent)


def no_daemon(tried: list[Tried]) -> NoDaemonError:
    """The error that lists each path tried and why it could not be used; or why the daemon there refused us."""
    for attempt in tried:
        if attempt.refused:
            return NoDaemonError(
                f"the daemon at {attempt.path} accepts no more clients: {attempt.why}", refused=True
            )
    lines = "".join(f"\n  {attempt.path}: {attempt.why}" for attempt in tried)
    silent = any(attempt.silent for attempt in tried)
    unnamed = ", and CALLSTATE_SOCKET is not set" if len(tried) > 1 else ""
    return NoDaemonError(f"no callstated found{unnamed}; tried{lines}", silent=silent)
