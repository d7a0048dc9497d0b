"""Orphans or suspects, in claim order and indexed by label.

A claim may ask for labels that one in ten thousand has, so each label has an index, in the same order. Each session
has a number, its place; a rollback of its removal restores the place, so that claims always find the longest
waiting first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping


class LabelIndex:
    """Ids in insertion order, and by label, in the same order."""

    def __init__(self) -> None:
        self._labels: dict[str, Mapping[str, str]] = {}
        self._places: dict[str, int] = {}
        self._last_place = 0
        self._having: dict[tuple[str, str], dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[str]:
        return iter(self._labels)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._labels

    def keys(self) -> Collection[str]:
        """All ids, in order."""
        return self._labels.keys()

    def put(self, session_id: str, labels: Mapping[str, str]) -> None:
        """Add an id at the end, or relabel it in place; it comes last under its new labels."""
        before = self._labels.get(session_id)
        if before is not None and (before is labels or before == labels):
            return
        if before is None:
            self._last_place += 1
            self._places[session_id] = self._last_place
        elif before:
            self._unlabel(session_id, before)
        self._labels[session_id] = labels
        for pair in labels.items():
            self._having.setdefault(pair, {})[session_id] = None

    def discard(self, session_id: str) -> None:
        """Remove an id, if present."""
        labels = self._labels.pop(session_id, None)
        self._places.pop(session_id, None)
        if labels:
            self._unlabel(session_id, labels)

    def place(self, session_id: str) -> int | None:
        """An id's place in the order; None if absent."""
        return self._places.get(session_id)

    def move_back(self, places: Mapping[str, int]) -> None:
        """Restore the earlier places of those present. Rare, so everything is re-sorted: it is nearly sorted."""
        moved = {session_id: place for session_id, place in places.items() if session_id in self._labels}
        if not moved:
            return
        self._places.update(moved)
        place = self._places.__getitem__
        self._labels = {session_id: self._labels[session_id] for session_id in sorted(self._labels, key=place)}
        for pair in {pair for session_id in moved for pair in self._labels[session_id].items()}:
            self._having[pair] = dict.fromkeys(sorted(self._having[pair], key=place))

    def having(self, labels: Mapping[str, str]) -> Iterator[str]:
        """Ids with all of these labels, in order: scans those of the rarest label."""
        if not labels:
            yield from self._labels
            return
        found, *others = sorted((self._having.get(pair, {}) for pair in labels.items()), key=len)
        for other in others[:-1]:
            found = {session_id: None for session_id in found if session_id in other}
        if not others:
            yield from found
            return
        last = others[-1]
        for session_id in found:  # one test each: there may be tens of thousands
            if session_id in last:
                yield session_id

    def _unlabel(self, session_id: str, labels: Mapping[str, str]) -> None:
        for pair in labels.items():
            having = self._having[pair]
            del having[session_id]
            if not having:
                del self._having[pair]
