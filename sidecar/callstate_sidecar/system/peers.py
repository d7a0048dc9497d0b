"""Who is at the other end of a socket, and whether it still runs: what only the kernel can tell.

A pidfd stands for one process, whatever becomes of its pid, and is readable once that process has exited
(pidfd_open(2)). SO_PEERPIDFD (Linux 6.5) gives the one of the process that connected; before that, one is opened
by the pid in SO_PEERCRED. Where neither works (macOS, older kernels, seccomp, no descriptors left) there is none:
a worker is then known by its connection and its beats alone.

A process of a PID namespace that the daemon's does not see, as of another container, has no pid here. Its pidfd is
as good as any: the inode says which process it is, and it is readable at its exit. Only a restart can't find it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
import socket
import struct
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, Protocol

from callstate_client.engine.process import Gone, Process

log = logging.getLogger(__name__)

SO_PEERPIDFD: Final = 77
"""include/uapi/asm-generic/socket.h; Python's socket module has no name for it."""

_INT: Final = struct.Struct("i")
_UCRED: Final = struct.Struct("3i")
"""pid, uid, gid: unix(7)."""

_START_FIELD: Final = 22 - 3
"""Place of the start time in /proc/<pid>/stat behind the command's name, which is field 2 and may hold anything."""

_NO_SUCH_PROCESS: Final = (errno.ESRCH, errno.EINVAL, errno.ENOENT)
"""Reaped, or its pid is by now that of a thread: kernels have different names for it."""


class PeerSocket(Protocol):
    """A socket, or what asyncio and uvloop give out in place of one."""

    def fileno(self) -> int: ...

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


class Peer:
    """A process, and the pidfd to watch it by. Whoever has it closes it, or hands it to a `Watch`.

    Args:
        process: which one; None where the kernel does not say.
        pidfd: -1 for none.
        exited: it is known to run no more.
    """

    __slots__ = ("exited", "pidfd", "process")

    def __init__(self, process: Process | None, pidfd: int = -1, *, exited: bool = False) -> None:
        self.process = process
        self.pidfd = pidfd
        self.exited = exited

    @property
    def watchable(self) -> bool:
        """Whether its exit is known or will be told."""
        return self.exited or self.pidfd >= 0

    def watch(self, exited: Callable[[], None]) -> Watch:
        """Call back once when the process has exited; see Watch."""
        return Watch(self, exited)

    def close(self) -> None:
        """Give the pidfd back; again is nothing."""
        pidfd, self.pidfd = self.pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)


