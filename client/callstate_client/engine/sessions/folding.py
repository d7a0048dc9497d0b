"""Chunks of a history joined, so that they stay few: each costs memory, and a load visits them all. Pure."""

from __future__ import annotations

from typing import Final

FOLD_CHUNKS: Final = 32
"""Small chunks are folded at this count: each costs 41 bytes, and a join visits them all."""

FOLD_BYTES: Final = 64 * 1024
"""Chunks are folded up to this size: folding copies them, and a big copy would block the loop."""

MAX_PIECES: Final = 256
"""Chunks of an amended history, and four for each FOLD_BYTES of it, beyond which small neighbours are joined."""


def fold(chunks: list[bytes], counts: list[int]) -> tuple[list[bytes], list[int]]:
    """The same history in fewer chunks: as many of the last as stay small are joined. Big ones are left alone:
    copying them again and again would make every turn cost as much as the history is long."""
    start, size = len(chunks), 0
    while start and size + len(chunks[start - 1]) <= FOLD_BYTES:
        start -= 1
        size += len(chunks[start])
    if start >= len(chunks) - 1:
        return chunks, counts
    return [*chunks[:start], b",".join(chunks[start:])], [*counts[:start], sum(counts[start:])]


def fold_all(chunks: list[bytes], counts: list[int]) -> tuple[list[bytes], list[int]]:
    """The same history with all neighbours joined that are small together."""
    folded: list[bytes] = []
    numbers: list[int] = []
    start, size = 0, 0
    for at, chunk in enumerate((*chunks, b"")):
        if at == len(chunks) or (at > start and size + len(chunk) > FOLD_BYTES):
            folded.append(b",".join(chunks[start:at]))
            numbers.append(sum(counts[start:at]))
            start, size = at, 0
        size += len(chunk)
    return folded, numbers
