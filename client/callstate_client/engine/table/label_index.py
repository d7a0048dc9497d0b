"""Orphans or suspects, in claim order and indexed by label.

A claim may ask for labels that one in ten thousand has, so each label has an index, in the same order. Each session
has a number, its place; a rollback of its removal restores the place, so that claims always find the longest
waiting first. Who asks for several labels looks at the sessions that have the rarest of them, some at a time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

MIN_HOLES: Final = 1000
"""Places of removed ids are purged once they outnumber the others by this many."""


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


class _Line:
    """Ids by place. The first costs the same however many were removed before it."""

    __slots__ = ("_head", "_places", "ids")

    def __init__(self) -> None:
        self.ids: dict[int, str] = {}
        self._places: list[int] = []
        """Ascending, those of removed ids included."""
        self._head = 0
        """Before this index there are only removed ones."""

    def add(self, place: int, session_id: str) -> None:
        self.ids[place] = session_id
        places = self._places
        if not places or place > places[-1]:
            places.append(place)
            return
        at = bisect_left(places, place)
        if places[at] != place:
            places.insert(at, place)
        self._head = min(self._head, at)

    def discard(self, place: int) -> None:
        del self.ids[place]
        if len(self._places) > 2 * len(self.ids) + MIN_HOLES:
            self._places = sorted(self.ids)
            self._head = 0

    def behind(self, place: int) -> Iterator[tuple[int, str]]:
        """Those after a place, in order; none may be added or removed meanwhile."""
        places, ids = self._places, self.ids
        for at in range(max(self._head, bisect_right(places, place)), len(places)):
            session_id = ids.get(places[at])
            if session_id is not None:
                yield places[at], session_id
            elif at == self._head:
                self._head += 1


class LabelIndex:
    """Ids in insertion order, and by label, in the same order."""

    def __init__(self) -> None:
        self._labels: dict[str, Mapping[str, str]] = {}
        self._places: dict[str, int] = {}
        self._last_place = 0
        self._all = _Line()
        self._having: dict[tuple[str, str], _Line] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[str]:
        return (session_id for _, session_id in self._all.behind(0))

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._labels

    def put(self, session_id: str, labels: Mapping[str, str]) -> None:
        """Add an id at the end, or relabel it in its place."""
        before = self._labels.get(session_id)
        if before is not None and (before is labels or before == labels):
            return
        if before is None:
            self._last_place += 1
            self._add(session_id, self._last_place, labels)
        else:
            self._move(session_id, self._places[session_id], labels)

    def discard(self, session_id: str) -> None:
        """Remove an id, if present."""
        labels = self._labels.pop(session_id, None)
        if labels is None:
            return
        place = self._places.pop(session_id)
        self._all.discard(place)
        for pair in labels.items():
            having = self._having[pair]
            having.discard(place)
            if not having.ids:
                del self._having[pair]

    def place(self, session_id: str) -> int | None:
        """An id's place in the order; None if absent."""
        return self._places.get(session_id)

    def move_back(self, places: Mapping[str, int]) -> None:
        """Restore the earlier places of those present."""
        for session_id, place in places.items():
            if session_id in self._labels:
                self._move(session_id, place, self._labels[session_id])

    def having(self, labels: Mapping[str, str]) -> Iterator[str]:
        """Ids with all of these labels, in order; none may be added or removed meanwhile."""
        wanted = labels.items()
        return (found for _, found in self._rarest(labels).behind(0) if wanted <= self._labels[found].items())

    def scan(self, labels: Mapping[str, str], place: int, most: int) -> Scan:
        """Look for the first id with all of these labels.

        Args:
            labels: what it has to have.
            place: look at those behind this place; 0: at all.
            most: look at so many.
        """
        wanted, left = labels.items(), most
        for at, session_id in self._rarest(labels).behind(place):
            if not left:
                return Scan(None, place, True)
            if wanted <= self._labels[session_id].items():
                return Scan(session_id, at, False)
            place, left = at, left - 1
        return Scan(None, place, False)

    def _rarest(self, labels: Mapping[str, str]) -> _Line:
        """Those with the label that the fewest have."""
        lines = [self._having.get(pair) or _Line() for pair in labels.items()]
        return min(lines, key=lambda line: len(line.ids), default=self._all)

    def _move(self, session_id: str, place: int, labels: Mapping[str, str]) -> None:
        self.discard(session_id)
        self._add(session_id, place, labels)

    def _add(self, session_id: str, place: int, labels: Mapping[str, str]) -> None:
        self._labels[session_id] = labels
        self._places[session_id] = place
        self._all.add(place, session_id)
        for pair in labels.items():
            self._having.setdefault(pair, _Line()).add(place, session_id)
