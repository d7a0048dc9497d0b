"""Copies of sessions that another host has taken over, as they were when this host learned of it.

A copy holds everything acknowledged here until then, which may not be in the store. It is kept in memory and in the
journal, unused, for an operator to inspect and drop. A session may be lost more than once, each time with another
epoch or version: two hosts that had it one after the other may have come to the same version.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from callstate_client.engine.hot_bytes import HotBytes
from callstate_client.engine.numbered_order import NumberedOrder
from callstate_client.engine.sessions.records import SetAsideRecord
from callstate_client.engine.sessions.weight import copy_weight


class Copies(Struct, gc=False):
    """The copies of one session, by epoch and version, oldest first; `seq`: its place in a listing."""

    session_id: str
    by_stamp: dict[tuple[int, int], SetAsideRecord] = {}
    seq: int = 0

    @property
    def newest(self) -> SetAsideRecord:
        """The copy set aside last."""
        return next(reversed(self.by_stamp.values()))


class SetAside:
    """The copies, by session id. `hot`: counts their bytes."""

    def __init__(self, hot: HotBytes) -> None:
        self._hot = hot
        self._copies: dict[str, Copies] = {}
        self.order: NumberedOrder[Copies] = NumberedOrder()

    def __len__(self) -> int:
        return len(self._copies)

    def __iter__(self) -> Iterator[str]:
        return iter(self._copies)

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._copies

    def of(self, session_id: str) -> list[SetAsideRecord]:
        """The copies of one session, oldest first."""
        copies = self._copies.get(session_id)
        return [] if copies is None else [*copies.by_stamp.values()]

    def add(self, copy: SetAsideRecord) -> bool:
        """Keep a copy; returns whether it is new: it replaces one of the same epoch and version, which is equal."""
        session_id = copy.state.session_id
        copies = self._copies.get(session_id)
        if copies is None:
            copies = self._copies[session_id] = Copies(session_id)
            self.order.add(copies)
        before = copies.by_stamp.get(_stamp(copy))
        copies.by_stamp[_stamp(copy)] = copy
        self._hot.total += copy_weight(copy.state) - (0 if before is None else copy_weight(before.state))
        return before is None

    def drop(self, copy: SetAsideRecord) -> None:
        """Drop a copy, if there is one of its epoch and version."""
        session_id = copy.state.session_id
        copies = self._copies.get(session_id)
        if copies is None:
            return
        kept = copies.by_stamp.pop(_stamp(copy), None)
        if kept is not None:
            self._hot.total -= copy_weight(kept.state)
        if not copies.by_stamp:
            del self._copies[session_id]
            self.order.drop(copies)


def _stamp(copy: SetAsideRecord) -> tuple[int, int]:
    return copy.state.facts.epoch, copy.state.version
