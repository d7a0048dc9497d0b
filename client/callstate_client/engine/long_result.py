"""Results of megabytes, in the pieces that were there already: a transport takes them as they are, and to join them
takes milliseconds. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

LONG_BYTES: Final = 256 * 1024
"""Shorter results are joined: so much takes a tenth of a millisecond."""


class LongResult:
    """JSON of more than LONG_BYTES. Its length is that of all of it.

    Args:
        pieces: of the JSON, in order.
    """

    __slots__ = ("_size", "pieces")

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces
        self._size = sum(map(len, pieces))

    def __len__(self) -> int:
        return self._size

    def within(self, before: bytes, after: bytes) -> LongResult:
        """The same with a text before and after it."""
        return LongResult([before, *self.pieces, after])

    def joined(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces)


Result = bytes | LongResult
"""The result of a verb, as JSON."""


def in_a_row(results: Sequence[Result]) -> Result:
    """Results one after the other."""
    try:
        return b"".join(results)  # type: ignore[arg-type]  # nearly always all of them are bytes
    except TypeError:
        pass
    pieces: list[bytes] = []
    for result in results:
        if isinstance(result, bytes):
            pieces.append(result)
        else:
            pieces += result.pieces
    return LongResult(pieces)
