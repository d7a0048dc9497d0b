"""Other users of this machine: processes that run as made-up uids, and connect to Unix sockets.

Needs root. The kernel vouches for who called connect(2), so the connection is made in a child process, which passes
it here and lives until it is closed; what is sent on it is up to the test.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from support.wire import Wire

ALICE = 12001
BOB = 12002
CAROL = 12003
"""Made-up uids, each with a primary group of the same number."""

TEAM = 12100
"""A made-up gid."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run processes as other users")

_CLONE_NEWUSER = 0x10000000

_READY = b"ready"


class User:
    """A process of another user.

    Args:
        uid: of the process.
        gid: its primary group; by default of the same number.
        groups: its other groups.
        as_root: run it in a user namespace of its own, as root there.

    Raises:
        RuntimeError: the process could not become this user; says why.
    """

    def __init__(
        self, uid: int, gid: int | None = None, groups: Sequence[int] = (), *, as_root: bool = False
    ) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._orders.settimeout(20)
        # a fork, as the interpreter may be in a directory that others can't enter
        self.pid = os.fork()
        if not self.pid:
            try:
                self._orders.close()
                _become(uid, uid if gid is None else gid, groups, as_root=as_root)
                theirs.send(_READY)
                _connect_on_request(theirs)
            except OSError as error:
                theirs.send(str(error).encode())
            finally:
                os._exit(0)
        theirs.close()
        answer = self._orders.recv(200)
        if answer != _READY:
            self.close()
            raise RuntimeError(f"no process of user {uid}: {answer.decode()}")

    def connect(self, path: Path) -> socket.socket:
        """A connection that this user has made.

        Raises:
            PermissionError: this user may not connect.
        """
        self._orders.send(str(path).encode())
        answer, fds, _, _ = socket.recv_fds(self._orders, 200, 1)
        if not fds:
            raise PermissionError(answer.decode())
        return socket.socket(fileno=fds[0])

    def wire(self, path: Path) -> Wire:
        """The same, to send requests."""
        return Wire(path, connected=self.connect(path))

    def close(self) -> None:
        """End the process."""
        self._orders.close()
        os.kill(self.pid, signal.SIGKILL)  # a later child may have inherited our end
        os.waitpid(self.pid, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _become(uid: int, gid: int, groups: Sequence[int], *, as_root: bool) -> None:
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if as_root:
        _enter_namespace(uid, gid)


def _enter_namespace(uid: int, gid: int) -> None:
    """As `unshare --user --map-root-user` does; raises OSError where the kernel forbids it."""
    while len([*Path("/proc/self/task").iterdir()]) > 1:  # which the kernel would refuse
        os.sched_yield()  # OpenTelemetry, once imported, starts threads in each forked child, and waits for them
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: after a change of user our own /proc/self is root's
    if libc.unshare(_CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    for name, text in (("setgroups", b"deny"), ("uid_map", b"0 %d 1" % uid), ("gid_map", b"0 %d 1" % gid)):
        Path(f"/proc/self/{name}").write_bytes(text)  # as bytes: codecs may be where only root can read


def _connect_on_request(orders: socket.socket) -> None:
    while path := orders.recv(108):
        with socket.socket(socket.AF_UNIX) as made:
            try:
                made.connect(path.decode())
            except OSError as error:
                orders.send(str(error).encode())
            else:
                socket.send_fds(orders, [b"."], [made.fileno()])


def why_no_namespaces(uid: int = ALICE) -> str:
    """Why a user can't make user namespaces here; empty if that works."""
    pid = os.fork()
    if not pid:
        try:
            _become(uid, uid, (), as_root=True)
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return f"the kernel forbids user namespaces: {os.strerror(status)}" if status else ""
