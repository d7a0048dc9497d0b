"""Requests of one connection that have waited for the store, and now wait for their turn of the loop.

They run in the connection's share of the time, as its lines do (fair_queue.py), and before its lines: a request
takes effect before those that were sent after it. What holds back lines, such as replies that the client does not
read, does not hold them back, for what was read is kept in memory until they have run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple, Protocol

from callstate_sidecar.serving.fair_queue import SHARE_S, FairQueue, Member, Process


class Later(NamedTuple):
    """A request that runs in a later turn of the loop.

    Args:
        session_id: the session that was read for it.
        run: runs it; returns whether it waits for that session once more.
        wait_again: makes it wait for that session too, instead of running, because an earlier request does.
    """

    session_id: str
    run: Callable[[], bool]
    wait_again: Callable[[], None]


class Waits(Protocol):
    """What requests that have waited need to know of their connection."""

    resumed: Resumed | None
    """Its requests that have waited and run next; None if there are none."""
    ahead: int
    """How many requests that had waited are being worked on in steps; the others wait for them."""
    queue: FairQueue
    """The connections that wait for a later turn of the loop."""
    member: Member
    """Its account of the time that it has used."""

    def serve_soon(self) -> None:
        """Serve its lines in the next turn of the loop that has time for it."""
        ...


class Resumed:
    """The requests of one connection that may run.

    Args:
        connection: whose they are.
    """

    __slots__ = ("_connection", "_later")

    def __init__(self, connection: Waits) -> None:
        self._connection = connection
        self._later: deque[Later] = deque()
        connection.resumed = self
        connection.queue.add(self)

    @property
    def member(self) -> Member:
        """The connection whose time they take."""
        return self._connection.member

    def add(self, later: Later) -> None:
        """Add a request that may run."""
        self._later.append(later)

    def serve(self) -> None:
        """Run some of them, and the rest in later turns; after the last one the connection's lines are served."""
        connection, later = self._connection, self._later
        now = began = monotonic()
        until = began + SHARE_S
        try:
            while later and not connection.ahead:
                first = later.popleft()
                if first.run():
                    self.wait_again(first.session_id)
                now = monotonic()
                if now >= until:
                    break
        finally:
            connection.queue.served(now - began)
            if later:
                connection.queue.add(self)
            else:
                connection.resumed = None
                connection.serve_soon()

    def wait_again(self, session_id: str) -> None:
        """A request waits for this session once more: so do those that were sent after it."""
        others: list[Later] = []
        for each in self._later:
            if each.session_id == session_id:
                each.wait_again()
            else:
                others.append(each)
        self._later.clear()
        self._later += others


class Requester:
    """Decides whether a connection's request that has waited runs now or later.

    Args:
        connection: the connection.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: Waits) -> None:
        self._connection = connection

    @property
    def process(self) -> Process:
        """The process that made the connection."""
        return self._connection.member.process

    def resume(self, now: Callable[[], None], later: Later) -> bool:
        """Run a request that has waited, if there is time for it in this turn of the loop.

        Args:
            now: runs it.
            later: takes its place if there is none.

        Returns:
            whether it has run.
        """
        connection = self._connection
        if connection.resumed is None and not connection.ahead and connection.queue.has_time():
            began = monotonic()
            now()
            connection.queue.served(monotonic() - began)
            return True
        (connection.resumed or Resumed(connection)).add(later)
        return False
