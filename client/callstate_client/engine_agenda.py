"""What time has to look at next. Pure: `now` is passed in."""

from __future__ import annotations

import heapq
from itertools import count
from typing import Final, Generic, Protocol, TypeVar

NEVER: Final = float("inf")


class Item(Protocol):
    """What may be noted: `due` is the agenda's to write, NEVER at first."""

    due: float


ItemT = TypeVar("ItemT", bound=Item)


class Agenda(Generic[ItemT]):
    """Items in the order in which they are due.

    An item is noted anew when it is due earlier; that it is due later is found when it is popped. So a beat, which
    only ever puts things off, costs nothing here.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, ItemT]] = []
        self._order = count()

    def note(self, item: ItemT, deadline: float) -> bool:
        """Look at this item then, or earlier where that is noted. True: nothing is due before it."""
        if deadline >= item.due:
            return False
        first = self.next_at()
        item.due = deadline
        heapq.heappush(self._heap, (deadline, next(self._order), item))
        return deadline < first

    def next_at(self) -> float:
        """When the next item is due; NEVER where none is."""
        heap = self._heap
        while heap and heap[0][0] != heap[0][2].due:  # noted anew, earlier
            heapq.heappop(heap)
        return heap[0][0] if heap else NEVER

    def pop(self, now: float) -> tuple[float, ItemT] | None:
        """The next item that is due by now, and since when; it has to be noted anew to come again."""
        if self.next_at() > now:
            return None
        deadline, _, item = heapq.heappop(self._heap)
        item.due = NEVER
        return deadline, item
