"""The identity of a process. Pids are recycled, so a pid alone does not tell one process from another."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Gone(Enum):
    """The result of looking up a process that has exited."""

    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this host, distinguished from others that had its pid before or will have it later.

    Args:
        pid: in the daemon's PID namespace, from 1; 0: it is not visible there, and the inode identifies it.
        start_ticks: when it started, clock ticks after boot (proc_pid_stat(5), field 22); 0: unknown, as where
            /proc hides the processes of other users (ProtectProc=invisible, hidepid=).
        boot_id: the boot that the ticks and the inode belong to; "": unknown.
        pidfs_inode: the inode number of its pidfds, unique during a boot since Linux 6.9, and readable without
            /proc; 0: unknown.
    """

    pid: int
    start_ticks: int = 0
    boot_id: str = ""
    pidfs_inode: int = 0

    @property
    def key(self) -> int:
        """Unique among running processes: the pid, or the negative inode where the pid is not visible."""
        return self.pid or -self.pidfs_inode

    def is_same(self, other: Process) -> bool | None:
        """Whether both are the same process; None: they may be, but nothing proves it."""
        if self.pid != other.pid:
            return False
        booted = bool(self.boot_id and other.boot_id)
        if booted and self.boot_id != other.boot_id:
            return False
        marks = ((self.start_ticks, other.start_ticks), (self.pidfs_inode, other.pidfs_inode))
        known = [(ours, theirs) for ours, theirs in marks if ours and theirs]
        if any(ours != theirs for ours, theirs in known):
            return False
        return True if known and booted else None
