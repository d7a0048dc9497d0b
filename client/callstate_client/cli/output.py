"""Results go to stdout, as text for people (rich) or JSON for programs; errors go to stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from rich.console import Console, RenderableType

from callstate_client.cli.stdio import complain

PIPE_COLUMNS: Final = 10_000
"""Width if stdout is not a terminal: a table piped into grep must not be cut to 80 columns."""

# ECMA-48: cursor to the first place, erase to the end of the line, and of the screen.
_HOME: Final = "\x1b[H"
_REST_OF_LINE: Final = "\x1b[K"
_REST_OF_SCREEN: Final = "\x1b[J"

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
    def redraws(self) -> bool:
        """Whether stdout is a terminal on which text can be drawn over what was there."""
        return self._tty and not self._console.is_dumb_terminal and not self.as_json

    def redraw(self, *parts: RenderableType) -> None:
        """Print in place of all that is on the screen, as much as there is room for."""
        lines = self._rendered(parts).splitlines()
        height = max(1, self._console.height - 1)
        if len(lines) > height:
            lines[height - 1 :] = [f"… {len(lines) - height + 1} more lines"]
        _write("".join((_HOME, *(f"{line}{_REST_OF_LINE}\n" for line in lines), _REST_OF_SCREEN)).encode())

    def redraw_line(self, text: str) -> None:
        """Print in place of the line that the cursor is in, and stay in it."""
        _write(f"\r{text}{_REST_OF_LINE}".encode())

    @property
    def width(self) -> int:
        """Columns of the terminal, or PIPE_COLUMNS."""
        return self._console.width

    def text(self, *parts: RenderableType) -> None:
        """Print for people."""
        text = self._rendered(parts)
        if not self._tty:  # cells are padded to their columns
            text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
        _write(text.encode())

    def _rendered(self, parts: Iterable[RenderableType]) -> str:
        with self._console.capture() as rendered:
            for part in parts:
                self._console.print(part, soft_wrap=isinstance(part, str), markup=False)
        return rendered.get()

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
