"""Ids known to have no hot session: deletions, and store reads that found nothing.

    pending     deleted here, not yet in the store. Kept until the store has the deletion, however long that takes:
                otherwise the store would return the session
    settled     deleted here, and not to be written to the store; the newest MAX_MISSES are kept to answer retries
    misses      the store had nothing, or a tombstone; valid for MISS_TTL_S, as another host may create one

A session that becomes hot under the id ends all three.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from callstate_client.engine.growing_dict import GrowingDict
from callstate_client.engine.hot_bytes import HotBytes
from callstate_client.engine.sessions.weight import TOMBSTONE_BYTES, ops_weight

MISS_TTL_S: Final = 1.0
"""How long a miss is cached: another host may create the session meanwhile."""

MAX_MISSES: Final = 10_000
"""Cached misses; beyond this the oldest are evicted, at the cost of a store read each."""

EXPIRED_AT_ONCE: Final = 2
"""Expired misses forgotten with each new one: all at last, and never thousands in one go."""


class Tombstone(NamedTuple):
    """A deletion, whose version and epoch a session created later under the same id must exceed."""

    version: int
    epoch: int
    ops: Mapping[str, bytes] = MappingProxyType({})
    """Results of the deleted session's repeatable mutations, and of the deletion."""


NO_TOMBSTONE: Final = Tombstone(0, 0)


class Tombstones:
    """Deletions and misses, by session id.

    Args:
        hot: counts their bytes.
    """

    def __init__(self, hot: HotBytes) -> None:
        self._hot = hot
        self.pending: GrowingDict[Tombstone] = GrowingDict()
        """To be read; changed by `put` and `pop`."""
        self.settled: OrderedDict[str, Tombstone] = OrderedDict()
        self._misses: OrderedDict[str, tuple[float, Tombstone]] = OrderedDict()
        """Each with its expiry, monotonic time."""
        self._misses_bytes = 0

    def known_missing(self, session_id: str, now: float) -> bool:
        """Whether the session is known not to exist: deleted here, or recently not found in the store."""
        if session_id in self.pending:
            return True
        miss = self._misses.get(session_id)
        if miss is None:
            return False
        if miss[0] > now:
            return True
        self.forget_miss(session_id)
        return False

    def predecessor(self, session_id: str) -> Tombstone:
        """The deletion that a new session under this id must exceed for the store to accept it."""
        return self.pending.get(session_id) or self._misses.get(session_id, (0.0, NO_TOMBSTONE))[1]

    def is_deleted(self, session_id: str) -> bool:
        """Whether a deletion is known, here or from the store that has just been read."""
        return self.predecessor(session_id).version > 0 or session_id in self.settled

    def repeated(self, session_id: str, op: str | None) -> bytes | None:
        """The earlier result of a mutation of a session since deleted, or of the deletion."""
        if op is None:
            return None
        result = self.predecessor(session_id).ops.get(op)
        return self.settled.get(session_id, NO_TOMBSTONE).ops.get(op) if result is None else result

    def remember_miss(self, session_id: str, now: float, tombstone: Tombstone = NO_TOMBSTONE) -> None:
        """The store has nothing under this id, or this tombstone."""
        misses = self._misses
        self.forget_miss(session_id)
        if len(misses) >= MAX_MISSES:
            self.forget_miss(next(iter(misses)))
        for _ in range(EXPIRED_AT_ONCE):
            if not misses or next(iter(misses.values()))[0] > now:
                break
            self.forget_miss(next(iter(misses)))
        misses[session_id] = (now + MISS_TTL_S, tombstone)
        self._weigh_miss(_weight(session_id, tombstone))

    def forget_misses(self) -> None:
        """Clear the cached misses: later lookups read the store again."""
        self._misses = OrderedDict()
        self._weigh_miss(-self._misses_bytes)

    def forget_miss(self, session_id: str) -> None:
        """Clear a cached miss, if there is one."""
        miss = self._misses.pop(session_id, None)
        if miss is not None:
            self._weigh_miss(-_weight(session_id, miss[1]))

    def _weigh_miss(self, size: int) -> None:
        self._misses_bytes += size
        self._hot.total += size

    def put(self, session_id: str, tombstone: Tombstone) -> None:
        """A deletion is pending."""
        self.pop(session_id)
        self.pending[session_id] = tombstone
        self._hot.total += _weight(session_id, tombstone)

    def pop(self, session_id: str) -> Tombstone | None:
        """The deletion is pending no longer; returns it if it was."""
        tombstone = self.pending.get(session_id)
        if tombstone is not None:
            del self.pending[session_id]
            self._hot.total -= _weight(session_id, tombstone)
        return tombstone

    def settle(self, session_id: str, tombstone: Tombstone) -> None:
        """Keep a deletion that is not sent to the store."""
        if tombstone.ops:
            self.unsettle(session_id)
            self.settled[session_id] = tombstone
            self._hot.total += _weight(session_id, tombstone)
            if len(self.settled) > MAX_MISSES:
                self.unsettle(next(iter(self.settled)))

    def unsettle(self, session_id: str) -> None:
        """Drop a deletion that is not sent to the store, if there is one."""
        tombstone = self.settled.pop(session_id, None)
        if tombstone is not None:
            self._hot.total -= _weight(session_id, tombstone)

    def became_hot(self, session_id: str) -> None:
        """Drop what a hot session supersedes; a pending deletion of its predecessor stays."""
        self.forget_miss(session_id)
        self.unsettle(session_id)


def _weight(session_id: str, tombstone: Tombstone) -> int:
    return TOMBSTONE_BYTES + len(session_id) + (ops_weight(tombstone.ops) if tombstone.ops else 0)
