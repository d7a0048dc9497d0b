"""A session as several journal records, if its history is long: parts of the history, then the rest. No I/O.

A record of eight megabytes takes 20 ms to encode and write, in one go; other work can be done between its parts. A
replay keeps them until the record that they belong to comes, and drops them if it does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import starmap
from typing import Final

from callstate_client.engine.sessions.records import HistoryMode, OpResult, PartRecord, StateRecord
from callstate_client.engine.sessions.session import Session

LONG_BYTES: Final = 512 * 1024
"""Longer histories are written in parts."""

PART_BYTES: Final = 128 * 1024
"""About how long a part is: a quarter of a millisecond."""


def in_parts(session: Session, key: int) -> Iterator[PartRecord | StateRecord]:
    """The whole session as it is when the first record is made.

    Args:
        session: it may change between the records.
        key: for the parts. No others that a replay has met without their session may have it.
    """
    doc = session.doc
    if doc.history_bytes <= LONG_BYTES:
        yield session.snapshot()
        return
    groups = _groups(doc.chunks, doc.counts)
    state = session.record(HistoryMode.REPLACE, b"", 0, list(starmap(OpResult, session.ops.items())))
    state.key, state.parts = key, len(groups)
    for number, (chunks, count) in enumerate(groups):
        yield PartRecord(session.id, key, number, b",".join(chunks), count)
    yield state


def _groups(chunks: list[bytes], counts: list[int]) -> list[tuple[list[bytes], int]]:
    """Neighbouring chunks of about PART_BYTES together, and the number of their turns."""
    groups: list[tuple[list[bytes], int]] = []
    some: list[bytes] = []
    size = number = 0
    for chunk, count in zip(chunks, counts, strict=True):
        some.append(chunk)
        size, number = size + len(chunk), number + count
        if size >= PART_BYTES:
            groups.append((some, number))
            some, size, number = [], 0, 0
    return [*groups, (some, number)] if some else groups
