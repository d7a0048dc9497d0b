"""The process at the other end of a Unix socket, and one that the journal names, each found with its pidfd.

SO_PEERPIDFD (Linux 6.5) returns the pidfd of the process that connected; on older kernels one is opened by the pid
in SO_PEERCRED. Where neither works (macOS, older kernels, seccomp, no descriptors left) only connection and
heartbeats tell whether a worker is alive.

A process in a PID namespace that is invisible to the daemon, such as another container's, has no pid here. Its
pidfd works all the same, and its inode identifies the process; but after a restart of the daemon it can't be found
again.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, Protocol

from callstate_client.engine.process import Gone, Process
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.system.pidfd import Peer, has_exited, poll

log = EventLog(__name__)

SO_PEERPIDFD: Final = 77
"""include/uapi/asm-generic/socket.h; Python's socket module has no name for it."""

_INT: Final = struct.Struct("i")
_UCRED: Final = struct.Struct("3i")
"""pid, uid, gid: unix(7)."""

_START_FIELD: Final = 22 - 3
"""Index of the start time in /proc/<pid>/stat, counted after the command's name, which may contain anything."""

_NO_SUCH_PROCESS: Final = (errno.ESRCH, errno.EINVAL, errno.ENOENT)
"""The process was reaped, or its pid now belongs to a thread; kernels differ in the code."""


class PeerSocket(Protocol):
    """A socket, or what asyncio and uvloop return in place of one."""

    def fileno(self) -> int: ...

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


