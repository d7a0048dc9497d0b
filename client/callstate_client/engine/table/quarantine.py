"""Sessions and deletions that the store refuses. Pure: the time is passed in.

A refused session stays in memory and in the journal, a refused deletion keeps its tombstone, and both are tried
again: when the session changes, and after an exponential backoff. A write that was not answered in time is tried
alone, and only after its backoff, as each attempt costs a timeout. One that could not even be made, which is a bug,
is treated like a refused one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, KeysView, Sequence
from heapq import heappop, heappush
from typing import Final

from msgspec import Struct

from callstate_client.engine.numbered_order import NumberedOrder

RETRY_FIRST_S: Final = 1.0
"""The first backoff: a fault that is fixed at once costs no more than this."""

RETRY_MAX_S: Final = 300.0
"""The longest backoff: each attempt sends the whole session, and a fault that lasts this long needs an operator."""

SPARE_ENTRIES: Final = 1000
"""Outdated entries that the heap may hold, besides one per session."""


class Refusal(Struct, gc=False):
    """Why and since when the store refuses one session.

    Args:
        session_id: the session.
        why: the store's reason, in words.
        since: when it was first refused, monotonic seconds.
        attempts: how often it was refused.
        due: when it is tried again, monotonic seconds.
        alone: it was not answered in time.
        seq: its place in a listing.
    """

    session_id: str
    why: str
    since: float
    attempts: int
    due: float
    alone: bool = False
    seq: int = 0


class Quarantine:
    """What the store refuses, by session id."""

    def __init__(self) -> None:
        self._refusals: dict[str, Refusal] = {}
        self._by_due: list[tuple[float, str]] = []
        """A heap; entries that no longer match their refusal are skipped."""
        self._hurried: list[str] = []
        """Ids to be tried before any others, the next one last."""
        self.order: NumberedOrder[Refusal] = NumberedOrder()
        """The refusals, oldest first."""

    def __len__(self) -> int:
        return len(self._refusals)

    def __iter__(self) -> Iterator[str]:
        return iter(self._refusals)

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._refusals

    def keys(self) -> KeysView[str]:
        """The ids, those refused first come first."""
        return self._refusals.keys()

    def get(self, session_id: str) -> Refusal | None:
        """The refusal of this session, if it is refused."""
        return self._refusals.get(session_id)

    def refuse(self, session_id: str, why: str, now: float, *, alone: bool) -> Refusal:
        """Record that the store has refused this session, perhaps not for the first time."""
        refusal = self._refusals.get(session_id)
        attempts = 1 if refusal is None else refusal.attempts + 1
        delay_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(attempts - 1, 30)) * random.uniform(0.5, 1.0)
        due = now + delay_s
        if refusal is None:
            refusal = Refusal(session_id, why, now, attempts, due, alone)
            self.put(refusal)
        else:
            refusal.why, refusal.attempts, refusal.due, refusal.alone = why, attempts, due, alone
            self._schedule(refusal)
        return refusal

    def put(self, refusal: Refusal) -> None:
        """Add this refusal, or replace the session's current one."""
        self.discard(refusal.session_id)
        self._refusals[refusal.session_id] = refusal
        self.order.add(refusal)
        self._schedule(refusal)

    def _schedule(self, refusal: Refusal) -> None:
        if len(self._by_due) > 2 * len(self._refusals) + SPARE_ENTRIES:
            self._by_due = sorted((each.due, name) for name, each in self._refusals.items())
        else:
            heappush(self._by_due, (refusal.due, refusal.session_id))

    def discard(self, session_id: str) -> None:
        """Remove a session's refusal, if there is one: the store has taken it, or it is no longer to be written."""
        refusal = self._refusals.pop(session_id, None)
        if refusal is not None:
            self.order.drop(refusal)

    def hurry(self, session_ids: Sequence[str] | None) -> int:
        """Try refused sessions again before any others, these or all; returns their number."""
        chosen = [*self._refusals] if session_ids is None else [i for i in session_ids if i in self._refusals]
        chosen.reverse()
        self._hurried = chosen if session_ids is None else self._hurried + chosen
        return len(chosen)

    def is_held(self, session_id: str, now: float) -> bool:
        """Whether it has to wait for its backoff even if it has changed."""
        refusal = self._refusals.get(session_id)
        return refusal is not None and refusal.alone and refusal.due > now

    def is_alone(self, session_id: str) -> bool:
        """Whether it must be sent in a batch of its own."""
        refusal = self._refusals.get(session_id)
        return refusal is not None and refusal.alone

    def take_due(self, now: float, most: int) -> list[str]:
        """Take some of those whose backoff has passed; each is returned once per backoff."""
        found: list[str] = []
        while self._hurried and len(found) < most:
            refusal = self._refusals.get(self._hurried.pop())
            if refusal is not None:
                refusal.due = now
                found.append(refusal.session_id)
        while self._by_due and len(found) < most and self._by_due[0][0] <= now:
            due, session_id = heappop(self._by_due)
            refusal = self._refusals.get(session_id)
            if refusal is not None and refusal.due == due:
                found.append(session_id)
        return found
