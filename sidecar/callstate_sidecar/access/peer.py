"""The user at the other end of a Unix socket, as the kernel vouches for it: uid, primary gid and other groups.

The kernel notes them when the client connects (SO_PEERCRED and SO_PEERGROUPS on Linux, LOCAL_PEERCRED on macOS), so
a process that changes its user afterwards, or passes the connection on, is still who connected.

Ids are those of the daemon's own user namespace: root of another namespace is whichever uid it is mapped to here.
An id that has no mapping is reported as the overflow id, usually 65534, by which everybody without a mapping looks
alike. That is also the uid of `nobody`, which unrelated services share. So the overflow uid is nobody's uid and the
overflow gid nobody's group: such a peer is a user that is not known, whoever it is. The pid does not matter for
that: it is 0 for a process of an invisible PID namespace, whose uid is as good as any.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from functools import cache
from pathlib import Path
from typing import Final, Protocol

from callstate_client.engine.user import NOBODY, UNKNOWN, User

SO_PEERGROUPS: Final = 59
"""include/uapi/asm-generic/socket.h (Linux 4.13); Python's socket module has no name for it."""

_UCRED: Final = struct.Struct("iII")
"""pid, uid, gid: unix(7)."""

_GID_BYTES: Final = 4
_FEW: Final = 256
"""As many groups as `socket.getsockopt` has room for; a process may have more."""
_MOST: Final = 65536
"""NGROUPS_MAX: credentials(7)."""

_NOT_SET: Final = 2**32 - 1
"""(uid_t)-1: no credentials are known, as for a socket that nobody has connected."""

_OVERFLOW: Final = 65534
"""The overflow ids unless sysctl says otherwise: kernel.overflowuid and kernel.overflowgid."""

_SOL_LOCAL: Final = 0
_LOCAL_PEERCRED: Final = 1
_XUCRED: Final = struct.Struct("IIh2x16I")
"""macOS, sys/ucred.h: version, uid, number of groups, and the groups, the primary one first."""


class PeerSocket(Protocol):
    """A socket, or what asyncio and uvloop return in place of one."""

    def fileno(self) -> int: ...

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


def peer_user(sock: PeerSocket) -> User:
    """The user that connected this Unix stream socket; NOBODY where the system does not tell."""
    try:
        if sys.platform == "darwin":
            return _on_macos(sock)
        if sys.platform == "linux":
            return _on_linux(sock)
    except OSError:
        pass  # not a Unix socket, or the system refuses
    return NOBODY


def peer_pid(sock: PeerSocket) -> int:
    """The pid of the process that connected this socket; 0: it is invisible in this PID namespace, or not told."""
    if sys.platform != "linux":
        return 0
    try:
        pid: int = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[0]
    except OSError:
        return 0
    return pid


def _on_linux(sock: PeerSocket) -> User:
    _, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return _known(uid, gid, _peer_groups(sock))


def _peer_groups(sock: PeerSocket) -> tuple[int, ...]:
    """The supplementary groups; none if the kernel does not tell."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _GID_BYTES * _FEW)
    except OSError as error:
        if error.errno != errno.ERANGE:
            return ()  # ENOPROTOOPT before Linux 4.13; ENODATA where nobody has connected
        raw = _many_groups(sock.fileno())
    return struct.unpack(f"{len(raw) // _GID_BYTES}I", raw)


def _many_groups(fd: int) -> bytes:
    """More groups than Python has room for."""
    import ctypes  # noqa: PLC0415 - hardly anybody is in so many groups

    libc = ctypes.CDLL(None, use_errno=True)
    room = ctypes.create_string_buffer(_GID_BYTES * _MOST)
    size = ctypes.c_uint32(len(room))
    if libc.getsockopt(fd, socket.SOL_SOCKET, SO_PEERGROUPS, room, ctypes.byref(size)):
        return b""
    return room.raw[: size.value]


def _on_macos(sock: PeerSocket) -> User:
    _, uid, count, *groups = _XUCRED.unpack(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size))
    return _known(uid, groups[0] if count > 0 else _NOT_SET, tuple(groups[: max(0, count)]))


def _known(uid: int, gid: int, groups: tuple[int, ...]) -> User:
    """The user of these ids, without those that stand for ids that are not known."""
    no_uid, no_gid = {_NOT_SET, overflow_id("uid")}, {_NOT_SET, overflow_id("gid")}
    return User(
        UNKNOWN if uid in no_uid else uid,
        UNKNOWN if gid in no_gid else gid,
        frozenset({gid, *groups} - no_gid),
    )


@cache
def overflow_id(kind: str) -> int:
    """The `uid` or `gid` that everybody without a mapping has."""
    try:
        return int(Path(f"/proc/sys/kernel/overflow{kind}").read_text("ascii"))
    except (OSError, ValueError):
        return _OVERFLOW
