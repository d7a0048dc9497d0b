"""Cutting a byte stream into lines, without any I/O."""

from __future__ import annotations

from typing import Final, cast

LINE_BYTES: Final = 1024 * 1024
"""Longest request line, newline included. A save of 5,000 turns fits; a runaway client does not."""


LONG_LINE_BYTES: Final = 500
"""From about this length on, searching for each newline is quicker than `split`, which looks at every byte."""


def _split_long(data: bytes) -> list[bytes]:
    """What `data.split(b"\\n")` gives, for few newlines in much data."""
    pieces: list[bytes] = []
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        pieces.append(data[start:end])
        start = end + 1
    pieces.append(data[start:])
    return pieces


class LineSplitter:
    """Cuts a byte stream into lines in bounded memory.

    The newline search resumes where the last one ended, so a line that comes in many pieces is looked at
    once; a line longer than allowed is dropped up to its newline as it comes.

    Args:
        limit: longest line taken, bytes, newline included.
    """

    __slots__ = ("_dropping", "_limit", "_parts", "_size")

    def __init__(self, limit: int = LINE_BYTES) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._dropping = False

    @property
    def pending(self) -> int:
        """Bytes of an unfinished line held back."""
        return self._size

    @property
    def unfinished(self) -> bool:
        """Whether a line has begun and not ended, be it held back or dropped."""
        return self._size > 0 or self._dropping

    def feed(self, data: bytes) -> list[bytes | None]:
        """The lines that `data` completes, without their newlines; None stands for one that was too long."""
        # the first line tells what kind of lines come
        long = self._size > LONG_LINE_BYTES or data.find(b"\n", 0, LONG_LINE_BYTES) < 0
        lines: list[bytes | None] = [*(_split_long(data) if long else data.split(b"\n"))]
        rest = cast(bytes, lines.pop())
        if lines:
            if self._size or self._dropping:
                lines[0] = self._finish(cast(bytes, lines[0]))
            if len(data) > self._limit:  # else none can be too long
                lines = [line if line is None or len(line) < self._limit else None for line in lines]
        if rest:
            self._hold(rest)
        return lines

    def _hold(self, data: bytes) -> None:
        if self._dropping:
            return
        self._size += len(data)
        if self._size >= self._limit:  # no newline can come within the limit any more
            self._parts.clear()
            self._size = 0
            self._dropping = True
        else:
            self._parts.append(data)

    def _finish(self, piece: bytes) -> bytes | None:
        dropping, self._dropping = self._dropping, False
        line = b"".join([*self._parts, piece])
        self._parts.clear()
        self._size = 0
        return None if dropping or len(line) >= self._limit else line


READ_BYTES: Final = 256 * 1024
"""Taken by one read. A Unix socket holds no more by default."""


class LineBuffer:
    """Memory to read a stream into, over and over, and the lines that are in it.

    What comes as bytes of its own has to be allocated, which from some 100 kB on means fresh pages each time, and
    is copied once more when it is cut.

    Args:
        limit: longest line taken, bytes, newline included; READ_BYTES at least.
    """

    __slots__ = ("_data", "_splitter", "view")

    def __init__(self, limit: int) -> None:
        self._splitter = LineSplitter(limit)
        self._data = bytearray(READ_BYTES)
        self.view = memoryview(self._data)
        """Where to read to."""

    def cut(self, size: int) -> list[bytes | None]:
        """The lines that the first `size` bytes complete, as `LineSplitter.feed` gives them."""
        data, view = self._data, self.view
        lines: list[bytes | None] = []
        start = 0
        if self._splitter.unfinished:
            start = data.find(b"\n", 0, size) + 1
            lines = self._splitter.feed(bytes(view[: start or size]))
            if not start:
                return lines
        if data.find(b"\n", start, min(start + LONG_LINE_BYTES, size)) >= 0:  # short lines
            return lines + self._splitter.feed(bytes(view[start:size]))
        while (end := data.find(b"\n", start, size)) >= 0:
            lines.append(bytes(view[start:end]))
            start = end + 1
        if start < size:
            self._splitter.feed(bytes(view[start:size]))
        return lines
