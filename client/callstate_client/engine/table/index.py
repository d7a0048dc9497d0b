"""Hot sessions by status and by owner: what would otherwise be found by looking at all of them. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

from callstate_client.engine.sessions.session import Entry
from callstate_client.engine.table.labelled import Labelled

MIN_HOLES: Final = 1000
"""Numbers of sessions that are gone are swept out when they are as many as the others, and at least this many."""


class Roll:
    """Hot sessions in the order in which they became hot, each with a number to go on behind: pages cost what they
    show, not what lies before them."""

    def __init__(self) -> None:
        self.last = 0
        """The number that was given last."""
        self._numbers: list[int] = []
        self._entries: dict[int, Entry] = {}

    def add(self, entry: Entry) -> None:
        """Give a session the next number."""
        self.last += 1
        entry.seq = self.last
        self._numbers.append(entry.seq)
        self._entries[entry.seq] = entry

    def drop(self, entry: Entry) -> None:
        """The session is hot no longer."""
        del self._entries[entry.seq]
        if len(self._numbers) > 2 * len(self._entries) + MIN_HOLES:
            self._numbers = [*self._entries]

    def behind(self, number: int) -> Iterator[Entry]:
        """The sessions behind this number; none may become hot or cold while they are being taken."""
        numbers, entries = self._numbers, self._entries
        for place in range(bisect_right(numbers, number), len(numbers)):
            entry = entries.get(numbers[place])
            if entry is not None:
                yield entry


class Index:
    """Counts and lists that follow each change of a session's status or owner, and of an orphan's labels."""

    def __init__(self) -> None:
        self.by_status: dict[str, int] = {}
        """How many sessions have each status: counting 100,000 at each look would hold the loop."""
        self.owned: dict[str, dict[str, None]] = {}
        """The ids of each worker's sessions, ended ones that are still hot included."""
        self.orphans = Labelled()
        """Live sessions whose owner is gone, in the order in which they lost it."""

    @property
    def live(self) -> int:
        """How many have not ended."""
        return sum(count for status, count in self.by_status.items() if status != "ended")

    def update(self, entry: Entry) -> None:
        """The session is hot, and has perhaps another status or owner than it was entered under."""
        status, owner = entry.doc.status, entry.owner
        if entry.counted != status:
            self._count(entry, status)
        if entry.owner_counted != owner:
            self._own(entry, owner)
        if entry.orphan and status != "ended":
            self.orphans.put(entry.id, entry.labels)
        elif self.orphans:
            self.orphans.discard(entry.id)

    def drop(self, entry: Entry) -> None:
        """The session is hot no longer."""
        self._count(entry, None)
        self._own(entry, "")
        self.orphans.discard(entry.id)

    def _count(self, entry: Entry, status: str | None) -> None:
        counts = self.by_status
        if entry.counted is not None:
            counts[entry.counted] -= 1
            if not counts[entry.counted]:
                del counts[entry.counted]
        if status is not None:
            counts[status] = counts.get(status, 0) + 1
        entry.counted = status

    def _own(self, entry: Entry, owner: str) -> None:
        if entry.owner_counted:
            sessions = self.owned[entry.owner_counted]
            del sessions[entry.id]
            if not sessions:
                del self.owned[entry.owner_counted]
        if owner:
            self.owned.setdefault(owner, {})[entry.id] = None
        entry.owner_counted = owner
