"""Run a daemon in this process, and measure how long its event loop takes for a turn.

    python probed.py FILE -m MODULE [ARGUMENT …]

FILE has the longest time so far for which the loop did not come back, as a double, seconds; whoever reads it writes
zero to begin anew. A timer of a millisecond is what measures it: shorter turns are not seen, and cost nothing.
"""

from __future__ import annotations

import mmap
import runpy
import struct
import sys
import time
from pathlib import Path
from typing import Any, Final

EVERY_S: Final = 0.001
DOUBLE: Final = struct.Struct("=d")


class Probe:
    """A timer in the loop, which writes down how late it was.

    Args:
        longest: shared memory with one double.
    """

    def __init__(self, longest: memoryview) -> None:
        self._longest = longest
        self._due = 0.0

    def start(self, loop: Any) -> None:
        """Set the timer for the first time."""
        self._loop = loop
        self._due = time.perf_counter() + EVERY_S
        loop.call_later(EVERY_S, self._rang)

    def _rang(self) -> None:
        late_s = time.perf_counter() - self._due
        self._longest[0] = max(self._longest[0], late_s)
        self.start(self._loop)


def main() -> None:
    """Run the module as if it had been started itself."""
    import uvloop  # noqa: PLC0415 - of the environment that the daemon runs in

    file, _, module, *arguments = sys.argv[1:]
    with Path(file).open("r+b") as opened:
        longest = memoryview(mmap.mmap(opened.fileno(), DOUBLE.size)).cast("d")
    plain = uvloop.Loop.run_until_complete

    def probed(loop: Any, future: Any) -> Any:
        if not hasattr(main, "probe"):
            main.probe = Probe(longest)  # type: ignore[attr-defined]
            main.probe.start(loop)  # type: ignore[attr-defined]
        return plain(loop, future)

    uvloop.Loop.run_until_complete = probed  # type: ignore[method-assign]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
