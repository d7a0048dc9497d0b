"""The queue of one call: mutations in order, within bounds, merged where that changes nothing.

The first `in_flight` entries are in the request that has been sent, or is about to be: they are neither merged with
later ones nor rewritten. All others wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, Final

import msgspec

from callstate_client import protocol
from callstate_client.calls.outbox.local_changes import Change, Patched
from callstate_client.errors import CallstateError, OverloadedError, TooLargeError
from callstate_client.model.members import encode_members
from callstate_client.model.merge import compose_patches
from callstate_client.protocol.framing import LINE_BYTES

__all__ = ["MAX_ENTRY_BYTES", "Acknowledgement", "Action", "Backlog", "OutboxEntry"]

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

Action = Callable[[], Awaitable[int | None]]
"""Does what is not a single mutation with an `op`, such as a release. Returns the new version, if there is one."""


class Acknowledgement(asyncio.Future[int]):
    """Gets the version once a mutation is acknowledged. It need not be awaited: asyncio does not log an exception
    that is not retrieved."""

    def __init__(self, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.waiters = 0
        """How many tasks await it."""
        self.add_done_callback(_retrieve)


def _retrieve(future: asyncio.Future[int]) -> None:
    if not future.cancelled():
        future.exception()


class OutboxEntry:
    """One mutation: a turn, which others can join in one request, or a request of its own.

    Args:
        future: gets the version once it is acknowledged, or the error it was refused with.
        method: the verb.
        params: of the verb's class; none for a turn, and for an action.
        turn: a turn's JSON.
        change: its change of the worker's own view.
        key: what is patched: patches of the same thing may be merged.
        action: done instead of a request.
    """

    __slots__ = (
        "action",
        "amends",
        "change",
        "follows",
        "future",
        "index",
        "key",
        "method",
        "params",
        "size",
        "turn",
    )

    def __init__(
        self,
        future: Acknowledgement,
        method: str,
        params: protocol.Mutation | None = None,
        *,
        turn: bytes = b"",
        change: Change | None = None,
        key: Any = None,
        action: Action | None = None,
    ) -> None:
        self.future = future
        self.method = method
        self.params = params
        self.turn = turn
        self.change = change
        self.key = key
        self.action = action
        self.size = len(turn) or (len(protocol.encode_json(params)) if params is not None else 0)
        self.index: int | None = None
        """Of an acknowledged turn: its index in the history."""
        self.amends: OutboxEntry | None = None
        """Of an amendment: the entry of its turn."""
        self.follows: OutboxEntry | None = None
        """An entry that this one depends on: if it is refused, so is this one."""

    @property
    def is_turn(self) -> bool:
        """Whether it can share a request with others."""
        return bool(self.turn)

    @property
    def refusal(self) -> BaseException | None:
        """Why it was refused; None if it was not, or is not answered yet."""
        return self.future.exception() if self.future.done() else None

    def absorb(self, later: OutboxEntry) -> bool:
        """Merge a later patch into this one; False if no single patch has the effect of the two."""
        mine, theirs = self.change, later.change
        if not isinstance(mine, Patched) or not isinstance(theirs, Patched):
            return False
        both = compose_patches(mine.patch, theirs.patch)
        if both is None or not isinstance(self.params, protocol.AmendTurnParams | protocol.UpdateParams):
            return False
        mine.patch = both
        self.params.set = msgspec.Raw(encode_members(both))
        self.size = len(protocol.encode_json(self.params))
        return True

    def undo(self) -> None:
        """Undo its change of the view."""
        if self.change is not None:
            self.change.undo()

    def redo(self) -> None:
        """Make its change of the view again."""
        if self.change is not None:
            with suppress(CallstateError):  # it depended on what was refused: the daemon will refuse it too
                self.change.make()

    def acknowledge(self, version: int) -> None:
        """The daemon has acknowledged it."""
        if not self.future.done():
            self.future.set_result(version)

    def fail(self, error: CallstateError) -> None:
        """The daemon has refused it, or delivery was given up."""
        if not self.future.done():
            self.future.set_exception(error)


class Backlog:
    """The entries of one call, oldest first."""

    def __init__(self) -> None:
        self._entries: deque[OutboxEntry] = deque()
        self._bytes = 0
        self._singles = 0  # how many of the oldest are sent one by one
        self.in_flight = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[OutboxEntry]:
        return iter(self._entries)

    @property
    def first(self) -> OutboxEntry:
        """The oldest."""
        return self._entries[0]

    def check_room(self, size: int, details: str) -> None:
        """Check that there is room for an entry of this size.

        Args:
            size: of its JSON, bytes.
            details: for the error: whose entries these are, and why they are still here.

        Raises:
            TooLargeError: it does not fit into any request.
            OverloadedError: there is no room now.
        """
        if size > MAX_ENTRY_BYTES:
            raise TooLargeError(f"{size} bytes are more than the {MAX_ENTRY_BYTES} that fit into one request")
        if len(self._entries) >= MAX_ENTRIES or self._bytes + size > MAX_BYTES:
            raise OverloadedError(f"{len(self._entries)} mutations are not acknowledged yet{details}")

    # -- adding ---------------------------------------------------------------------------------------------

    def put(self, entry: OutboxEntry) -> OutboxEntry:
        """Append it, or merge it into a waiting patch of the same thing. Returns the entry that it is in now."""
        earlier = self._mergeable(entry)
        if earlier is not None:
            before = earlier.size
            if earlier.absorb(entry):
                self._bytes += earlier.size - before
                return earlier
        self._entries.append(entry)
        self._bytes += entry.size
        return entry

    def _mergeable(self, entry: OutboxEntry) -> OutboxEntry | None:
        """A waiting patch of the same thing that is followed by nothing but other patches."""
        if entry.key is None:
            return None
        for other in islice(reversed(self._entries), len(self._entries) - self.in_flight):
            if other.method not in PATCHING or other.action is not None:
                return None
            if other.key is entry.key:
                return other
        return None

    def turn_of(self, key: object) -> OutboxEntry | None:
        """The queued turn with this key, if there is one."""
        return next((entry for entry in reversed(self._entries) if entry.is_turn and entry.key is key), None)

    def is_waiting(self, entry: OutboxEntry) -> bool:
        """Whether it is queued and not in flight."""
        return any(other is entry for other in islice(self._entries, self.in_flight, None))

    def rewrite(self, turn: OutboxEntry, text: bytes) -> None:
        """Replace the JSON of a waiting turn."""
        self._bytes += len(text) - turn.size
        turn.turn, turn.size = text, len(text)

    # -- removing -------------------------------------------------------------------------------------------

    def next_batch(self) -> list[OutboxEntry]:
        """The entries of the next request, in flight from now on: turns up to BATCH_BYTES, or a single other."""
        self.in_flight = self._batch_length()
        return [*islice(self._entries, self.in_flight)]

    def _batch_length(self) -> int:
        if self._singles or not self.first.is_turn:
            self._singles = max(0, self._singles - 1)
            return 1
        count = size = 0
        for entry in self._entries:
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
        entries = [self._entries.popleft() for _ in range(count)]
        self._bytes -= sum(entry.size for entry in entries)
        self.in_flight = 0
        return entries

    def drop(self, count: int) -> list[OutboxEntry]:
        """Remove the oldest, and undo their changes of the view."""
        for entry in reversed(self._entries):
            entry.undo()
        entries = self.take(count)
        for entry in self._entries:
            entry.redo()
        return entries

    def withdraw(self, entry: OutboxEntry) -> None:
        """Remove a waiting entry, and undo its change of the view."""
        for other in reversed(self._entries):
            other.undo()
        self._entries.remove(entry)
        self._bytes -= entry.size
        for other in self._entries:
            other.redo()
