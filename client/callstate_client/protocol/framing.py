"""Cutting a byte stream into lines, without I/O, in bounded memory and without scanning any byte twice."""

from __future__ import annotations

from typing import Final, cast

LINE_BYTES: Final = 1024 * 1024
"""Longest request line, bytes, newline included. A save of 5,000 turns fits; a runaway client does not."""

LONG_LINE_BYTES: Final = 500
"""From about this line length on, bytes, searching for each newline is faster than `split`, which tests every
byte."""


def _split_long(data: bytes) -> list[bytes]:
    """As `data.split(b"\\n")`, but faster if the lines are long."""
    pieces: list[bytes] = []
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        pieces.append(data[start:end])
        start = end + 1
    pieces.append(data[start:])
    return pieces


PIECE_BYTES: Final = 4096
"""Smaller pieces of an unfinished line are joined: each object has some 40 bytes of its own, so a line sent two
bytes at a time would take twenty times its size."""


class LineSplitter:
    """Cuts a byte stream into lines in bounded memory.

    The pieces of an unfinished line are kept and never searched again, so a line that arrives in many pieces costs
    linear time. A line over the limit is dropped, up to its newline, as it arrives.

    Args:
        limit: longest line accepted, bytes, newline included.
    """

    __slots__ = ("_dropping", "_limit", "_parts", "pending", "unfinished")

    def __init__(self, limit: int = LINE_BYTES) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self.pending = 0
        """How many bytes of an unfinished line are kept."""
        self._dropping = False
        self.unfinished = False
        """Whether a line has begun and not ended, whether it is kept or dropped."""

    def feed(self, data: bytes) -> list[bytes | None]:
        """The lines that `data` completes, without their newlines; None stands for one that was too long."""
        if not self.unfinished and data.find(b"\n") == len(data) - 1 < self._limit and data:
            return [data[:-1]]  # one whole line
        # judged by the first line: lines of one read tend to be of one kind
        long = self.pending > LONG_LINE_BYTES or data.find(b"\n", 0, LONG_LINE_BYTES) < 0
        lines: list[bytes | None] = [*(_split_long(data) if long else data.split(b"\n"))]
        rest = cast(bytes, lines.pop())
        if lines:
            if self.unfinished:
                lines[0] = self._finish(cast(bytes, lines[0]))
            if len(data) > self._limit:  # otherwise no line can be too long
                lines = [line if line is None or len(line) < self._limit else None for line in lines]
        if rest:
            self._hold(rest)
        return lines

    def _hold(self, data: bytes) -> None:
        self.unfinished = True
        if self._dropping:
            return
        self.pending += len(data)
        if self.pending >= self._limit:  # no newline can arrive within the limit
            self._parts.clear()
            self.pending = 0
            self._dropping = True
        elif self._parts and len(self._parts[-1]) < PIECE_BYTES:
            self._parts[-1] += data
        else:
            self._parts.append(data)

    def _finish(self, piece: bytes) -> bytes | None:
        dropping, self._dropping = self._dropping, False
        self.unfinished = False
        line = b"".join([*self._parts, piece])
        self._parts.clear()
        self.pending = 0
        return None if dropping or len(line) >= self._limit else line


READ_BYTES: Final = 256 * 1024
"""Size of one read, bytes: what a Unix socket holds by default."""


class LineBuffer:
    """A reusable read buffer, and the lines in it.

    Reading into new bytes each time would allocate them, which from about 100 kB on means fresh pages from the
    kernel, and copy the data once more when it is cut into lines.

    Args:
        limit: longest line accepted, bytes, newline included; at least READ_BYTES.
    """

    __slots__ = ("_data", "_splitter", "view")

    def __init__(self, limit: int) -> None:
        self._splitter = LineSplitter(limit)
        self._data = bytearray(READ_BYTES)
        self.view = memoryview(self._data)
        """What to read into."""

    def cut(self, size: int) -> list[bytes | None]:
        """The lines that the first `size` bytes complete, as `LineSplitter.feed` returns them."""
        data, view = self._data, self.view
        lines: list[bytes | None] = []
        start = 0
        if not self._splitter.unfinished:
            if data.find(b"\n", 0, size) == size - 1 >= 0:
                return [bytes(view[: size - 1])]  # one whole line
        else:
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
