"""Sessions with changes not yet in the store, and those being written to it.

A session is dirty from its first unwritten change until it is written. A write takes the mark with it, and the
session may change again meanwhile, so it can be both dirty and in flight. Only an acknowledgement ends a write; if
its outcome is unknown, the session is dirty again, with its original age.

Eras tell a flush what to wait for: it ends the current era, and is done when nothing of that era or an earlier one
is dirty or in flight. Later changes belong to the next era and are not waited for.
"""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from callstate_client.engine.growing_dict import GrowingDict

Mark = tuple[float, int, int]
"""When a session became dirty (monotonic seconds), its size in bytes, and the era."""


class InFlightWrite(NamedTuple):
    """A write that has been sent, or is about to be."""

    version: int
    era: int
    since: float
    """When the session became dirty, monotonic seconds."""
    size: int
    """Of the session as it is written, bytes."""


class DirtySet:
    """Dirty sessions and deletions, by their ids."""

    def __init__(self) -> None:
        self.marks: GrowingDict[Mark] = GrowingDict()
        """Dirty sessions, oldest first."""
        self.size_bytes = 0
        """Total size of the sessions whose newest state the store does not have: of each as it is, or as it is in
        flight if it has not changed since."""
        self.in_flight: dict[str, InFlightWrite] = {}
        self._era = 0
        self._unwritten: dict[int, int] = {}
        """Number of marks and writes in flight, by era."""

    def mark(self, session_id: str, now: float, size: int) -> None:
        """Mark a session dirty, or update its size if it is already."""
        entry = self.marks.entry(session_id)
        if entry is None:
            self.put(session_id, (now, size, self._era))
        else:
            since, before, era = entry.value
            entry.value = (since, size, era)
            self.size_bytes += size - before

    def put(self, session_id: str, mark: Mark) -> None:
        """Make a session dirty that has no mark yet, with this one."""
        self.marks[session_id] = mark
        self.size_bytes += mark[1] - self._flying_bytes(session_id)
        self._unwritten[mark[2]] = self._unwritten.get(mark[2], 0) + 1

    def new_mark(self, now: float, size: int) -> Mark:
        """A mark of the current era."""
        return now, size, self._era

    def discard(self, session_id: str) -> None:
        """Remove the mark, if there is one."""
        was = self.marks.get(session_id)
        if was is not None:
            del self.marks[session_id]
            self.size_bytes += self._flying_bytes(session_id) - was[1]
            self._one_less(was[2])

    @property
    def sessions(self) -> int:
        """Number of sessions whose newest state the store does not have, in flight or not."""
        return len(self.marks) + sum(session_id not in self.marks for session_id in self.in_flight)

    @property
    def oldest(self) -> float | None:
        """Since when the one that has waited longest is dirty, monotonic seconds; None if nothing is dirty."""
        waiting = [mark[0] for _, mark in islice(self.marks.in_order(), 1)]
        flying = [flight.since for flight in islice(self.in_flight.values(), 1)]
        return min(waiting + flying, default=None)

    # -- in flight ----------------------------------------------------------------------------------------

    def depart(self, session_id: str, version: int) -> None:
        """Begin the write of a dirty session, at this version. It takes the place of one that was not answered."""
        since, size, era = self.marks.pop(session_id)  # in `_unwritten` the write takes the mark's place
        before = self.in_flight.get(session_id)
        if before is not None:
            self._one_less(max(era, before.era))
            era, since = min(era, before.era), min(since, before.since)
        self.in_flight[session_id] = InFlightWrite(version, era, since, size)

    def arrive(self, session_id: str) -> int:
        """End a write, whether or not its outcome is known; returns its era."""
        flight = self.in_flight.pop(session_id)
        if session_id not in self.marks:
            self.size_bytes -= flight.size
        self._one_less(flight.era)
        return flight.era

    def retry(self, session_id: str, since: float, size: int, era: int) -> None:
        """Queue a write again, with its original age and ahead of all others."""
        self.discard(session_id)
        self.put(session_id, (since, size, era))
        self.marks.move_to_end(session_id, last=False)

    def _flying_bytes(self, session_id: str) -> int:
        flight = self.in_flight.get(session_id)
        return 0 if flight is None else flight.size

    # -- eras ---------------------------------------------------------------------------------------------

    def end_era(self) -> int:
        """Start a new era for later changes; returns the one that ended."""
        self._era += 1
        return self._era - 1

    def unwritten(self, era: int) -> int:
        """Number of marks and writes in flight of this era and earlier ones; a session that changed while it was
        being written counts as both."""
        return sum(left for each, left in self._unwritten.items() if each <= era)

    def is_unwritten(self, session_id: str, era: int) -> bool:
        """Whether a change of this session from this era or an earlier one is not yet stored."""
        mark, flight = self.marks.get(session_id), self.in_flight.get(session_id)
        return (mark is not None and mark[2] <= era) or (flight is not None and flight.era <= era)

    def _one_less(self, era: int) -> None:
        left = self._unwritten[era] - 1
        if left:
            self._unwritten[era] = left
        else:
            del self._unwritten[era]
