"""Results go to stdout, as text for people (rich) or JSON for programs; errors go to stderr."""

from __future__ import annotations

import sys
from typing import Any, Final

import msgspec
from rich.console import Console, RenderableType

from callstate_client.cli.stdio import complain

PIPE_COLUMNS: Final = 10_000
"""Width if stdout is not a terminal: a table piped into grep must not be cut to 80 columns."""

# Joiners are invisible, but Persian, Hindi and emoji sequences are unreadable without them.
_JOINERS: Final = frozenset("\u200c\u200d")


class Output:
    """Standard output of one command.

    Args:
        as_json: print JSON rather than text.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._tty = sys.stdout.isatty()
        # rich exits the process on a broken pipe; so it only renders, and we write
        self._console = Console(highlight=False, width=None if self._tty else PIPE_COLUMNS)

    @property
    def width(self) -> int:
        """Columns of the terminal, or PIPE_COLUMNS."""
        return self._console.width

    def text(self, *parts: RenderableType) -> None:
        """Print for people."""
        with self._console.capture() as rendered:
            for part in parts:
                self._console.print(part, soft_wrap=isinstance(part, str), markup=False)
        text = rendered.get()
        if not self._tty:  # cells are padded to their columns
            text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
        _write(text.encode())

    def document(self, document: Any) -> None:
        """Print one JSON document: indented on a terminal, else on one line."""
        encoded = msgspec.json.encode(document)
        _write((msgspec.json.format(encoded, indent=2) if self._tty else encoded) + b"\n")

    def line(self, document: Any) -> None:
        """Print one JSON document of many, always on one line."""
        _write(msgspec.json.encode(document) + b"\n")


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def error(text: str) -> None:
    """Print an error to stderr."""
    complain("callstate", "\n".join(printable(line) for line in text.splitlines()))


def printable(text: str) -> str:
    """Untrusted text as one line without control characters: a transcript must not control the terminal."""
    if text.isprintable():
        return text
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode()
