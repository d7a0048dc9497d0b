"""A program in a pseudo-terminal, whose output is interpreted as a terminal would, and read as text."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence

import pyte

WITHIN_S = 30.0

# Queries and settings of newer terminals, which pyte would print in part.
UNKNOWN = re.compile(rb"\x1b\[[<>=?]?[0-9;]*\$p|\x1b\[[<>=][0-9;]*[a-z]|\x1b_[^\x1b]*\x1b\\|\x1bP[^\x1b]*\x1b\\")


class Terminal:
    """Runs a program in a terminal of its own.

    Args:
        argv: the program.
        columns, lines: the terminal's size.
        environ: added to this process's environment.
    """

    def __init__(
        self, argv: Sequence[str], columns: int = 80, lines: int = 24, environ: Mapping[str, str] | None = None
    ) -> None:
        self._ours, self._theirs = pty.openpty()
        self.output = b""
        """All that the program has written."""
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._set_size(columns, lines)
        self._modes = termios.tcgetattr(self._theirs)
        # where tests run in parallel, the size of another terminal is set, which would take precedence
        inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        # `setsid --ctty` makes this the controlling terminal, so that the program is told of a new size
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *argv],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env={**inherited, "TERM": "xterm-256color", "COLORTERM": "truecolor", **(environ or {})},
        )

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    # -- reading ----------------------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """What is on the screen."""
        return "\n".join(line.rstrip() for line in self._screen.display)

    def _read(self, timeout_s: float) -> bool:
        """Take what the program has written, if it does so in this time."""
        if not select.select([self._ours], [], [], timeout_s)[0]:
            return False
        data = os.read(self._ours, 65536)
        self.output += data
        self._stream.feed(UNKNOWN.sub(b"", data))
        return True

    def until(self, condition: Callable[[str], bool] | str) -> str:
        """Return the screen's text once it meets a condition, or has this text in it."""
        found = condition if callable(condition) else lambda text: condition in text
        deadline = time.monotonic() + WITHIN_S
        while not found(self.text):
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"not seen: {condition}\n{self.text}"
            assert self.process.poll() is None or self._read(0), f"exited: {self.process.returncode}\n{self.text}"
            self._read(min(left_s, 0.5))
        return self.text

    # -- acting -----------------------------------------------------------------------------------------------

    def press(self, keys: str) -> None:
        """Type keys."""
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Change the size of the terminal."""
        self._screen.resize(lines, columns)
        self._set_size(columns, lines)

    def wait(self) -> int:
        """Read until the program has exited. Returns its exit status."""
        deadline = time.monotonic() + WITHIN_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it did not exit\n{self.text}"
            self._read(0.05)
        while self._read(0):
            pass
        return self.process.returncode

    @property
    def is_as_before(self) -> bool:
        """Whether the modes of the terminal (echo, line editing …) are those that it had before the program."""
        return termios.tcgetattr(self._theirs) == self._modes

    def close(self) -> None:
        """End the program, if it runs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
