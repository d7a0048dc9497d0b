"""Things by ascending number, in blocks: none is so long that growing, shrinking or searching it takes a while.

A dict by number would be copied as a whole each time it doubles, and a list with holes each time they are purged:
milliseconds at 100,000 entries. Here a block has a fixed place for each of BLOCK numbers and goes when its last
entry does, so there are no more blocks than entries, and no entry has more than that many empty places before it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

BLOCK: Final = 64
"""Numbers in one block."""


class Numbered(Protocol):
    """What a NumberedOrder holds."""

    seq: int
    """Its number in the order."""


NumberedT = TypeVar("NumberedT", bound=Numbered)


class NumberedOrder(Generic[NumberedT]):
    """Entries by their numbers, which serve as cursors: a page costs what it shows, not what precedes it."""

    __slots__ = ("_blocks", "_count", "_numbers", "first", "last")

    def __init__(self) -> None:
        self.first, self.last = 1, 0
        """The numbers last assigned by `add_first` and `add`."""
        self._blocks: dict[int, list[NumberedT | None]] = {}
        self._numbers: list[int] = []
        """The numbers of the blocks, ascending."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[NumberedT]:
        """Iterate over all entries; none may be added or dropped meanwhile."""
        return self.behind(self._numbers[0] * BLOCK - 1) if self._numbers else iter(())

    def add(self, entry: NumberedT) -> None:
        """Add an entry behind all others, under the next number."""
        self.last += 1
        entry.seq = self.last
        self.put(entry)

    def add_first(self, entry: NumberedT) -> None:
        """Add an entry ahead of all others."""
        self.first -= 1
        entry.seq = self.first
        self.put(entry)

    def put(self, entry: NumberedT) -> None:
        """Add an entry that has a number, which no other has here."""
        number, place = divmod(entry.seq, BLOCK)
        block = self._blocks.get(number)
        if block is None:
            block = self._blocks[number] = [None] * BLOCK
            insort(self._numbers, number)
        block[place] = entry
        self._count += 1

    def drop(self, entry: NumberedT) -> None:
        """Remove an entry."""
        number, place = divmod(entry.seq, BLOCK)
        block = self._blocks[number]
        block[place] = None
        self._count -= 1
        if not any(block):
            del self._blocks[number]
            self._numbers.pop(bisect_left(self._numbers, number))

    def behind(self, number: int) -> Iterator[NumberedT]:
        """Iterate over the entries after this number; none may be added or dropped meanwhile."""
        first, place = divmod(number + 1, BLOCK)
        numbers, blocks = self._numbers, self._blocks
        for at in range(bisect_left(numbers, first), len(numbers)):
            for entry in islice(blocks[numbers[at]], place if numbers[at] == first else 0, None):
                if entry is not None:
                    yield entry

    def chunks(self, size: int) -> Iterator[list[NumberedT]]:
        """Iterate over all entries, so many at a time. Any may be added or dropped in between: those that are added
        meanwhile come at the end, so entries must not be added faster than they are consumed."""
        some = [*islice(self, size)]
        while some:
            yield some
            some = [*islice(self.behind(some[-1].seq), size)]
