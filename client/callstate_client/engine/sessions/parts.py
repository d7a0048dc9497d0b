"""A session as several journal records, if its history is long: parts of the history, then the rest. No I/O.

A record of eight megabytes takes 20 ms to encode and write, in one go; other work can be done between its parts. A
replay keeps them until the record that they belong to comes, and drops them if it does not.

Parts may be written ahead of a change, which is made in one go: they are of the history before it. What the change
leaves of them is referred to, and the rest is written with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import starmap
from operator import is_
from typing import Final

from msgspec import Struct

from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.records import HistoryMode, OpResult, PartRecord, StateRecord
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.written_parts import WrittenParts

LONG_BYTES: Final = 512 * 1024
"""Longer histories are written in parts."""

PART_BYTES: Final = 128 * 1024
"""About how long a part is: a quarter of a millisecond."""


class NotJournaled(Exception):  # noqa: N818 - not an error: the journal has to be written first
    """The session is about to become hot by a change, and its history is long: have it written to the journal, then
    run the request again."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.id)
        self.session = session


class Part(Struct, frozen=True):
    """Neighbouring chunks of a history, and the number of their turns."""

    chunks: list[bytes]
    count: int

    def record(self, session_id: str, key: int, number: int) -> PartRecord:
        """Its record."""
        return PartRecord(session_id, key, number, b",".join(self.chunks), self.count)


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
    parts = parts_of(doc)
    state = _state(session)
    state.key, state.parts = key, len(parts)
    for number, part in enumerate(parts):
        yield part.record(session.id, key, number)
    yield state


def parts_of(doc: Document) -> list[Part]:
    """A history, cut between chunks into parts of about PART_BYTES."""
    parts: list[Part] = []
    some: list[bytes] = []
    size = number = 0
    for chunk, count in zip(doc.chunks, doc.counts, strict=True):
        some.append(chunk)
        size, number = size + len(chunk), number + count
        if size >= PART_BYTES:
            parts.append(Part(some, number))
            some, size, number = [], 0, 0
    return [*parts, Part(some, number)] if some else parts


def with_parts(session: Session, written: WrittenParts) -> list[PartRecord | StateRecord]:
    """The whole session, some of whose chunks are in parts that have been written."""
    records: list[PartRecord | StateRecord] = []
    order: list[int] = []
    others = Part([], 0)

    def write_others() -> None:
        nonlocal others
        if others.chunks:
            number = len(written.chunks) + len(records)
            records.append(others.record(session.id, written.key, number))
            order.append(number)
            others = Part([], 0)

    doc, at = session.doc, 0
    begins = {id(chunks[0]): number for number, chunks in enumerate(written.chunks)}
    while at < len(doc.chunks):
        number = begins.get(id(doc.chunks[at]), -1)
        if number >= 0 and _begins_with(doc.chunks, at, written.chunks[number]):
            write_others()
            order.append(number)
            at += len(written.chunks[number])
        else:
            others = Part([*others.chunks, doc.chunks[at]], others.count + doc.counts[at])
            at += 1
    write_others()
    state = _state(session)
    state.key, state.parts, state.order = written.key, len(written.chunks) + len(records), order
    return [*records, state]


def _begins_with(chunks: Sequence[bytes], at: int, part: Sequence[bytes]) -> bool:
    """Whether these very chunks are there from an index on."""
    there = chunks[at : at + len(part)]
    return len(there) == len(part) and all(map(is_, there, part))


def _state(session: Session) -> StateRecord:
    """All of a session but its history, which is replaced."""
    return session.record(HistoryMode.REPLACE, b"", 0, list(starmap(OpResult, session.ops.items())))
