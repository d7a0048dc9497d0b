"""stdout and stderr of `callstated` and its subcommands: UTF-8 in any locale, and no failed write goes unnoticed.

Python ignores short writes to an unbuffered stdout, and exits with status 120 and a traceback if the last flush
fails. Here a failed write ends the command: one line on stderr and status 1, or, where the reader has hung up
(`callstated journal export DIR | head`), just status 141.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Final, TextIO

from callstate_sidecar.system.exits import Exit

INTERRUPTED: Final = 128 + 2  # as shells report SIGINT
BROKEN_PIPE: Final = 128 + 13  # as shells report SIGPIPE


def run(program: str, command: Callable[[], int]) -> int:
    """Run the command that is this process's whole work, and return its exit status.

    Args:
        program: prefix of error messages.
        command: prints to `sys.stdout` and returns a status.

    Raises:
        SystemExit: raised by argparse, if what it printed could be written.
    """
    _open_closed()
    sys.stdout = _text(1)
    if sys.stderr is None:
        sys.stderr = _text(2)
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        return BROKEN_PIPE
    except OSError as error:
        complain(program, str(error))
        return Exit.FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:  # let the interpreter's flush at exit succeed
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open_closed() -> None:
    """Occupy the numbers of closed streams, which the next file would otherwise get: a print would write into it.

    stdout is opened for reading only, so that writing to it fails as it would have; stdin and stderr may fail
    silently.
    """
    for fd, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest free number: this one


def _text(fd: int) -> TextIO:
    return open(fd, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


def complain(program: str, text: str) -> None:
    """Print an error to stderr. If that fails too, the exit status has to be enough."""
    try:
        sys.stderr.write(f"{program}: {text}\n")
        sys.stderr.flush()
    except OSError:
        return
