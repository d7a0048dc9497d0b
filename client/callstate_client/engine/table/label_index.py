"""Orphans or suspects, in claim order and indexed by label.

A claim may ask for labels that one in ten thousand has, so each label has an index, in the same order. Each session
has a number, its place; a rollback of its removal restores the place, so that claims always find the longest
waiting first. Who asks for several labels looks at the sessions that have the rarest of them, some at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from msgspec import Struct

from callstate_client.engine.numbered_order import NumberedOrder


class Labelled(Struct, gc=False):
    """An id with its labels; `seq`: its place."""

    session_id: str
    labels: Mapping[str, str]
    seq: int = 0


class Scan(NamedTuple):
    """What was found among some of the ids.

    Args:
        found: the first that matches, if any.
        place: of the last that was looked at.
        more: whether there are others behind it to be looked at, and none has been found.
    """

    found: str | None
    place: int
    more: bool


class LabelIndex:
    """Ids in insertion order, and by label, in the same order."""

    def __init__(self) -> None:
        self._entries: dict[str, Labelled] = {}
        self._all: NumberedOrder[Labelled] = NumberedOrder()
        self._having: dict[tuple[str, str], NumberedOrder[Labelled]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return (entry.session_id for entry in self._all)

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._entries

    def put(self, session_id: str, labels: Mapping[str, str]) -> None:
        """Add an id at the end, or relabel it in its place."""
        before = self._entries.get(session_id)
        if before is None:
            entry = Labelled(session_id, labels)
            self._all.add(entry)
            self._add(entry)
        elif before.labels is not labels and before.labels != labels:
            self._move(before, before.seq, labels)

    def discard(self, session_id: str) -> None:
        """Remove an id, if present."""
        entry = self._entries.pop(session_id, None)
        if entry is None:
            return
        self._all.drop(entry)
        for pair in entry.labels.items():
            having = self._having[pair]
            having.drop(entry)
            if not having:
                del self._having[pair]

    def place(self, session_id: str) -> int | None:
        """An id's place in the order; None if absent."""
        entry = self._entries.get(session_id)
        return None if entry is None else entry.seq

    def move_back(self, places: Mapping[str, int]) -> None:
        """Restore the earlier places of those present."""
        for session_id, place in places.items():
            entry = self._entries.get(session_id)
            if entry is not None:
                self._move(entry, place, entry.labels)

    def having(self, labels: Mapping[str, str]) -> Iterator[str]:
        """Ids with all of these labels, in order; none may be added or removed meanwhile."""
        wanted = labels.items()
        return (entry.session_id for entry in self._rarest(labels) if wanted <= entry.labels.items())

    def scan(self, labels: Mapping[str, str], place: int, most: int) -> Scan:
        """Look for the first id with all of these labels.

        Args:
            labels: what it has to have.
            place: look at those behind this place; 0: at all.
            most: look at so many.
        """
        wanted, left = labels.items(), most
        for entry in self._rarest(labels).behind(place):
            if not left:
                return Scan(None, place, True)
            if wanted <= entry.labels.items():
                return Scan(entry.session_id, entry.seq, False)
            place, left = entry.seq, left - 1
        return Scan(None, place, False)

    def _rarest(self, labels: Mapping[str, str]) -> NumberedOrder[Labelled]:
        """The sessions with the rarest of these labels."""
        having = [self._having.get(pair) or NumberedOrder[Labelled]() for pair in labels.items()]
        return min(having, key=len, default=self._all)

    def _move(self, before: Labelled, place: int, labels: Mapping[str, str]) -> None:
        self.discard(before.session_id)
        entry = Labelled(before.session_id, labels, place)
        self._all.put(entry)
        self._add(entry)

    def _add(self, entry: Labelled) -> None:
        self._entries[entry.session_id] = entry
        for pair in entry.labels.items():
            having = self._having.get(pair)
            if having is None:
                having = self._having[pair] = NumberedOrder()
            having.put(entry)