class Peers:
    """Finds processes: by a connection, or by what the journal has about them.

    Args:
        boot_id: id of this boot of the machine; empty if unknown.
        proc: where procfs is mounted.

    Attributes:
        failures: number of processes that could not be watched although they run (no descriptors left, a refused
            call); the first failure is logged.
    """

    def __init__(self, boot_id: str, proc: Path = Path("/proc")) -> None:
        self._boot_id = boot_id
        self._proc = proc
        self.failures = 0

    @cached_property
    def works(self) -> bool:
        """Whether pidfds work here at all (Linux 5.3): liveness is then `process`, else `connection`."""
        pidfd = self._open(os.getpid())
        if pidfd is None or pidfd is Gone.GONE:
            return False
        os.close(pidfd)
        return True

    def identify(self, sock: PeerSocket) -> Peer:
        """The process that connected this Unix stream socket.

        That is the process that called connect(2), not a child that inherited the connection. One in an invisible
        PID namespace has pid 0, and is identified by the inode of its pidfd (Linux 6.9). The result has no
        process for such a peer on an older kernel, for sockets of other families, and on systems that can't tell.
        """
        pid = _peer_pid(sock)
        if pid < 0:
            return Peer(None)
        try:
            pidfd: int | Literal[Gone.GONE] | None = _INT.unpack(
                sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, _INT.size)
            )[0]
        except OSError as error:
            if pid == 0:
                return Peer(None)
            if error.errno == errno.ENOPROTOOPT:
                return self._identify_by_pid(sock, pid)
            pidfd = self._none_for(error)
        return self._peer(pid, pidfd) if pid else self._elsewhere(pidfd)

    def _elsewhere(self, pidfd: int | Literal[Gone.GONE] | None) -> Peer:
        """A process without a pid in our namespace."""
        if not isinstance(pidfd, int):
            return Peer(None)
        inode = self._pidfs_inode(pidfd)
        exited = has_exited(pidfd)
        if exited or not inode:  # without an inode it can't be identified
            os.close(pidfd)
            pidfd = -1
        return Peer(Process(0, 0, self._boot_id, inode), pidfd, exited=exited) if inode else Peer(None)

    def _identify_by_pid(self, sock: PeerSocket, pid: int) -> Peer:
        """Identification before Linux 6.5.

        The pid may be reused between connect(2) and pidfd_open(2), but not while its process lives and holds the
        connection. So the pidfd is the right one if afterwards the peer has not hung up. One hole remains: the
        process exited, a child inherited the connection, and the pid is a stranger's. Then the stranger's exit is
        reported, which has no effect before that connection is closed too; or without an exit, heartbeats decide.
        """
        pidfd = self._open(pid)
        if _hung_up(sock):
            if isinstance(pidfd, int):
                os.close(pidfd)
            return Peer(None)
        return self._peer(pid, pidfd)

    def find(self, process: Process) -> Peer | Literal[Gone.GONE] | None:
        """Find a process from the journal, to watch it again; None if it can't be told whether it runs."""
        if process.pid <= 0:
            return None
        if process.boot_id and self._boot_id and process.boot_id != self._boot_id:
            return Gone.GONE
        pidfd = self._open(process.pid)
        if pidfd is None:
            return None if _runs(process.pid) else Gone.GONE
        peer = self._peer(process.pid, pidfd)
        same = None if peer.process is None else process.is_same(peer.process)
        if same and not peer.exited:
            return peer
        peer.close()
        return Gone.GONE if peer.exited or same is False else None

    # -- descriptors ----------------------------------------------------------------------------------------

    def _open(self, pid: int) -> int | Literal[Gone.GONE] | None:
        if sys.platform != "linux":
            return None
        try:
            return os.pidfd_open(pid)
        except OSError as error:
            return self._none_for(error)

    def _none_for(self, error: OSError) -> Literal[Gone.GONE] | None:
        if error.errno in _NO_SUCH_PROCESS:
            return Gone.GONE
        if not self.failures:
            log.warning(
                "worker_unwatched",
                "a worker's process can't be watched, so only its heartbeats and connections count: %s",
                error,
            )
        self.failures += 1
        return None

    def _peer(self, pid: int, pidfd: int | Literal[Gone.GONE] | None) -> Peer:
        if not isinstance(pidfd, int):
            # without a pidfd the pid may be reused before /proc is read
            return Peer(Process(pid, boot_id=self._boot_id), exited=pidfd is Gone.GONE)
        start_ticks = self._start_ticks(pid)
        inode = self._pidfs_inode(pidfd)
        if has_exited(pidfd):
            os.close(pidfd)  # it has exited, so what /proc says may be about another process
            return Peer(Process(pid, 0, self._boot_id, inode), exited=True)
        return Peer(Process(pid, start_ticks, self._boot_id, inode), pidfd)

    # -- identity ----------------------------------------------------------------------------------------------

    def _start_ticks(self, pid: int) -> int:
        try:
            stat = (self._proc / str(pid) / "stat").read_bytes()
        except OSError:
            return 0
        # the name is in parentheses, and may itself contain parentheses and spaces
        return int(stat[stat.rindex(b")") + 1 :].split()[_START_FIELD])

    def _pidfs_inode(self, pidfd: int) -> int:
        try:
            anonymous = self._anonymous_device
        except OSError:
            return 0
        found = os.fstat(pidfd)
        return 0 if found.st_dev == anonymous else found.st_ino

    @cached_property
    def _anonymous_device(self) -> int:
        """The device of anonymous inodes, such as eventfds; before Linux 6.9 pidfds were on it as well."""
        if sys.platform != "linux":
            raise OSError(errno.ENOSYS, "no eventfd")
        fd = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            return os.fstat(fd).st_dev
        finally:
            os.close(fd)


def _peer_pid(sock: PeerSocket) -> int:
    """The peer's pid: 0 if it is invisible in this PID namespace; -1 if the system does not tell."""
    if sys.platform != "linux":
        return -1
    try:
        pid: int = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[0]
    except OSError:
        return -1
    return pid


def _hung_up(sock: PeerSocket) -> bool:
    """Whether the other end is closed: poll(2) reports that unasked, but not for a half-closed connection."""
    return bool(poll(sock.fileno(), 0))


def _runs(pid: int) -> bool:
    """Whether any process has this pid."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's: it runs
    return True
