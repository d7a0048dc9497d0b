"""What a call's outbox holds, in the order it happened: its bounds, what becomes one, what is taken back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final

from callstate_client.calls.outbox.entries import PATCHING, Entry
from callstate_client.errors import OverloadedError, TooLargeError
from callstate_client.protocol.framing import (
    LINE_BYTES,
)

MAX_ENTRIES: Final = 1000
"""Unacknowledged mutations of one call: more than half an hour of talk at a turn every two seconds, which no
restart takes. Beyond it something is broken, and the caller is told."""

MAX_BYTES: Final = 1024 * 1024
"""Their turns' JSON, bytes, together: a thousand calls of a worker can't take more than a gigabyte."""

MAX_ENTRY_BYTES: Final = LINE_BYTES - 4096
"""Of one of them: it fits into a request line with its envelope, ids and `op`."""

GATHER_BYTES: Final = 256 * 1024
"""Turns of one request, bytes: well below a request line's limit, envelope included."""


class Backlog:
    """The entries of one call, the first `under_way` of which are a request that may have left."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._singly = 0
        self.under_way = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    @property
    def first(self) -> Entry:
        """The oldest."""
        return self._entries[0]

    def check_room(self, size: int, trouble: str) -> None:
        """See that an entry of so many bytes would be taken.

        Args:
            size: its JSON's, bytes.
            trouble: why those before it are still here.

        Raises:
            TooLargeError: no request has room for it.
            OverloadedError: there is no room now.
        """
        if size > MAX_ENTRY_BYTES:
            raise TooLargeError(f"{size} bytes are more than the {MAX_ENTRY_BYTES} that fit into one request")
        if len(self._entries) >= MAX_ENTRIES or self._bytes + size > MAX_BYTES:
            raise OverloadedError(f"{len(self._entries)} mutations are not acknowledged yet{trouble}")

    # -- putting in -----------------------------------------------------------------------------------------

    def put(self, entry: Entry) -> Entry:
        """Put in behind all others, or into a patch of the same thing that waits; gives where it is."""
        earlier = self._same(entry)
        if earlier is not None:
            before = earlier.size
            if earlier.absorb(entry):
                self._bytes += earlier.size - before
                return earlier
        self._entries.append(entry)
        self._bytes += entry.size
        return entry

    def _same(self, entry: Entry) -> Entry | None:
        """A patch of the same that waits, with nothing behind it that must come between."""
        if entry.key is None:
            return None
        for other in islice(reversed(self._entries), len(self._entries) - self.under_way):
            if other.method not in PATCHING:
                return None
            if other.key is entry.key:
                return other
        return None

    def turn_of(self, key: object) -> Entry | None:
        """The turn with this key, if it is here."""
        return next((entry for entry in reversed(self._entries) if entry.is_turn and entry.key is key), None)

    def is_waiting(self, entry: Entry) -> bool:
        """Whether it is here, and not under way."""
        return any(other is entry for other in islice(self._entries, self.under_way, None))

    def rewrite(self, turn: Entry, text: bytes) -> None:
        """Give a turn that is waiting other JSON."""
        self._bytes += len(text) - turn.size
        turn.turn, turn.size = text, len(text)

    # -- taking out -----------------------------------------------------------------------------------------

    def gather(self) -> int:
        """How many entries go into the next request: turns in a row, up to a size."""
        if self._singly or not self.first.is_turn:
            self._singly = max(0, self._singly - 1)
            return 1
        count = size = 0
        for entry in self._entries:
            size += entry.size
            if not entry.is_turn or (count and size > GATHER_BYTES):
                break
            count += 1
        return count

    def go_singly(self) -> None:
        """What was under way goes one by one."""
        self._singly, self.under_way = self.under_way, 0

    def take(self, count: int) -> list[Entry]:
        """Take out the oldest."""
        entries = [self._entries.popleft() for _ in range(count)]
        self._bytes -= sum(entry.size for entry in entries)
        self.under_way = 0
        return entries

    def take_back(self, count: int) -> list[Entry]:
        """Take out the oldest, and what they have changed in the worker's own view."""
        for entry in reversed(self._entries):
            entry.undo()
        entries = self.take(count)
        for entry in self._entries:
            entry.redo()
        return entries

    def withdraw(self, entry: Entry) -> None:
        """Take out one that is waiting, and what it has changed."""
        for each in reversed(self._entries):
            each.undo()
        self._entries.remove(entry)
        self._bytes -= entry.size
        for each in self._entries:
            each.redo()
