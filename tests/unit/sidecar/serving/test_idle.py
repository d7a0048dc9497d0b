"""Which connections are closed because nothing is asked on them, in passed-in time."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from callstate_sidecar.serving.idle import (
    LATE_S,
    LOOK_EVERY_S,
    MAKE_ROOM_S,
    RESERVE_FIRST_LINE_S,
    RESERVE_IDLE_S,
    IdleConnections,
    Idler,
)

FIRST_LINE_S, IDLE_S = 60.0, 3600.0


@dataclass(eq=False)
class Connection:
    connected_at: float = 0.0
    served_at: float = 0.0
    stays: bool = False
    in_use: bool = False


class Watched:
    """Connections, and a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.subscribers: set[Idler] = set()
        self.idle: IdleConnections[Connection] = IdleConnections(
            lambda: self.now, lambda idler: idler in self.subscribers
        )
        self.idle.limit(FIRST_LINE_S, IDLE_S)

    def connect(self, *, reserved: bool = False) -> Connection:
        connection = Connection()
        self.idle.connected(connection, reserved=reserved)
        return connection

    def ask(self, connection: Connection) -> None:
        connection.served_at = self.now

    def after(self, seconds: float) -> list[tuple[Connection, str]]:
        """What is closed in this time, by looks as in the daemon: the last ones on time."""
        self.now += seconds
        self.idle._looked_at = self.now - LOOK_EVERY_S
        closed = list(self.idle.look())
        for connection, _ in closed:
            self.idle.disconnected(connection)
        return closed


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_connection_without_a_first_line_is_closed(watched: Watched) -> None:
    silent, asks = watched.connect(), watched.connect()
    watched.ask(asks)
    assert watched.after(FIRST_LINE_S - 0.1) == []
    assert watched.after(0.2) == [(silent, "limits.first_line_s")]


def test_a_first_line_that_the_daemon_has_not_served_yet_is_in_time(watched: Watched) -> None:
    waits = watched.connect()
    waits.in_use = True
    assert watched.after(FIRST_LINE_S + 1) == []
    waits.in_use = False
    assert watched.after(FIRST_LINE_S + 1) == [(waits, "limits.first_line_s")]


def test_an_idle_connection_is_closed_when_it_has_been_silent_for_so_long(watched: Watched) -> None:
    connection = watched.connect()
    watched.ask(connection)
    assert watched.after(IDLE_S - 1) == []
    watched.ask(connection)
    assert watched.after(IDLE_S - 1) == []
    assert watched.after(2) == [(connection, "limits.idle_timeout_s")]


def test_workers_subscribers_and_those_that_wait_are_not_idle(watched: Watched) -> None:
    worker, subscriber, waiting = (watched.connect() for _ in range(3))
    for connection in (worker, subscriber, waiting):
        watched.ask(connection)
    worker.stays = waiting.in_use = True
    watched.subscribers.add(subscriber)
    assert watched.after(2 * IDLE_S) == []
    waiting.in_use = False
    assert watched.after(IDLE_S + 1) == [(waiting, "limits.idle_timeout_s")]


def test_zero_turns_the_limits_off(watched: Watched) -> None:
    watched.idle.limit(0, 0)
    watched.connect()
    assert watched.after(10 * IDLE_S) == []


def test_a_connection_that_is_gone_is_not_closed_again(watched: Watched) -> None:
    watched.idle.disconnected(watched.connect())
    assert watched.after(2 * IDLE_S) == []


def test_the_reserve_is_for_those_that_ask_at_once(watched: Watched) -> None:
    silent, asks = watched.connect(reserved=True), watched.connect(reserved=True)
    watched.now += 0.1
    watched.ask(asks)
    assert watched.after(RESERVE_FIRST_LINE_S) == [(silent, "limits.connections")]
    assert watched.after(RESERVE_IDLE_S) == [(asks, "limits.connections")]


def test_a_newcomer_takes_the_place_of_the_longest_idle(watched: Watched) -> None:
    first, second, worker, third = (watched.connect() for _ in range(4))
    worker.stays = True
    for connection in (worker, second, first, third):
        watched.now += 1
        watched.ask(connection)
    assert watched.idle.take_longest_idle() is None
    watched.now += MAKE_ROOM_S - 2
    assert watched.idle.take_longest_idle() is second
    assert watched.idle.take_longest_idle() is None, "the next one has been idle for a second less"
    watched.now += 1
    assert watched.idle.take_longest_idle() is first


def test_nobody_is_closed_for_a_time_in_which_the_daemon_stood_still(watched: Watched) -> None:
    connection = watched.connect()
    watched.now += FIRST_LINE_S + LATE_S + 1
    assert list(watched.idle.look()) == [], "its first line may be there, unread"
    watched.ask(connection)
    assert watched.after(LOOK_EVERY_S) == []


def test_connections_that_come_and_go_leave_nothing_behind(watched: Watched) -> None:
    stays = watched.connect()
    for _ in range(10_000):
        watched.idle.disconnected(watched.connect())
    assert len(watched.idle._new) + len(watched.idle._served) < 300
    assert watched.after(FIRST_LINE_S) == [(stays, "limits.first_line_s")]