class Watch:
    """Calls back once, from the running loop, when a peer's process has exited. Never from within the constructor.

    Args:
        peer: a watchable one; its pidfd is the watch's from now on, and is closed with it.
        exited: called without arguments, the watch being closed already.
    """

    def __init__(self, peer: Peer, exited: Callable[[], None]) -> None:
        if not peer.watchable:
            raise ValueError("there is no pidfd to watch this peer by")
        self._peer = peer
        self._exited = exited
        self._loop = asyncio.get_running_loop()
        self._soon: asyncio.Handle | None = None
        if peer.exited:
            self._soon = self._loop.call_soon(self._tell)
        else:
            self._loop.add_reader(peer.pidfd, self._tell)

    def _tell(self) -> None:
        self.close()
        self._exited()

    def close(self) -> None:
        """Watch no more; again, or from the callback, is nothing."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._peer.pidfd >= 0:
            self._loop.remove_reader(self._peer.pidfd)  # first: the number may be another file's once it is closed
            self._peer.close()


class Peers:
    """Finds processes: behind a connection, or by what the journal remembers of them.

    Args:
        boot_id: this boot of the machine ("": unknown).
        proc: where procfs is.

    Attributes:
        failures: how many processes could not be watched for a reason that is none of theirs (no descriptors left,
            a refused call); the first is logged.
    """

    def __init__(self, boot_id: str, proc: Path = Path("/proc")) -> None:
        self._boot_id = boot_id
        self._proc = proc
        self.failures = 0

    @cached_property
    def works(self) -> bool:
        """Whether exits of processes are told here at all (Linux 5.3): `process`, else `connection` liveness."""
        pidfd = self._open(os.getpid())
        if pidfd is None or pidfd is Gone.GONE:
            return False
        os.close(pidfd)
        return True

    def identify(self, sock: PeerSocket) -> Peer:
        """The process that connected this Unix stream socket.

        That is who called connect(2): a child that inherited the connection is not seen. One in a PID namespace
        that ours does not see has pid 0, and is told by the inode of its pidfd (Linux 6.9). Without a process: such
        a peer on an older kernel, a socket of another family, a system that does not say.
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
        """A process that has no pid here."""
        if not isinstance(pidfd, int):
            return Peer(None)
        inode = self._pidfs_inode(pidfd)
        exited = _readable(pidfd)
        if exited or not inode:  # without an inode nothing tells it from others
            os.close(pidfd)
            pidfd = -1
        return Peer(Process(0, 0, self._boot_id, inode), pidfd, exited=exited) if inode else Peer(None)

    def _identify_by_pid(self, sock: PeerSocket, pid: int) -> Peer:
        """As before Linux 6.5.

        The pid may be recycled between connect(2) and our opening it, but not while its process lives, and that
        holds the connection; so what is opened is right if nobody has hung up afterwards. The one hole: it exited,
        a child of it has the connection, and the pid is a stranger's. A stranger's exit is told then, which
        counts for nothing before that connection is closed too, or is never told, and beats decide.
        """
        pidfd = self._open(pid)
        if _hung_up(sock):
            if isinstance(pidfd, int):
                os.close(pidfd)
            return Peer(None)
        return self._peer(pid, pidfd)

    def find(self, process: Process) -> Peer | Literal[Gone.GONE] | None:
        """A process the journal remembers, to be watched again; None: it can't be told whether it runs."""
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
            log.warning("a worker's process can't be watched, so only its beats and connections count: %s", error)
        self.failures += 1
        return None

    def _peer(self, pid: int, pidfd: int | Literal[Gone.GONE] | None) -> Peer:
        if not isinstance(pidfd, int):
            # without a pidfd nothing keeps the pid from being another's by the time /proc is read
            return Peer(Process(pid, boot_id=self._boot_id), exited=pidfd is Gone.GONE)
        start_ticks = self._start_ticks(pid)
        inode = self._pidfs_inode(pidfd)
        if _readable(pidfd):
            os.close(pidfd)  # it exited, and the pid that /proc was asked for may be another's already
            return Peer(Process(pid, 0, self._boot_id, inode), exited=True)
        return Peer(Process(pid, start_ticks, self._boot_id, inode), pidfd)

    # -- marks ----------------------------------------------------------------------------------------------

    def _start_ticks(self, pid: int) -> int:
        try:
            stat = (self._proc / str(pid) / "stat").read_bytes()
        except OSError:
            return 0
        # the name is in parentheses and may contain some, and spaces: the last one ends it
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
        """The device of files that share one inode, as eventfds do; until Linux 6.9 pidfds were on it as well."""
        if sys.platform != "linux":
            raise OSError(errno.ENOSYS, "no eventfd")
        fd = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            return os.fstat(fd).st_dev
        finally:
            os.close(fd)


def _peer_pid(sock: PeerSocket) -> int:
    """As the system has it: 0 for a process that this PID namespace does not see; -1 where it does not say."""
    if sys.platform != "linux":
        return -1
    try:
        pid: int = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[0]
    except OSError:
        return -1
    return pid


def _poll(fd: int, events: int) -> int:
    poll = select.poll()
    poll.register(fd, events)
    found = poll.poll(0)
    return found[0][1] if found else 0


def _readable(pidfd: int) -> bool:
    return bool(_poll(pidfd, select.POLLIN))


def _hung_up(sock: PeerSocket) -> bool:
    """Whether nobody holds the other end any more: poll(2) says that unasked, and not of a half-closed one."""
    return bool(_poll(sock.fileno(), 0))


def _runs(pid: int) -> bool:
    """Whether some process has this pid."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's: it runs
    return True
