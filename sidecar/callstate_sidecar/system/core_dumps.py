"""No copies of the daemon's memory: neither core dumps nor debuggers of its own user.

RLIMIT_CORE alone is not enough: where the kernel passes core dumps to a program, such as systemd-coredump, it is up
to that program to obey the limit (core(5)). A process that is not dumpable has none in any case, and no other
process of its user may read its memory (ptrace(2), PR_SET_DUMPABLE(2const)); root's still may.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from typing import Final

PR_SET_DUMPABLE: Final = 4
"""From linux/prctl.h."""


def forbid() -> None:
    """Forbid them for this process and those that it forks. On macOS there is only the limit.

    Raises:
        OSError: the kernel refuses.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE) failed")
