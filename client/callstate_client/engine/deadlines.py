"""Deadlines that change: a binary heap in which each id has one entry, wherever it moves.

`heapq` with entries left behind would keep one for every change, and a client may change a deadline as often as it
likes. Here a change moves the entry: up to twenty comparisons among a million. Pure.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from callstate_client.engine.growing_dict import GrowingDict


class Named(Protocol):
    """What has a deadline."""

    id: str


NamedT = TypeVar("NamedT", bound=Named)


class Deadlines(Generic[NamedT]):
    """Things with an id and a deadline each, the earliest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str, NamedT]] = []
        self._place_of: GrowingDict[int] = GrowingDict()

    def __len__(self) -> int:
        return len(self._heap)

    def all(self) -> list[NamedT]:
        """All that have a deadline."""
        return [entry[2] for entry in self._heap]

    def first(self) -> tuple[float, NamedT] | None:
        """The earliest deadline, and what it is of; None if there is none."""
        return (self._heap[0][0], self._heap[0][2]) if self._heap else None

    def set(self, named: NamedT, deadline: float) -> None:
        """Set or change a deadline."""
        heap, entry = self._heap, (deadline, named.id, named)
        place = self._place_of.get(named.id)
        if place is None:
            heap.append(entry)
            self._rise(len(heap) - 1, entry)
        elif entry != heap[place]:
            self._move(place, entry)

    def discard(self, name: str) -> None:
        """Remove an id, if it has a deadline."""
        place = self._place_of.get(name)
        if place is None:
            return
        del self._place_of[name]
        last = self._heap.pop()
        if place < len(self._heap):
            self._move(place, last)

    def _move(self, place: int, entry: tuple[float, str, NamedT]) -> None:
        """Put an entry in a place, then where it belongs."""
        if place and entry < self._heap[(place - 1) // 2]:
            self._rise(place, entry)
        else:
            self._sink(place, entry)

    def _rise(self, place: int, entry: tuple[float, str, NamedT]) -> None:
        while place and entry < self._heap[(place - 1) // 2]:
            above = (place - 1) // 2
            self._put(place, self._heap[above])
            place = above
        self._put(place, entry)

    def _sink(self, place: int, entry: tuple[float, str, NamedT]) -> None:
        heap = self._heap
        while (below := 2 * place + 1) < len(heap):
            if below + 1 < len(heap) and heap[below + 1] < heap[below]:
                below += 1
            if entry <= heap[below]:
                break
            self._put(place, heap[below])
            place = below
        self._put(place, entry)

    def _put(self, place: int, entry: tuple[float, str, NamedT]) -> None:
        self._heap[place] = entry
        self._place_of[entry[1]] = place
