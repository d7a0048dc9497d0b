"""Which sessions the store has an older state of, and which are on their way to it.

A session that changes is dirty from its first unwritten change on, however often it changes until it is written. A
write takes the mark along, and the session may become dirty again meanwhile, so it can be both dirty and in flight.
Only an acknowledgement ends that; a write whose outcome is unknown makes the session dirty again, as old as it was.

Eras are how a flush knows what it waits for: it ends the present era, and is done when nothing of that era or an
earlier one is dirty or in flight. What changes meanwhile belongs to the next and is not waited for.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

Mark = tuple[float, int, int]
"""Since when the store's state of a session is old (monotonic seconds), its size in bytes, and the era."""


class InFlightWrite(NamedTuple):
    """A write that has been sent, or is about to be."""

    version: int
    era: int


class DirtySet:
    """Dirty sessions and deletions, by their ids."""

    def __init__(self) -> None:
        self.marks: OrderedDict[str, Mark] = OrderedDict()
        """What is dirty, oldest first."""
        self.size_bytes = 0
        """Of all that is dirty."""
        self.in_flight: dict[str, InFlightWrite] = {}
        self._era = 0
        self._unwritten: dict[int, int] = {}
        """By era: how many marks and writes in flight there are of it."""

    def mark(self, session_id: str, now: float, size: int) -> None:
        """The store's state of this is old from now on, if it was not before."""
        was = self.marks.get(session_id)
        if was is None:
            self.put(session_id, (now, size, self._era))
        else:
            self.marks[session_id] = (was[0], size, was[2])
            self.size_bytes += size - was[1]

    def put(self, session_id: str, mark: Mark) -> None:
        """Make a session that is not dirty so, with this mark."""
        self.marks[session_id] = mark
        self.size_bytes += mark[1]
        self._unwritten[mark[2]] = self._unwritten.get(mark[2], 0) + 1

    def new_mark(self, now: float, size: int) -> Mark:
        """A mark of the present era."""
        return now, size, self._era

    def discard(self, session_id: str) -> None:
        """It is dirty no more, if it was."""
        was = self.marks.pop(session_id, None)
        if was is not None:
            self.size_bytes -= was[1]
            self._one_less(was[2])

    # -- in flight ----------------------------------------------------------------------------------------

    def depart(self, session_id: str, version: int) -> None:
        """A dirty session is about to be written, in this version."""
        era = self.marks[session_id][2]
        self._unwritten[era] += 1
        self.discard(session_id)
        self.in_flight[session_id] = InFlightWrite(version, era)

    def arrive(self, session_id: str) -> int:
        """The outcome of a write is known, or never will be; gives its era."""
        era = self.in_flight.pop(session_id).era
        self._one_less(era)
        return era

    def retry(self, session_id: str, since: float, size: int, era: int) -> None:
        """A write has to be repeated: dirty, as old as it was then, and the first to go."""
        self.discard(session_id)
        self.put(session_id, (since, size, era))
        self.marks.move_to_end(session_id, last=False)

    # -- eras ---------------------------------------------------------------------------------------------

    def end_era(self) -> int:
        """What becomes dirty from now on is of another era; gives the one that ends."""
        self._era += 1
        return self._era - 1

    def unwritten(self, era: int) -> int:
        """How many marks and writes in flight there are of what was dirty at the end of this era; a session that
        changed while it was being written has both."""
        return sum(left for each, left in self._unwritten.items() if each <= era)

    def is_unwritten(self, session_id: str, era: int) -> bool:
        """Whether the store has yet to get what was dirty of this session at the end of this era."""
        mark, flight = self.marks.get(session_id), self.in_flight.get(session_id)
        return (mark is not None and mark[2] <= era) or (flight is not None and flight.era <= era)

    def _one_less(self, era: int) -> None:
        left = self._unwritten[era] - 1
        if left:
            self._unwritten[era] = left
        else:
            del self._unwritten[era]
