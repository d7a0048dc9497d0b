"""Whose lines are served next, if more have arrived than one turn of the loop should take.

Lines are served as they arrive, as long as serving has taken less than TURN_S of this turn of the loop; what
arrives after that waits for the next. What waits gets equal shares of the time: each user, of a user's share each
process, of that each connection (start-time fair queueing, in a hierarchy). So nobody gets more by opening more
connections, and whoever has used less than a share is next, whether that is little or much of a processor.

Each group, such as the processes of a user, has a virtual time: the start tag of the member that is being served. A
member that begins to wait gets that time as its start tag, or the end of its last share if that is later. The
member with the lowest tag is served first, and its tag grows by the time that this took. Among equal tags, the
member whose last share ended first goes first; so a crowd of new processes does not overtake a known one.

A client that sends little is served first in the turn after its line arrived. Its reply leaves before the rest of
that turn goes to those with a backlog, who always have something waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush, heapreplace
from typing import Final, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

from callstate_sidecar.long_turns import NOTICED_S

TURN_S: Final = 0.001
"""Seconds of one turn of the loop in which lines are served; the request that passes them is the last one. A client
that sends little waits for two turns at most: the one in which its line arrives, and its own. Shorter ones would
mean more groups, and a journal write for each."""

SHARE_S: Final = 0.001
"""Seconds of one turn of the loop after which a connection's requests wait for the next turn: eight cheap requests
take a fifth of it, but a few large ones would hold up every other client."""

EACH_S: Final = 0.00003
"""What serving a connection costs beside its requests, seconds: it is read from, queued, and sent its replies."""


class Queued(Protocol):
    """What waits: a connection with lines, or a request of one that takes several turns."""

    @property
    def member(self) -> Member:
        """The connection whose time it takes."""
        ...

    def serve(self) -> None:
        """Serve some lines, or do a part of the work. What is left has to be queued again."""
        ...


ItemT = TypeVar("ItemT")
GroupT = TypeVar("GroupT", bound="Process | User")


class Group(Generic[ItemT]):
    """Members that share time: the connections of a process, the processes of a user, or all users.

    Args:
        used_s: the end of its own last share, seconds of the virtual time of the group that it belongs to.
    """

    __slots__ = ("__weakref__", "now_s", "queued", "used_s", "waiting")

    def __init__(self, used_s: float = 0.0) -> None:
        self.used_s = used_s
        self.now_s = 0.0
        """The group's virtual time: the start tag of the member that is being served."""
        self.waiting: list[tuple[float, float, int, ItemT]] = []
        """A heap of its waiting members, by start tag, end of the last share, and order of arrival."""
        self.queued = False
        """Whether it is in the heap of its parent group. It stays there for a while after its last member left."""

    def add(self, used_s: float, order: int, item: ItemT) -> None:
        """Queue a member whose last share ended at `used_s`."""
        heappush(self.waiting, (max(used_s, self.now_s), used_s, order, item))


class Process(Group[Queued]):
    """A process, or all processes of a user that can't be told apart."""

    __slots__ = ("user",)

    def __init__(self, user: User) -> None:
        super().__init__(user.now_s)
        self.user = user


class User(Group[Process]):
    """A user, with the processes that have connections, by pid."""

    __slots__ = ("processes",)

    def __init__(self, used_s: float) -> None:
        super().__init__(used_s)
        self.processes: WeakValueDictionary[int, Process] = WeakValueDictionary()


class Member:
    """A connection's account: how much time it has used."""

    __slots__ = ("process", "used_s")

    def __init__(self, process: Process) -> None:
        self.process = process
        self.used_s = 0.0


