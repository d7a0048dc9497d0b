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
"""Unacknowledged mutations of one call: more than half an hour of talk at a turn every two seconds, which no
restart takes. Beyond it something is broken, and the caller has to know."""

MAX_BYTES: Final = 1024 * 1024
"""Their JSON together, bytes: a thousand calls of a worker can't take more than a gigabyte."""

MAX_ENTRY_BYTES: Final = LINE_BYTES - 4096
"""One mutation's JSON, bytes: it fits into a request line with its envelope, ids and `op`."""

BATCH_BYTES: Final = 256 * 1024
"""Turns of one request, bytes: well below a request line's limit, envelope included."""

PATCHING: Final = frozenset({"session.amend_turn", "session.update"})
"""Patches: two of different things can change places, two of the same thing can become one. Those that are actions
can do neither: what they patch is not known here."""

Action = Callable[[], Awaitable[int | None]]
"""Does what is no single mutation with an `op`, such as a release; gives the new version, if there is one."""


class Acknowledgement(asyncio.Future[int]):
    """Gets the version once a mutation is acknowledged. It need not be awaited: asyncio does not log an exception
    that nobody retrieves."""

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
        change: what it has changed in the worker's own view.
        key: what a patch is of: patches of the same thing may become one.
        action: done in place of a request.
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
        """An entry without which this one makes no sense: refused, it takes this one with it."""

    @property
    def is_turn(self) -> bool:
        """Whether it can share a request with others."""
        return bool(self.turn)

    @property
    def refusal(self) -> BaseException | None:
        """Why it was refused; None where it was not, or is not answered yet."""
        return self.future.exception() if self.future.done() else None

    def absorb(self, later: OutboxEntry) -> bool:
        """Become both patches in one; False where no single patch does what the two do one after the other."""
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
            with suppress(CallstateError):  # senseless without what was refused: the daemon will refuse it as well
                self.change.make()

    def acknowledge(self, version: int) -> None:
        """The daemon has it."""
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
        self._singles = 0  # so many of the oldest go one by one
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
        """See that an entry of this size would be taken.

        Args:
            size: of its JSON, bytes.
            details: for the error: whose entries these are, and why they are still here.

        Raises:
            TooLargeError: no request has room for it.
            OverloadedError: there is no room now.
        """
        if size > MAX_ENTRY_BYTES:
            raise TooLargeError(f"{size} bytes are more than the {MAX_ENTRY_BYTES} that fit into one request")
        if len(self._entries) >= MAX_ENTRIES or self._bytes + size > MAX_BYTES:
            raise OverloadedError(f"{len(self._entries)} mutations are not acknowledged yet{details}")

    # -- putting in -----------------------------------------------------------------------------------------

    def put(self, entry: OutboxEntry) -> OutboxEntry:
        """Put it in behind all others, or into a waiting patch of the same thing; gives the entry it is in now."""
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
        """A waiting patch of the same thing with nothing but other patches behind it."""
        if entry.key is None:
            return None
        for other in islice(reversed(self._entries), len(self._entries) - self.in_flight):
            if other.method not in PATCHING or other.action is not None:
                return None
            if other.key is entry.key:
                return other
        return None

    def turn_of(self, key: object) -> OutboxEntry | None:
        """The turn with this key, if it is here."""
        return next((entry for entry in reversed(self._entries) if entry.is_turn and entry.key is key), None)

    def is_waiting(self, entry: OutboxEntry) -> bool:
        """Whether it is here, and not in flight."""
        return any(other is entry for other in islice(self._entries, self.in_flight, None))

    def rewrite(self, turn: OutboxEntry, text: bytes) -> None:
        """Replace the JSON of a waiting turn."""
        self._bytes += len(text) - turn.size
        turn.turn, turn.size = text, len(text)

    # -- taking out -----------------------------------------------------------------------------------------

    def next_batch(self) -> list[OutboxEntry]:
        """The entries of the next request, in flight from now on: turns up to BATCH_BYTES, or one other."""
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
        """What was in flight is to go one by one."""
        self._singles, self.in_flight = self.in_flight, 0

    def take(self, count: int) -> list[OutboxEntry]:
        """Take out the oldest."""
        entries = [self._entries.popleft() for _ in range(count)]
        self._bytes -= sum(entry.size for entry in entries)
        self.in_flight = 0
        return entries

    def drop(self, count: int) -> list[OutboxEntry]:
        """Take out the oldest, and their changes out of the view."""
        for entry in reversed(self._entries):
            entry.undo()
        entries = self.take(count)
        for entry in self._entries:
            entry.redo()
        return entries

    def withdraw(self, entry: OutboxEntry) -> None:
        """Take out one that is waiting, and its change out of the view."""
        for other in reversed(self._entries):
            other.undo()
        self._entries.remove(entry)
        self._bytes -= entry.size
        for other in self._entries:
            other.redo()
