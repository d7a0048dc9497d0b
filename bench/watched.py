"""callstated, with a stopwatch on each turn of its loop: `python -m bench.watched FILE ARGUMENT ...`.

The stopwatch is a callback that schedules itself again, so it runs once in each turn of the loop, which never
sleeps. What it found is in FILE, two doubles: seconds on the wall, and of the loop's thread on a processor. Who
reads them writes zeros to begin anew.
"""

from __future__ import annotations

import asyncio
import mmap
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from callstate_sidecar import launch
from callstate_sidecar.daemon import Daemon
from callstate_sidecar.system.exits import Exit

LONGEST: Final = struct.Struct("dd")
"""The longest turn so far, seconds: on the wall, on a processor."""


def watch(found: mmap.mmap) -> Callable[[], None]:
    """A callback of the running loop that keeps the longest of its turns."""
    loop = asyncio.get_running_loop()
    wall, processor = time.perf_counter(), time.thread_time()

    def turned() -> None:
        nonlocal wall, processor
        wall_before, processor_before = wall, processor
        wall, processor = time.perf_counter(), time.thread_time()
        longest, busiest = LONGEST.unpack_from(found)
        took, worked = wall - wall_before, processor - processor_before
        if took > longest or worked > busiest:
            LONGEST.pack_into(found, 0, max(longest, took), max(busiest, worked))
        loop.call_soon(turned)

    return turned


class WatchedDaemon(Daemon):
    """A daemon whose loop is timed."""

    found: mmap.mmap

    async def run(self) -> Exit:
        """As `Daemon.run`."""
        asyncio.get_running_loop().call_soon(watch(self.found))
        return await super().run()


def main(path: Path, arguments: list[str]) -> int:
    """Run it until it is told to stop."""
    path.write_bytes(bytes(LONGEST.size))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), LONGEST.size) as found:
        WatchedDaemon.found = found
        launch.Daemon = WatchedDaemon  # type: ignore[misc]
        return launch.main(arguments)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
