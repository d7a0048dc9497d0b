"""Run a daemon in this process whose wall clock can be set from outside.

    python clocked.py FILE PYTHON -m MODULE [ARGUMENT …]

FILE has the offset of the clock from the system's, as a 64-bit number of microseconds. A step of the system's own
clock would need root, and be one for everything else on this machine.
"""

from __future__ import annotations

import mmap
import runpy
import struct
import sys
import time
from pathlib import Path

OFFSET = struct.Struct("=q")


def set_offset(file: Path, offset_us: int) -> None:
    """Set the clock of the daemons that have this file."""
    with file.open("r+b") as opened:
        opened.write(OFFSET.pack(offset_us))


def main() -> None:
    """Run the module as if it had been started itself."""
    from callstate_sidecar.system.clock import SystemClock

    file, _, _, module, *arguments = sys.argv[1:]
    with Path(file).open("rb") as opened:
        offset = memoryview(mmap.mmap(opened.fileno(), OFFSET.size, access=mmap.ACCESS_READ)).cast("q")
    SystemClock.wall_us = lambda _: time.time_ns() // 1000 + offset[0]  # type: ignore[method-assign]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