class FairQueue:
    """The connections and requests of one daemon that wait to be served in a later turn of the loop.

    Args:
        loop: the event loop whose turns they share.
        noticed: called with the seconds of a piece of work that took longer than NOTICED_S.
        end_group: commits the group, so that queued replies leave. Called when the time of a turn is used up, and
            once before: when the newcomers of the turn have been served.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, noticed: Callable[[float], None], end_group: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._noticed = noticed
        self._end_group = end_group
        self._users: Group[User] = Group()
        self._by_uid: WeakValueDictionary[int, User] = WeakValueDictionary()
        self._order = 0
        """The number of the latest entry; entries are numbered in the order in which they are queued."""
        self._again: list[Queued] | None = None
        """What is queued while something is being served; added only once the time that this took is charged."""
        self._waiting = 0
        """How many entries wait."""
        self._turn_order = 0
        """The number of the latest entry when this turn began."""
        self._turn_left = 0
        """How many of the entries that waited when this turn began still wait."""
        self._left_order = 0
        """The number of the latest entry when the previous turn ended; entries after it are newcomers."""
        self._newcomers = False
        """Whether this turn has served a newcomer completely."""
        self._ended_early = False
        """Whether this turn has committed a group before its end."""
        self._spent_s = 0.0
        self._scheduled = False

    def member(self, uid: int, pid: int) -> Member:
        """The account of a new connection. A pid of 0 stands for all processes that can't be told apart."""
        user = self._by_uid.get(uid)
        if user is None:
            user = self._by_uid[uid] = User(self._users.now_s)
        process = user.processes.get(pid)
        if process is None:
            process = user.processes[pid] = Process(user)
        return Member(process)

    def has_time(self) -> bool:
        """Whether a line that has just arrived may be served at once."""
        return self._spent_s < TURN_S

    def served(self, took_s: float) -> None:
        """Account for seconds in which a connection was served."""
        # Only a callback shows that a turn of the loop has ended, and scheduling one per turn would cost every
        # request. So the time of several turns is added up until it could be that of one long turn.
        self._spent_s += took_s + EACH_S
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
        self._order += 1
        process = queued.member.process
        process.add(queued.member.used_s, self._order, queued)
        if not process.queued:
            process.queued = True
            user = process.user
            user.add(process.used_s, self._order, process)
            if not user.queued:
                user.queued = True
                self._users.add(user.used_s, self._order, user)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Serve what was waiting when this turn began, as far as the time of the turn allows.

        Those that are behind may be served more than once. When the newcomers are done and only a backlog is left,
        the newcomers' replies leave first.
        """
        self._scheduled = False
        self._spent_s = 0.0
        self._turn_order = self._order
        self._turn_left = self._waiting
        self._newcomers = self._ended_early = False
        try:
            while self._turn_left and self._spent_s < TURN_S:
                self._serve_next()
        finally:
            if self._waiting:
                self._schedule()
        if self._spent_s >= TURN_S:
            self._end_group()
        self._left_order = self._order

    def _serve_next(self) -> None:
        """Serve the connection with the lowest tag, of the process with the lowest, of the user with the lowest."""
        user, process = self._find_next()
        if self._newcomers and not self._ended_early and process.waiting[0][2] <= self._left_order:
            # only once per turn: each group costs a write to the journal
            self._ended_early = True
            self._end_group()
            user, process = self._find_next()
        process.now_s, _, order, queued = heappop(process.waiting)
        self._waiting -= 1
        self._turn_left -= order <= self._turn_order
        before_s = self._spent_s
        again: list[Queued] = []
        self._again = again
        try:
            queued.serve()
        finally:
            took_s = self._spent_s - before_s
            queued.member.used_s = process.now_s + took_s
            self._order += 1
            _charge(user, took_s, self._order)
            _charge(self._users, took_s, self._order)
            self._again = None
            for each in again:
                self._add(each)
            self._newcomers |= order > self._left_order and not again

    def _find_next(self) -> tuple[User, Process]:
        """The user and the process whose connection is next."""
        users = self._users.waiting
        while True:
            user = users[0][3]
            while user.waiting:
                process = user.waiting[0][3]
                if process.waiting:
                    return user, process
                heappop(user.waiting)
                process.queued = False
            heappop(users)
            user.queued = False


def _charge(group: Group[GroupT], took_s: float, order: int) -> None:
    """Charge the group's first member, which was served, for the seconds that this took."""
    group.now_s, _, _, first = group.waiting[0]
    first.used_s = used_s = group.now_s + took_s
    heapreplace(group.waiting, (used_s, used_s, order, first))
