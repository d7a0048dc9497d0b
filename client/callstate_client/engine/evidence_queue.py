"""Sessions in the order of their last evidence, in queues of a bounded length.

An OrderedDict of all sessions would be copied as a whole when it is full: 6 ms at 87,382. So those of one phase and
one span are a lane, with as many queues as it takes. A session stays in its queue, and knows it: a heartbeat moves
it to the end without looking for anything else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from heapq import merge
from operator import itemgetter
from typing import Final, Generic, TypeVar

from callstate_client.engine.phases import Phase

QUEUE_MOST: Final = 10_000
"""Sessions in one queue: it grows in a third of a millisecond, and a tick looks at the first of each."""

QueuedT = TypeVar("QueuedT", bound=Hashable)


class Queue(Generic[QueuedT]):
    """Some sessions of a lane."""

    __slots__ = ("lane", "order", "phase")

    def __init__(self, lane: Lane[QueuedT]) -> None:
        self.lane = lane
        self.phase = lane.phase
        self.order: OrderedDict[QueuedT, float] = OrderedDict()
        """When each gave its last evidence, the one longest ago first."""


class Lane(Generic[QueuedT]):
    """All sessions of one phase and one span."""

    __slots__ = ("phase", "queues", "span_s")

    def __init__(self, phase: Phase, span_s: float) -> None:
        self.phase = phase
        self.span_s = span_s
        self.queues: list[Queue[QueuedT]] = []
        """None of them is empty, but one that was just begun."""

    def with_room(self) -> Queue[QueuedT]:
        """The queue for the next session: the newest, which mostly has room, or one that has again."""
        for queue in reversed(self.queues):
            if len(queue.order) < QUEUE_MOST:
                return queue
        self.queues.append(Queue(self))
        return self.queues[-1]

    def remove(self, queued: QueuedT, queue: Queue[QueuedT]) -> None:
        """Remove a session from its queue."""
        del queue.order[queued]
        if not queue.order:
            self.queues.remove(queue)

    def in_order(self) -> Iterator[QueuedT]:
        """All of them, the one whose last evidence is longest ago first; none may come or go meanwhile."""
        since = itemgetter(1)
        return (queued for queued, _ in merge(*(queue.order.items() for queue in self.queues), key=since))
