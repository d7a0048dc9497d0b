"""Which connections get a place: so many of all users, fewer of one, and some more in reserve for operators.

A user, that is a uid, may take all but a twentieth of the places by default: where all workers run as one user,
that is nearly all there are; and whatever it does, another user finds room. The uid is the one that the kernel
vouches for. Where several users look alike to it (behind a proxy, or in a user namespace without a mapping), they
share one quota.

If all places are taken, a newcomer gets that of the connection that has been idle longest, if that is long enough.
Then there is the reserve, for operators (root and the daemon's own user always are): it serves the verbs by which
they look after the daemon, and neither workers nor subscribers, so that a flood by one of them leaves it free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Final

from callstate_client.engine.limits import user_share
from callstate_client.engine.user import User
from callstate_client.errors import OverloadedError
from callstate_sidecar.config.schema import LimitsConfig
from callstate_sidecar.logs.event_log import EventLog

log = EventLog(__name__)

MOST_RESERVED: Final = 4
"""The reserve is at most this fraction (1/4) of `limits.connections`."""

RESERVE_VERBS: Final = frozenset({
    "server.ping", "server.info", "server.stats", "server.config", "server.check", "server.flush", "server.drain",
    "server.erase", "worker.list", "quarantine.list", "quarantine.show", "quarantine.retry", "quarantine.drop",
    "session.list", "session.list_active", "session.load", "session.end", "session.delete",
})  # fmt: skip
"""What a connection in the reserve may request."""


class Place(Enum):
    """Where a connection counts."""

    ORDINARY = "ordinary"
    RESERVED = "reserved"


class Admission:
    """The places of one daemon.

    Args:
        fit: how many connections the limit on open files has room for.
        make_room: closes a connection that has been idle for long; whether there was one. It calls `leave`.
        is_operator: whether a user is one.
    """

    def __init__(self, fit: int, make_room: Callable[[], bool], is_operator: Callable[[User], bool]) -> None:
        self._fit = fit
        self._make_room = make_room
        self._is_operator = is_operator
        self._taken = dict.fromkeys(Place, 0)
        self._by_uid: Counter[int] = Counter()
        self.most = 0
        """`limits.connections`, lowered to what fits."""
        self.reserve = 0

    def limit(self, limits: LimitsConfig) -> None:
        """Apply limits, at the start and with each reload. Connections that have a place keep it."""
        self.most = min(limits.connections, self._fit)
        self.reserve = min(limits.reserved_connections, self.most // MOST_RESERVED)
        self._per_uid = limits.per_uid.connections
        if self.most < limits.connections:
            log.warning(
                "connections_lowered",
                "limits.connections is %d, but the limit on open files allows only %d",
                limits.connections, self.most,
            )  # fmt: skip

    def of_user(self, uid: int) -> int:
        """How many places a user has."""
        return self._by_uid[uid]

    def find(self, user: User, waiting: int = 0) -> Place:
        """The place that a new connection would get.

        Args:
            user: who has connected.
            waiting: accepted connections, of any user, that will take their places before it does.

        Raises:
            OverloadedError: there is none.
        """
        operator = self._is_operator(user)
        share = user_share(self._per_uid, self.most, is_operator=operator)
        if share < self.most and self._by_uid[user.uid] >= share:
            full = f"limits.per_uid.connections ({share}) is reached: {user}"
        elif self._taken[Place.ORDINARY] + waiting < self.most or self._make_room():
            return Place.ORDINARY
        else:
            full = f"limits.connections ({self.most}) is reached"
        if operator and self._taken[Place.RESERVED] + waiting < self.reserve:
            return Place.RESERVED
        raise OverloadedError(full)

    def enter(self, user: User, place: Place) -> None:
        """Take a place."""
        self._taken[place] += 1
        if place is Place.ORDINARY:
            self._by_uid[user.uid] += 1

    def leave(self, user: User, place: Place) -> None:
        """Leave it."""
        self._taken[place] -= 1
        if place is Place.ORDINARY:
            self._by_uid[user.uid] -= 1
            if not self._by_uid[user.uid]:
                del self._by_uid[user.uid]
