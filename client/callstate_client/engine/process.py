"""Which process is meant: pids are recycled, so a pid alone says too little."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Gone(Enum):
    """What a search for a process gives that runs no more."""

    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this host, told from others that had or will have its pid.

    Args:
        pid: as the daemon's PID namespace sees it, from 1; 0: it does not see it, and the inode says which it is.
        start_ticks: when it started, clock ticks after boot (proc_pid_stat(5), field 22); 0: unknown, since /proc
            may hide the processes of other users (ProtectProc=invisible, hidepid=).
        boot_id: the boot that the ticks and the inode belong to; "": unknown.
        pidfs_inode: what its pidfds have for an inode number, unique for the whole boot since Linux 6.9; needs no
            /proc; 0: unknown.
    """

    pid: int
    start_ticks: int = 0
    boot_id: str = ""
    pidfs_inode: int = 0

    @property
    def key(self) -> int:
        """The same for one process at a time: its pid, or below 0 its inode where it has none here."""
        return self.pid or -self.pidfs_inode

    def is_same(self, other: Process) -> bool | None:
        """Whether both are one process; None: nothing speaks against it, but nothing proves it."""
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
