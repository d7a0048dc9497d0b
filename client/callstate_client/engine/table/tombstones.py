"""What is known of ids under which no session is hot: deletions, and reads of the store that found nothing.

    pending     deleted here, and the store has yet to be told. Kept until it has it, however long that takes: the
                store would give the session back otherwise
    settled     deleted here, and the store never heard of it, or need not; kept for the sake of repeats, the newest
                MAX_MISSES of them
    misses      the store had nothing, or a tombstone; believed for MISS_TTL_S, as another host may create one

A session that becomes hot under the id ends all three.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

MISS_TTL_S: Final = 1.0
"""A miss is remembered this long at most: another host may create the session meanwhile."""

MAX_MISSES: Final = 10_000
"""Remembered misses; beyond it the oldest are forgotten, which costs a store read each."""


class Tombstone(NamedTuple):
    """A deletion: what a session created later under the same id has to be above."""

    version: int
    epoch: int
    ops: Mapping[str, bytes] = MappingProxyType({})
    """Results of repeatable mutations of what was deleted, and of the deletion."""


NO_TOMBSTONE: Final = Tombstone(0, 0)


class Tombstones:
    """Deletions and misses, by session id."""

    def __init__(self) -> None:
        self.pending: dict[str, Tombstone] = {}
        self.settled: OrderedDict[str, Tombstone] = OrderedDict()
        self._misses: OrderedDict[str, tuple[float, Tombstone]] = OrderedDict()
        """Each with the monotonic time until which it counts."""

    def known_missing(self, session_id: str, now: float) -> bool:
        """Whether there is known to be no such session: deleted here, or not found in the store a moment ago."""
        if session_id in self.pending:
            return True
        miss = self._misses.get(session_id)
        if miss is None:
            return False
        if miss[0] > now:
            return True
        del self._misses[session_id]
        return False

    def predecessor(self, session_id: str) -> Tombstone:
        """The deletion that a session newly created under this id has to be above, for the store to take it."""
        return self.pending.get(session_id) or self._misses.get(session_id, (0.0, NO_TOMBSTONE))[1]

    def repeated(self, session_id: str, op: str | None) -> bytes | None:
        """The result that a mutation of a session that is not there got before it was deleted, or deleting it."""
        if op is None:
            return None
        result = self.predecessor(session_id).ops.get(op)
        return self.settled.get(session_id, NO_TOMBSTONE).ops.get(op) if result is None else result

    def remember_miss(self, session_id: str, now: float, tombstone: Tombstone = NO_TOMBSTONE) -> None:
        """The store has nothing under this id, or this tombstone."""
        misses = self._misses
        misses.pop(session_id, None)
        while misses and (len(misses) >= MAX_MISSES or next(iter(misses.values()))[0] <= now):
            misses.popitem(last=False)
        misses[session_id] = (now + MISS_TTL_S, tombstone)

    def forget_misses(self) -> None:
        """Ask the store again for whatever it is asked for next."""
        self._misses.clear()

    def settle(self, session_id: str, tombstone: Tombstone) -> None:
        """A deletion of which the store is not told."""
        if tombstone.ops:
            self.settled[session_id] = tombstone
            if len(self.settled) > MAX_MISSES:
                self.settled.popitem(last=False)

    def became_hot(self, session_id: str) -> None:
        """There is a session under this id; what the store has to be told of the one before stays pending."""
        self._misses.pop(session_id, None)
        self.settled.pop(session_id, None)
