"""Run a Python module in this process, and report on request how much memory its objects take.

    python counted.py FIFO PYTHON -m MODULE [ARGUMENT …]

On SIGUSR1 it writes into FIFO how many memory blocks Python's allocator has in use. Every object that is kept is at
least one block, and nothing else changes the figure, unlike resident memory, which changes by pages.
"""

from __future__ import annotations

import gc
import os
import runpy
import select
import signal
import sys
from pathlib import Path

ANSWERS_WITHIN_S = 20.0


def count(pid: int, fifo: Path) -> int:
    """How many blocks the process has in use after a garbage collection."""
    answer = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.kill(pid, signal.SIGUSR1)
        assert select.select([answer], [], [], ANSWERS_WITHIN_S)[0], "no answer"
        return int(os.read(answer, 100))
    finally:
        os.close(answer)


def main() -> None:
    """Run the module as if it had been started itself."""
    fifo, _, _, module, *arguments = sys.argv[1:]

    def tell(*_: object) -> None:
        gc.collect()
        blocks = sys.getallocatedblocks()
        Path(fifo).write_text(f"{blocks}\n")

    signal.signal(signal.SIGUSR1, tell)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
