"""Deadlines that change: a binary heap in which each id has one entry, wherever it moves.

`heapq` with entries left behind would keep one for every change, and a client may change a deadline as often as it
likes. Here a change moves the entry: up to twenty comparisons among a million. Pure.
"""

from __future__ import annotations

from collections.abc import Collection

from callstate_client.engine.growing_dict import GrowingDict


class Deadlines:
    """Ids with a deadline each, the earliest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []
        self._place_of: GrowingDict[int] = GrowingDict()

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def ids(self) -> Collection[str]:
        """All that have a deadline."""
        return self._place_of.keys()

    def first(self) -> tuple[float, str] | None:
        """The earliest deadline and its id; None if there is none."""
        return self._heap[0] if self._heap else None

    def set(self, name: str, deadline: float) -> None:
        """Set or change the deadline of an id."""
        heap, entry = self._heap, (deadline, name)
        place = self._place_of.get(name)
        if place is None:
            heap.append(entry)
            self._rise(len(heap) - 1, entry)
        elif deadline != heap[place][0]:
            self._move(place, entry)

    def discard(self, name: str) -> None:
        """Remove an id, if it has a deadline."""
        place = self._place_of.pop(name, None)
        if place is None:
            return
        last = self._heap.pop()
        if place < len(self._heap):
            self._move(place, last)

    def _move(self, place: int, entry: tuple[float, str]) -> None:
        """Put an entry in a place, then where it belongs."""
        if place and entry < self._heap[(place - 1) // 2]:
            self._rise(place, entry)
        else:
            self._sink(place, entry)

    def _rise(self, place: int, entry: tuple[float, str]) -> None:
        while place and entry < self._heap[(place - 1) // 2]:
            above = (place - 1) // 2
            self._put(place, self._heap[above])
            place = above
        self._put(place, entry)

    def _sink(self, place: int, entry: tuple[float, str]) -> None:
        heap = self._heap
        while (below := 2 * place + 1) < len(heap):
            if below + 1 < len(heap) and heap[below + 1] < heap[below]:
                below += 1
            if entry <= heap[below]:
                break
            self._put(place, heap[below])
            place = below
        self._put(place, entry)

    def _put(self, place: int, entry: tuple[float, str]) -> None:
        self._heap[place] = entry
        self._place_of[entry[1]] = place
