"""The queue of one call: mutations in order, within bounds, merged where that changes nothing.

The first `in_flight` entries are in the request that has been sent, or is about to be: they are neither merged with
later ones nor rewritten. All others wait.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Final

from callstate_client.calls.outbox.entry import OutboxEntry
from callstate_client.errors import TooLargeError
from callstate_client.protocol.framing import LINE_BYTES

__all__ = ["MAX_ENTRY_BYTES", "Backlog"]

MAX_ENTRIES: Final = 1000
"""Unacknowledged mutations of one call: more than half an hour of talk at a turn every two seconds, far longer than
a restart. Beyond it something is broken, and the caller has to know."""

MAX_BYTES: Final = 1024 * 1024
"""Their total JSON, bytes: a thousand calls of a worker take a gigabyte at most."""

MAX_ENTRY_BYTES: Final = LINE_BYTES - 4096
"""One mutation's JSON, bytes: it fits into a request line with its envelope, ids and `op`."""

BATCH_BYTES: Final = 256 * 1024
"""Turns of one request, bytes: well below a request line's limit, envelope included."""

PATCHING: Final = frozenset({"session.amend_turn", "session.update"})
"""Patches: two of different things can be reordered, two of the same thing merged. Neither is true of actions, as
it is not known here what they patch."""


class Backlog:
    """The entries of one call, oldest first."""

    def __init__(self) -> None:
        self.entries: deque[OutboxEntry] = deque()
        """To be read."""
        self._bytes = 0
        self._singles = 0  # how many of the oldest are sent one by one
        self.in_flight = 0

    def has_room(self, size: int) -> bool:
        """Whether there is room for an entry whose JSON has this size, bytes.

        Raises:
            TooLargeError: it does not fit into any request.
        """
        if size > MAX_ENTRY_BYTES:
            raise TooLargeError(f"{size} bytes are more than the {MAX_ENTRY_BYTES} that fit into one request")
        return len(self.entries) < MAX_ENTRIES and self._bytes + size <= MAX_BYTES

    # -- adding ---------------------------------------------------------------------------------------------

    def put(self, entry: OutboxEntry) -> OutboxEntry:
        """Append it, or merge it into a waiting patch of the same thing. Returns the entry that it is in now."""
        earlier = self._mergeable(entry)
        if earlier is not None:
            before = earlier.size
            if earlier.absorb(entry, MAX_ENTRY_BYTES):
                self._bytes += earlier.size - before
                return earlier
        self.entries.append(entry)
        self._bytes += entry.size
        return entry

    def _mergeable(self, entry: OutboxEntry) -> OutboxEntry | None:
        """A waiting patch of the same thing that is followed by nothing but other patches."""
        if entry.key is None:
            return None
        for other in islice(reversed(self.entries), len(self.entries) - self.in_flight):
            if other.method not in PATCHING or other.action is not None:
                return None
            if other.key is entry.key:
                return other
        return None

    def turn_of(self, key: object) -> OutboxEntry | None:
        """The queued turn with this key, if there is one."""
        return next((entry for entry in reversed(self.entries) if entry.is_turn and entry.key is key), None)

    def is_waiting(self, entry: OutboxEntry) -> bool:
        """Whether it is queued and not in flight."""
        return any(other is entry for other in islice(self.entries, self.in_flight, None))

    def rewrite(self, turn: OutboxEntry, text: bytes) -> None:
        """Replace the JSON of a waiting turn."""
        self._bytes += len(text) - turn.size
        turn.turn, turn.size = text, len(text)

    # -- removing -------------------------------------------------------------------------------------------

    def next_batch(self) -> list[OutboxEntry]:
        """The entries of the next request, in flight from now on: turns up to BATCH_BYTES, or a single other."""
        self.in_flight = self._batch_length()
        return [*islice(self.entries, self.in_flight)]

    def _batch_length(self) -> int:
        if self._singles or not self.entries[0].is_turn:
            self._singles = max(0, self._singles - 1)
            return 1
        count = size = 0
        for entry in self.entries:
            size += entry.size
            if not entry.is_turn or (count and size > BATCH_BYTES):
                break
            count += 1
        return count

    def split_batch(self) -> None:
        """Send what was in flight one by one."""
        self._singles, self.in_flight = self.in_flight, 0

    def take(self, count: int) -> list[OutboxEntry]:
        """Remove and return the oldest."""
        entries: list[OutboxEntry] = []
        for _ in range(count):
            entry = self.entries.popleft()
            self._bytes -= entry.size
            entries.append(entry)
        self.in_flight = 0
        return entries

    def drop(self, count: int) -> list[OutboxEntry]:
        """Remove the oldest, and undo their changes of the view."""
        for entry in reversed(self.entries):
            entry.undo()
        entries = self.take(count)
        for entry in self.entries:
            entry.redo()
        return entries

    def withdraw(self, entry: OutboxEntry) -> None:
        """Remove a waiting entry, and undo its change of the view."""
        for other in reversed(self.entries):
            other.undo()
        self.entries.remove(entry)
        self._bytes -= entry.size
        for other in self.entries:
            other.redo()
