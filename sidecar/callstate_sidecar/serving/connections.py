"""The connections of one server: each gets a place or is refused, and those that stay idle lose theirs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Final

from callstate_client.engine.events import Events
from callstate_client.engine.request import NULL_ID, error_line
from callstate_client.engine.user import User
from callstate_client.errors import OverloadedError, ShuttingDownError, WireError
from callstate_sidecar.access.control import AccessControl
from callstate_sidecar.access.policy import Policy
from callstate_sidecar.config.schema import LimitsConfig
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.serving.admission import Admission, Place
from callstate_sidecar.serving.connection import ClientConnection
from callstate_sidecar.serving.idle import IdleConnections

log = EventLog(__name__)

TOLD_EVERY_S: Final = 60.0
"""A refused connection is logged at most so often, seconds: there may be thousands a second."""


class Connections:
    """Those that are open.

    Args:
        events: has the subscribers, which are never idle.
        metrics: counts connections.
        fit: how many the limit on open files has room for.
        now: the time, monotonic seconds.
    """

    def __init__(self, events: Events, metrics: Metrics, fit: int, now: Callable[[], float] = monotonic) -> None:
        self.open: set[ClientConnection] = set()
        """The connections that are served."""
        self.stopping = False
        self._metrics = metrics
        self._now = now
        self.access = AccessControl(Policy(own_uid=os.geteuid()), now)
        """Who may connect, and who is an operator."""
        self._admission = Admission(fit, self._make_room, self._is_operator)
        self._idle: IdleConnections[ClientConnection] = IdleConnections(now, events.is_subscribed)
        self._told_at = -TOLD_EVERY_S

    @property
    def most(self) -> int:
        """`limits.connections`, lowered to what the limit on open files has room for."""
        return self._admission.most

    def limit(self, limits: LimitsConfig) -> None:
        """Apply limits, at the start and with each reload."""
        self._admission.limit(limits)
        self._idle.limit(limits.first_line_s, limits.idle_timeout_s)

    # -- coming and going -------------------------------------------------------------------------------------

    def enter(self, connection: ClientConnection) -> bool:
        """Give a new connection its place; if there is none, tell it so, close it, and return False."""
        try:
            place = connection.place = self._find_place(connection.user)
        except WireError as error:
            self._turn_away(connection, error)
            return False
        self._admission.enter(connection.user, place)
        self._idle.connected(connection, reserved=place is Place.RESERVED)
        self._metrics.count("connections_total")
        self.open.add(connection)
        return True

    def turn_away(self) -> None:
        """Close the connections of users that may not connect any more."""
        for connection in [*self.open]:
            refusal = self.access.refusal_to_connect(connection.user)
            if refusal is not None:
                self._turn_away(connection, refusal)

    def _turn_away(self, connection: ClientConnection, error: WireError) -> None:
        connection.send(self.refused(error))
        connection.close()

    def leave(self, connection: ClientConnection) -> None:
        """It is closed."""
        self.open.discard(connection)
        self._give_up_place(connection)

    def refusal(self, user: User, waiting: int) -> WireError | None:
        """Why there is no place for a new client, if so; see `Admission.find`."""
        try:
            self._find_place(user, waiting)
        except WireError as error:
            return error
        return None

    def _find_place(self, user: User, waiting: int = 0) -> Place:
        if self.stopping:
            raise ShuttingDownError("the daemon is stopping")
        forbidden = self.access.refusal_to_connect(user)
        if forbidden is not None:
            raise forbidden
        return self._admission.find(user, waiting)

    def _is_operator(self, user: User) -> bool:
        return self.access.is_operator(user)

    def refused(self, error: WireError) -> bytes:
        """Count a client that is refused, and return the line that says why."""
        self._metrics.count("connections_refused")
        now = self._now()
        if now - self._told_at >= TOLD_EVERY_S:
            self._told_at = now
            log.warning("connections_refused", "connections are refused: %s", error)
        return error_line(NULL_ID, error)

    def _give_up_place(self, connection: ClientConnection) -> None:
        place, connection.place = connection.place, None
        if place is not None:
            self._admission.leave(connection.user, place)
            self._idle.disconnected(connection)

    # -- idleness ---------------------------------------------------------------------------------------------

    def close_idle(self) -> None:
        """Close the connections that have said nothing for too long."""
        closed: Counter[str] = Counter()
        for connection, limit in self._idle.look():
            closed[limit] += 1
            if not connection.served_at:  # else it may be sending a request, and would take this for the reply
                connection.send(error_line(NULL_ID, OverloadedError(f"no request came in time ({limit})")))
            self._give_up_place(connection)
            connection.close()
        for limit, count in closed.items():
            self._metrics.count("connections_timed_out", count)
            log.info("connections_timed_out", "%d connections without requests were closed: %s", count, limit)

    def _make_room(self) -> bool:
        idler = self._idle.take_longest_idle()
        if idler is None:
            return False
        self._metrics.count("connections_timed_out")
        self._give_up_place(idler)
        idler.abort()
        return True
