"""The line splitter: any bytes in any pieces, against `bytes.split`.

Input: a byte for the limit, one that seeds the sizes of the pieces, then the stream.
"""

from __future__ import annotations

import random

from callstate_client.protocol.framing import READ_BYTES, LineBuffer, LineSplitter

Lines = list[bytes | None]


def check(data: bytes) -> None:
    """Cut the stream in pieces, as the daemon and as the client read it."""
    if len(data) < 2:
        return
    limit, stream = 2 + data[0], data[2:]
    lines: Lines = [line if len(line) < limit else None for line in stream.split(b"\n")]
    unfinished = lines.pop()
    splitter = LineSplitter(limit)
    buffer = LineBuffer(READ_BYTES)
    found: Lines = []
    buffered: Lines = []
    for piece in _pieces(stream, data[1]):
        found += splitter.feed(piece)
        assert splitter.pending < limit, "more is kept than a line may have"
        buffer.view[: len(piece)] = piece
        buffered += buffer.cut(len(piece))
    assert found == lines, "the daemon's lines"
    assert buffered == stream.split(b"\n")[:-1], "the client's lines"
    assert splitter.pending == len(unfinished or b"")
    assert splitter.unfinished == (unfinished != b"")


def _pieces(stream: bytes, seed: int) -> list[bytes]:
    """The stream in pieces: whole, byte by byte, or of random sizes."""
    if seed < 2 or len(stream) > 4096:  # more in single bytes takes seconds, and shows no more
        size = 1 if seed == 1 and len(stream) <= 4096 else max(1, len(stream))
        return [stream[at : at + size] for at in range(0, len(stream), size)]
    dice = random.Random(seed)
    pieces, at = [], 0
    while at < len(stream):
        size = dice.choice((1, 2, 7, 100, 5000))
        pieces.append(stream[at : at + size])
        at += size
    return pieces
