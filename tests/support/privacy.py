"""What is private (what was said, numbers, recovery data), and whether it is in what a daemon or a client prints.

Every daemon of the suite is searched when it is closed: its log, and what this process's client has logged, must
have none of the texts that its files or the lines sent to it contain in a private member.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Final

LEAST_CHARS: Final = 8
"""Shorter texts, such as `hi`, are found in any log."""

FILE_BYTES: Final = 1024 * 1024
"""What is read of each file: a segment is 16 MiB of zeros, but for its beginning."""

LINE_BYTES: Final = 64 * 1024
"""Longer lines than this one are not looked into: there are tests that send gigabytes."""

TEXTS: Final = 2000
"""The most texts that are remembered for one daemon."""

_TEXT: Final = rb'"((?:[^"\\\x00-\x1f]|\\.){%d,400})"' % LEAST_CHARS
_TELLING: Final = re.compile(rb"[^a-zA-Z]")
"""A single word may be in a log for another reason."""

_MEMBER: Final = re.compile(rb'"(?:content|from|to)"\s*:\s*' + _TEXT)
_RECOVERY: Final = re.compile(rb'"recovery_data"\s*:\s*(\{[^{}\x00]{1,4000}\})')
_VALUE: Final = re.compile(rb":\s*" + _TEXT)


def private_texts(data: bytes) -> set[bytes]:
    """The texts in private members of the JSON that is somewhere in here, as they are spelled there."""
    texts = set(_MEMBER.findall(data))
    for members in _RECOVERY.findall(data):
        texts.update(_VALUE.findall(members))
    return {text for text in texts if _TELLING.search(text)}


class ClientLog(logging.Handler):
    """The last lines that the client has logged in this process, with their tracebacks."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=1000)
        self.setFormatter(logging.Formatter("%(name)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        with contextlib.suppress(Exception):  # a fault in a line's arguments is its own test's matter
            self.lines.append(self.format(record))


CLIENT_LOG: Final = ClientLog()

_sent: dict[Path, set[bytes]] = {}


def sent(socket: Path, data: bytes) -> None:
    """Remember the private texts that are sent to a daemon, refused ones as well."""
    if len(data) <= LINE_BYTES:
        texts = _sent.setdefault(socket, set())
        if len(texts) < TEXTS:
            texts |= private_texts(data)


def check_output(socket: Path, state_dir: Path, outputs: Iterable[Path]) -> None:
    """Assert that nothing private was printed.

    Args:
        socket: the daemon's.
        state_dir: the daemon's.
        outputs: files with all that it has printed.
    """
    texts = _sent.pop(socket, set())
    for path in state_dir.rglob("*"):
        if path.is_file() and len(texts) < TEXTS:
            with path.open("rb") as file:
                texts |= private_texts(file.read(FILE_BYTES).rstrip(b"\0"))
    printed = [path.read_bytes() for path in outputs if path.exists()]
    printed.append("\n".join(CLIENT_LOG.lines).encode(errors="replace"))
    for text in texts:
        for output in printed:
            at = output.find(text)
            assert at < 0, f"{text!r} is private, and was logged: {output[max(at - 300, 0) : at + 300]!r}"
