"""Whose lines are served next, if more have arrived than one turn of the loop should take.

Lines are served as they arrive, as long as serving has taken less than TURN_S of this turn of the loop; what
arrives after that waits for the next. Of the connections that wait, those are served first that have used the least
of the daemon's time lately. So a client that sends a request now and then waits neither for the backlog of a client
that sends thousands, nor for a hundred connections of it; those that all send as much as they can get equal shares.

How much a connection has used decays by half in each HALF_LIFE_S. All decay alike, so their order does not change
while they wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import log2
from typing import Final, Protocol

from callstate_sidecar.long_turns import NOTICED_S

TURN_S: Final = 0.003
"""Seconds of one turn of the loop in which lines are served; the request that passes them is the last one."""

HALF_LIFE_S: Final = 2.0
"""After this many seconds, half as much counts of the time that a connection has used: longer than a hundred busy
connections take for a request each, or each would pass for one that hardly uses any."""

DECAY_EVERY_S: Final = 0.1
"""How exact that is: a power for each request would cost more than it brings."""

LEAST_USED_S: Final = 0.001
"""Less than this is no difference. So one that has waited for a dozen half-lives precedes even new connections."""


class Used(Protocol):
    """A connection, as the time that it takes is counted."""

    used_s: float
    used_at: float
    """The time that it has used, seconds, as it counted at a reading of time.monotonic()."""


class Queued(Protocol):
    """What waits: a connection with lines, or a request of one that takes several turns."""

    @property
    def used_s(self) -> float:
        """The connection's."""
        ...

    @property
    def used_at(self) -> float:
        """The connection's."""
        ...

    def serve(self) -> None:
        """Serve some lines, or do a part of the work. What is left has to be queued again."""
        ...


class FairQueue:
    """What waits for a turn of the loop of one daemon.

    Args:
        loop: whose turns are shared.
        noticed: called with the seconds of a piece of work that took longer than NOTICED_S.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, noticed: Callable[[float], None]) -> None:
        self._loop = loop
        self._noticed = noticed
        self._waiting: list[tuple[float, int, Queued]] = []
        self._order = count()
        self._spent_s = 0.0
        self._scheduled = False

    def has_time(self) -> bool:
        """Whether a line that has just arrived may be served at once."""
        return self._spent_s < TURN_S

    def served(self, connection: Used, began: float, ended: float) -> None:
        """Account for the time between two readings of time.monotonic() in which a connection was served."""
        took_s = ended - began
        age_s = ended - connection.used_at
        if age_s > DECAY_EVERY_S:
            connection.used_s *= 0.5 ** (age_s / HALF_LIFE_S)
            connection.used_at = ended
        connection.used_s += took_s
        # Only a callback tells that a turn of the loop has ended, and one for each turn would cost every request.
        # So the time of several turns is added up until it might be that of a long one.
        self._spent_s += took_s
        if took_s > NOTICED_S:
            self._noticed(took_s)
        if self._spent_s >= TURN_S:
            self._schedule()

    def add(self, queued: Queued) -> None:
        """Serve this in a later turn of the loop; it must not be queued already."""
        used = log2(max(queued.used_s, LEAST_USED_S)) + queued.used_at / HALF_LIFE_S
        heappush(self._waiting, (used, next(self._order), queued))
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Serve those that were waiting when this turn began, as far as its time allows."""
        self._scheduled = False
        self._spent_s = 0.0
        waiting, self._waiting = self._waiting, []  # what is queued again meanwhile waits for the next turn
        while waiting and self._spent_s < TURN_S:
            heappop(waiting)[2].serve()
        for queued_again in self._waiting:
            heappush(waiting, queued_again)
        self._waiting = waiting
        if self._waiting:
            self._schedule()
