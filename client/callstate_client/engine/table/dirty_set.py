"""Sessions with changes not yet in the store, and those being written to it.

A session is dirty from its first unwritten change until it is written. A write takes the mark with it, and the
session may change again meanwhile, so it can be both dirty and in flight. Only an acknowledgement ends a write; if
its outcome is unknown, the session is dirty again, with its original age.

Eras tell a flush what to wait for: it ends the current era, and is done when nothing of that era or an earlier one
is dirty or in flight. Later changes belong to the next era and are not waited for. What is of an earlier era is
counted, and the rest is of the current one: mostly that is all of it, and nothing has to be counted.
"""

from __future__ import annotations

from itertools import islice

from msgspec import Struct

from callstate_client.engine.long_queue import LongQueue


class Mark(Struct, frozen=True, gc=False):
    """Marks a session as dirty, and then as being written."""

    since: float
    """When it became dirty, monotonic seconds."""
    size: int
    """Its size, as it is or as it is being written, bytes."""
    era: int


class DirtySet:
    """Dirty sessions and deletions, by their ids."""

    def __init__(self) -> None:
        self.marks: LongQueue[Mark] = LongQueue()
        """Dirty sessions, oldest first."""
        self.size_bytes = 0
        """Total size of the sessions whose newest state the store does not have: of each as it is, or as it is in
        flight if it has not changed since."""
        self.in_flight: dict[str, Mark] = {}
        """The marks of writes that have been sent, or are about to be."""
        self._again: set[str] = set()
        """Sessions in flight that are dirty again. Many may be in flight, to a part of the store that is away; but
        what has changed since is sent with the next batch."""
        self._era = 0
        self._earlier: dict[int, int] = {}
        """Number of marks and writes in flight, by era, of eras that have ended."""

    def mark(self, session_id: str, now: float, size: int) -> None:
        """Mark a session dirty, or update its size if it is already."""
        part = self.marks.part_of(session_id)
        if part is None:
            self.put(session_id, Mark(now, size, self._era))
        else:
            mark = part[session_id]
            part[session_id] = Mark(mark.since, size, mark.era)
            self.size_bytes += size - mark.size

    def put(self, session_id: str, mark: Mark, *, first: bool = False) -> None:
        """Make a session dirty that has no mark yet, with this one; `first`: ahead of all others."""
        if first:
            self.marks.add_first(session_id, mark)
        else:
            self.marks.add(session_id, mark)
        self.size_bytes += mark.size
        flight = self.in_flight.get(session_id)
        if flight is not None:
            self.size_bytes -= flight.size
            self._again.add(session_id)
        if mark.era != self._era:
            self._earlier[mark.era] = self._earlier.get(mark.era, 0) + 1

    def new_mark(self, now: float, size: int) -> Mark:
        """A mark of the current era."""
        return Mark(now, size, self._era)

    def discard(self, session_id: str) -> None:
        """Remove the mark, if there is one."""
        if session_id in self.marks:
            mark = self.marks.pop(session_id)
            self.size_bytes -= mark.size
            if session_id in self._again:
                self._again.discard(session_id)
                self.size_bytes += self.in_flight[session_id].size
            if mark.era != self._era:
                self._one_less(mark.era)

    def restore(self, session_id: str, mark: Mark | None, size: int) -> None:
        """Restore the mark that a session had; None: it had none.

        Args:
            session_id: the session.
            mark: as it was; its size does not matter.
            size: of the session now, bytes.
        """
        present = self.marks.get(session_id)
        if mark is None:
            self.discard(session_id)
        elif present is not None and (present.since, present.era) == (mark.since, mark.era):
            self.mark(session_id, mark.since, size)  # it is the same one, and has kept its place
        else:
            self.discard(session_id)
            front = next(self.marks.in_order(), None)
            is_oldest = front is not None and mark.since < front[1].since
            self.put(session_id, Mark(mark.since, size, mark.era), first=is_oldest)

    @property
    def sessions(self) -> int:
        """Number of sessions whose newest state the store does not have, in flight or not."""
        return len(self.marks) + len(self.in_flight) - len(self._again)

    @property
    def oldest(self) -> float | None:
        """Since when the one that has waited longest is dirty, monotonic seconds; None if nothing is dirty."""
        waiting = [mark.since for _, mark in islice(self.marks.in_order(), 1)]
        flying = [mark.since for mark in islice(self.in_flight.values(), 1)]
        return min(waiting + flying, default=None)

    # -- in flight ----------------------------------------------------------------------------------------

    def depart(self, session_id: str) -> None:
        """Begin the write of a dirty session. It takes the place of one that was not answered."""
        mark, before = self.marks.pop(session_id), self.in_flight.get(session_id)
        if before is not None:
            later = max(mark.era, before.era)
            if later != self._era:
                self._one_less(later)
            mark = Mark(min(mark.since, before.since), mark.size, min(mark.era, before.era))
            self._again.discard(session_id)
        self.in_flight[session_id] = mark

    def arrive(self, session_id: str) -> int:
        """End a write, whether or not its outcome is known; returns its era."""
        flight = self.in_flight.pop(session_id)
        if session_id in self._again:
            self._again.discard(session_id)
        else:
            self.size_bytes -= flight.size
        if flight.era != self._era:
            self._one_less(flight.era)
        return flight.era

    def retry(self, session_id: str, since: float, size: int, era: int) -> None:
        """Queue a write again, with its original age and ahead of all others."""
        self.discard(session_id)
        self.put(session_id, Mark(since, size, era), first=True)

    # -- eras ---------------------------------------------------------------------------------------------

    def end_era(self) -> int:
        """Start a new era for later changes; returns the one that ended."""
        ended = self._era
        left = self.unwritten(ended) - sum(self._earlier.values())
        if left:
            self._earlier[ended] = left
        self._era += 1
        return ended

    def unwritten(self, era: int) -> int:
        """Number of marks and writes in flight of this era and earlier ones; a session that changed while it was
        being written counts as both."""
        if era >= self._era:
            return len(self.marks) + len(self.in_flight)
        return sum(left for each, left in self._earlier.items() if each <= era)

    def unwritten_sessions(self, era: int) -> int:
        """Number of sessions of which a change from this era or an earlier one is not yet stored."""
        marks, in_flight = self.marks, self.in_flight
        twice = sum(marks[name].era <= era and in_flight[name].era <= era for name in self._again)
        return self.unwritten(era) - twice

    def is_unwritten(self, session_id: str, era: int) -> bool:
        """Whether a change of this session from this era or an earlier one is not yet stored."""
        mark, flight = self.marks.get(session_id), self.in_flight.get(session_id)
        return (mark is not None and mark.era <= era) or (flight is not None and flight.era <= era)

    def _one_less(self, era: int) -> None:
        """A mark or a write of this earlier era is gone."""
        left = self._earlier[era] - 1
        if left:
            self._earlier[era] = left
        else:
            del self._earlier[era]
