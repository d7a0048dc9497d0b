"""The standard streams of a command, whatever it was started with: closed, on a full disk, or with nobody reading.

What can't be printed is said by the exit status, as coreutils do it: a line on stderr and 1, or, where the reader
went away, nothing and 141. Output is UTF-8 whatever the locale says, for JSON is, and so are transcripts.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Final, TextIO

FAILED: Final = 1
INTERRUPTED: Final = 128 + 2  # as shells report SIGINT
READER_GONE: Final = 128 + 13  # as shells report SIGPIPE


def run(program: str, command: Callable[[], int]) -> int:
    """Run a command; gives its exit status, or that of an output that could not be written.

    Args:
        program: what its messages begin with.
        command: prints to `sys.stdout` and gives a status; may end by OSError, which is said in one line, or by
            KeyboardInterrupt.

    Raises:
        SystemExit: of argparse, where what it printed could be written.
    """
    _open_closed()
    before = sys.stdout
    sys.stdout = _buffered(before)
    try:
        return _status(program, command)
    finally:
        _drop_unwritten(sys.stdout)
        sys.stdout = before
        _drop_unwritten(sys.stderr)


def complain(program: str, text: str) -> None:
    """Say on stderr what went wrong. Where that can't be written either, the exit status has to be enough."""
    try:
        sys.stderr.write(f"{program}: {text}\n")
        sys.stderr.flush()
    except OSError:
        return


def _status(program: str, command: Callable[[], int]) -> int:
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        return READER_GONE
    except OSError as error:
        complain(program, str(error))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _open_closed() -> None:
    """Put something in the place of closed streams: the next file or socket opened would get their number.

    Closed output is opened for reading, so that writing to it fails as it would have; nobody needs to know that of
    stdin and stderr.
    """
    for fd, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, flags)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
    if sys.stdout is None:
        sys.stdout = _text(1)
    if sys.stderr is None:
        sys.stderr = _text(2)


def _buffered(stream: TextIO) -> TextIO:
    """The stream with a buffer even where PYTHONUNBUFFERED took it away: without, a short write goes unnoticed."""
    try:
        return _text(stream.fileno())
    except io.UnsupportedOperation:  # no file: somebody catches what this process prints
        return stream


def _text(fd: int) -> TextIO:
    return open(fd, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


def _drop_unwritten(stream: TextIO) -> None:
    """Keep the interpreter from trying again at its exit, which would change the status to 120."""
    try:
        stream.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        stream.flush()
