"""A Python module run in this process, which tells how much it has in memory when it is asked.

    python counted.py FIFO PYTHON -m MODULE [ARGUMENT …]

SIGUSR1 has it write into FIFO how many blocks of memory Python's allocator has given out: an object that is kept is
one at least, and nothing else moves the figure, where resident memory comes and goes in pages.
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
    """How many blocks this process has, garbage left out."""
    answer = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.kill(pid, signal.SIGUSR1)
        assert select.select([answer], [], [], ANSWERS_WITHIN_S)[0], "no answer"
        return int(os.read(answer, 100))
    finally:
        os.close(answer)


def main() -> None:
    """Be that module, in the place of its own process."""
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
