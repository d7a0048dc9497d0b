"""The events that are kept for subscribers that come back: the newest, so many and so many bytes of them.

Each has a place, counted from the first event ever kept. So a subscriber that has missed many can be sent some at a
time, from its place on, while others come in behind and the oldest are dropped.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from callstate_client.engine.hot_bytes import HotBytes

EVENT_BYTES: Final = 2048
"""Bytes per event that the ring's size limit allows for: five times the usual size. With labels and a call id as
long as they may be, an event has three times as many, and a store may have longer call ids."""

KEPT_BYTES: Final = 150
"""Memory of a kept event beside its line."""

BLOCK: Final = 64
"""Events that are stored together: any place is found at once, however many are kept."""


class Kept(NamedTuple):
    """A published event.

    Args:
        seq: its number.
        type: its type.
        line: as subscribers get it.
        uid: the session's creator.
        gid: likewise.
        own: see NotedEvent.own.
    """

    seq: int
    type: str
    line: bytes
    uid: int
    gid: int
    own: str


class EventRing:
    """Kept events, in order of their numbers.

    Args:
        limit: how many are kept; may be changed later.
        hot: counts their bytes.
    """

    def __init__(self, limit: int, hot: HotBytes) -> None:
        self.limit = limit
        self.first = 0
        """The place of the oldest kept event."""
        self.end = 0
        """The place that the next event will have."""
        self.lost_seq = 0
        """The number of the last event that was dropped."""
        self.lost_us = 0
        """When it was dropped, microseconds since 1970."""
        self._hot = hot
        self._bytes = 0
        self._blocks: deque[list[Kept | None]] = deque()
        """The events in blocks of BLOCK; None stands for one that was dropped while its block is kept."""

    def __iter__(self) -> Iterator[Kept]:
        for block in self._blocks:
            yield from (kept for kept in block if kept is not None)

    def append(self, kept: Kept, now_us: int) -> None:
        """Keep an event, and drop the oldest ones that no longer fit. `now_us`: microseconds since 1970."""
        if not self.end % BLOCK:
            self._blocks.append([])
        self._blocks[-1].append(kept)
        self.end += 1
        self._bytes += len(kept.line)
        self._hot.total += KEPT_BYTES + len(kept.line)
        while self.end - self.first > self.limit or (
            self._bytes > self.limit * EVENT_BYTES and self.end - self.first > 1
        ):
            self._drop(now_us)

    def _drop(self, now_us: int) -> None:
        """Drop the oldest event."""
        block, at = self._blocks[0], self.first % BLOCK
        lost = block[at]
        block[at] = None
        self.first += 1
        if not self.first % BLOCK:
            self._blocks.popleft()
        if lost is not None:
            self._bytes -= len(lost.line)
            self._hot.total -= KEPT_BYTES + len(lost.line)
            self.lost_seq, self.lost_us = lost.seq, now_us

    def behind(self, seq: int) -> int:
        """The place of the first event with a number above this; `end` if there is none yet."""
        return bisect_right(
            range(self.end), seq, self.first, self.end, key=lambda place: self.some(place, 1)[0].seq
        )

    def some(self, place: int, most: int) -> list[Kept]:
        """Up to `most` events from this place on, which must not have been dropped. All are of one block, so there
        may be fewer; there are none only at the end."""
        if place >= self.end:
            return []
        at = place % BLOCK
        block = self._blocks[place // BLOCK - self.first // BLOCK]
        return [kept for kept in block[at : at + most] if kept is not None]
