"""Whose lines are served next, if more have arrived than one turn of the loop should take.

Lines are served as they arrive, as long as serving has taken less than TURN_S of this turn of the loop; what
arrives after that waits for the next. What waits gets equal shares of the time: each user, of a user's share each
process, of that each connection (start-time fair queueing, in a hierarchy). So nobody gets more by opening more
connections, and whoever has used less than a share is next, whether that is little or much of a processor.

Each group, such as the processes of a user, has a time of its own: where the share of the one that is being served
begins. A member that begins to wait does so at that time, or where its last share ended if that is later; the one
that is furthest behind is served first, and proceeds by the time that this took. Of those that begin at the same
time, the one whose last share ended first precedes; so a crowd of new processes does not precede a known one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final, Protocol
from weakref import WeakValueDictionary

from callstate_sidecar.long_turns import NOTICED_S

TURN_S: Final = 0.001
"""Seconds of one turn of the loop in which lines are served; the request that passes them is the last one. A client
that sends little waits for two turns at most: the one in which its line arrives, and its own. Shorter ones would
mean more groups, and a journal write for each."""


class Queued(Protocol):
    """What waits: a connection with lines, or a request of one that takes several turns."""

    @property
    def member(self) -> Member:
        """The connection, as its time is counted."""
        ...

    def serve(self) -> None:
        """Serve some lines, or do a part of the work. What is left has to be queued again."""
        ...


class Member:
    """A connection, as its time is counted.

    Args:
        group: whose share it gets a share of: of a process; None: nobody's, it has all the time.
        used_s: where its share begins, seconds of the group's time.
    """

    __slots__ = ("group", "used_s")

    def __init__(self, group: Group | None, used_s: float = 0.0) -> None:
        self.group = group
        self.used_s = used_s


class Group(Member):
    """A user or process, or all users: a member that shares its time with members of its own."""

    __slots__ = ("__weakref__", "latest_s", "members", "now_s", "waiting")

    def __init__(self, group: Group | None) -> None:
        super().__init__(group, 0.0 if group is None else group.now_s)
        self.members: WeakValueDictionary[int, Group] = WeakValueDictionary()
        """Those that are groups, by uid or pid, as long as they have connections."""
        self.waiting: list[tuple[float, float, int, Group | Queued]] = []
        """A heap, by where the shares begin, and the last ones ended. A group is in that of its own group while
        any of its members wait."""
        self.now_s: float = 0.0
        """Where the share begins of the member that is being served."""
        self.latest_s = 0.0
        """Where the last share ends."""

    def member(self, number: int) -> Group:
        """The member with this uid or pid."""
        found = self.members.get(number)
        if found is None:
            found = self.members[number] = Group(self)
        return found


class FairQueue:
    """What waits for a turn of the loop of one daemon.

    Args:
        loop: whose turns are shared.
        noticed: called with the seconds of a piece of work that took longer than NOTICED_S.
        used_up: called when the queue has used up the time of a turn, so that nothing more is served in it.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, noticed: Callable[[float], None], used_up: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._noticed = noticed
        self._used_up = used_up
        self._users = Group(None)
        self._order = 0
        """Of the last entry of a heap."""
        self._again: list[Queued] | None = None
        """During a turn, what is queued while something is served: it has yet to be charged for that."""
        self._waiting = 0
        self._turn_order = 0
        self._turn_left = 0
        """How many wait that did when this turn began."""
        self._spent_s = 0.0
        self._scheduled = False

    def member(self, uid: int, pid: int) -> Member:
        """A new connection of this process of this user. A pid of 0 stands for all that can't be told apart."""
        return Member(self._users.member(uid).member(pid))

    def has_time(self) -> bool:
        """Whether a line that has just arrived may be served at once."""
        return self._spent_s < TURN_S

    def served(self, took_s: float) -> None:
        """Account for seconds in which a connection was served."""
        # Only a callback tells that a turn of the loop has ended, and one for each turn would cost every request.
        # So the time of several turns is added up until it might be that of a long one.
        self._spent_s += took_s
        if took_s > NOTICED_S:
            self._noticed(took_s)
        if self._spent_s >= TURN_S:
            self._schedule()

    def add(self, queued: Queued) -> None:
        """Serve this in a later turn of the loop; it must not be queued already."""
        if self._again is None:
            self._add(queued)
        else:
            self._again.append(queued)
        self._schedule()

    def _add(self, queued: Queued) -> None:
        self._waiting += 1
        item: Group | Queued = queued
        member = queued.member
        while (group := member.group) is not None:
            begun = bool(group.waiting)
            self._push(group, member, item)
            if begun:  # it waits already
                break
            item = member = group

    def _push(self, group: Group, member: Member, item: Group | Queued) -> None:
        self._order += 1
        heappush(group.waiting, (max(member.used_s, group.now_s), member.used_s, self._order, item))

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Serve what was waiting when this turn began, as far as its time allows.

        Meanwhile, others that are behind are served again; when only those are left, their replies leave first.
        """
        self._scheduled = False
        self._spent_s = 0.0
        self._turn_order = self._order
        self._turn_left = self._waiting
        try:
            while self._turn_left and self._spent_s < TURN_S:
                self._again = []
                self._serve_next(self._users)
                self._add_again()
        finally:
            self._add_again()
            if self._waiting:
                self._schedule()
        if self._spent_s >= TURN_S:
            self._used_up()

    def _add_again(self) -> None:
        again, self._again = self._again or (), None
        for queued in again:
            self._add(queued)

    def _serve_next(self, group: Group) -> None:
        """Serve the member of a group that is furthest behind."""
        group.now_s, _, order, item = heappop(group.waiting)
        before_s = self._spent_s
        member = item if isinstance(item, Group) else item.member
        try:
            if isinstance(item, Group):
                self._serve_next(item)
            else:
                self._waiting -= 1
                self._turn_left -= order <= self._turn_order
                item.serve()
        finally:
            member.used_s = group.now_s + self._spent_s - before_s
            group.latest_s = max(group.latest_s, member.used_s)
            if isinstance(item, Group) and item.waiting:
                self._push(group, item, item)
            if not group.waiting:
                group.now_s = group.latest_s  # what was used before nobody waited does not matter any more
