"""What a subscriber that has come back has missed, as it is sent some at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from callstate_client.engine.event_line import NotedEvent, event_line
from callstate_client.engine.event_ring import EventRing, Kept
from callstate_client.protocol.events import GAP


class MissedEvents:
    """The events that one subscriber has yet to be sent.

    Args:
        place: in the ring, of the next one.
        before: lines that precede it.
    """

    __slots__ = ("_before", "_turns", "place")

    def __init__(self, place: int, before: bytes) -> None:
        self.place = place
        self._before = before
        self._turns: deque[Kept] = deque()
        """Events that have come since, and are not in the ring."""

    def add(self, turns: list[Kept]) -> None:
        """These have come, which are not kept in the ring."""
        self._turns += turns

    def some(
        self, ring: EventRing, stream: str, last_seq: int, most: int, is_told: Callable[[Kept], bool]
    ) -> tuple[list[bytes], int]:
        """The next lines, with the ring's last event all that is left.

        Args:
            ring: the kept events.
            stream: their stream.
            last_seq: the number of the last event published.
            most: how many kept events to look at.
            is_told: whether the subscriber is told of one.

        Returns:
            the lines, and how many events it took.
        """
        lines, self._before = [self._before], b""
        if self.place < ring.first:
            self.place = ring.first
            lines += self._turns_before(ring.lost_seq)
            gap = NotedEvent(GAP, ring.lost_us, None, "overrun", "", 0, {})
            lines.append(event_line(stream, ring.lost_seq, gap))
        some = ring.some(self.place, most)
        for kept in some:
            if self._turns:
                lines += self._turns_before(kept.seq)
            if is_told(kept):
                lines.append(kept.line)
        self.place += len(some)
        if self.place == ring.end:
            lines += self._turns_before(last_seq + 1)
        return lines, max(len(some), len(lines))

    def _turns_before(self, seq: int) -> list[bytes]:
        """Take the lines of those before a number."""
        turns, lines = self._turns, list[bytes]()
        while turns and turns[0].seq < seq:
            lines.append(turns.popleft().line)
        return lines
