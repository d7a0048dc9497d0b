"""The standard streams of `callstate`, however it was started: closed, on a full disk, or without a reader.

Output that can't be written shows in the exit status, as with coreutils: one line on stderr and status 1, or, if
the reader has hung up, no line and status 141. Output is UTF-8 in every locale, because JSON and transcripts are.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Final, TextIO

FAILED: Final = 1
INTERRUPTED: Final = 128 + 2  # as shells report SIGINT
BROKEN_PIPE: Final = 128 + 13  # as shells report SIGPIPE


def run(program: str, command: Callable[[], int]) -> int:
    """Run a command and return its exit status, or the status of an output that could not be written.

    Args:
        program: prefix of error messages.
        command: prints to `sys.stdout` and returns a status; it may raise OSError, which is reported in one line,
            and KeyboardInterrupt.

    Raises:
        SystemExit: raised by argparse, if what it printed could be written.
    """
    _open_closed()
    before = sys.stdout
    sys.stdout = _buffered(before)
    try:
        return _status(program, command)
    finally:
        _discard_unwritten(sys.stdout)
        sys.stdout = before
        _discard_unwritten(sys.stderr)


def complain(program: str, text: str) -> None:
    """Print an error to stderr. If that fails too, the exit status has to be enough."""
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
        return BROKEN_PIPE
    except OSError as error:
        complain(program, str(error))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _open_closed() -> None:
    """Occupy the numbers of closed streams, which the next socket would otherwise get.

    stdout is opened for reading only, so that writing to it fails as it would have; stdin and stderr may fail
    silently.
    """
    for fd, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest free number: this one
    if sys.stdout is None:
        sys.stdout = _text(1)
    if sys.stderr is None:
        sys.stderr = _text(2)


def _buffered(stream: TextIO) -> TextIO:
    """The stream with a buffer, even under PYTHONUNBUFFERED: without one, Python ignores a short write."""
    try:
        return _text(stream.fileno())
    except io.UnsupportedOperation:  # not a file: the caller captures the output
        return stream


def _text(fd: int) -> TextIO:
    return open(fd, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


def _discard_unwritten(stream: TextIO) -> None:
    """Keep the interpreter from flushing again at exit, which would fail again and turn the status into 120."""
    try:
        stream.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        stream.flush()
