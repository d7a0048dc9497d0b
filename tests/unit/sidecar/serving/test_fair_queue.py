"""Whose lines are served next: with time passed in, and a loop that runs its callbacks when told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from callstate_sidecar.serving.fair_queue import HALF_LIFE_S, LEAST_USED_S, TURN_S, FairQueue

REQUEST_S = TURN_S / 6


class Loop:
    """Keeps the callbacks of the next turn."""

    def __init__(self) -> None:
        self.ready: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.ready.append(callback)

    def turn(self) -> None:
        """Run what is ready now."""
        ready, self.ready = self.ready, []
        for callback in ready:
            callback()


class Room:
    """A queue, a clock, and a record of who was served."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.noticed: list[float] = []
        self.queue = FairQueue(cast(asyncio.AbstractEventLoop, self.loop), self.noticed.append)
        self.now = 100.0
        self.served: list[str] = []

    def turn(self) -> list[str]:
        """Who is served in the next turn of the loop."""
        self.served = []
        self.loop.turn()
        return self.served


class Client:
    """A connection with a number of requests, of which it may have two served at a time."""

    def __init__(self, room: Room, name: str, requests: int = 0) -> None:
        self.room = room
        self.name = name
        self.used_s = 0.0
        self.used_at = room.now
        self.requests = requests
        self.queued = False

    def arrive(self, requests: int = 1) -> None:
        """As a connection does it."""
        self.requests += requests
        if not self.queued:
            if self.room.queue.has_time():
                self.serve()
            else:
                self.wait()

    def wait(self) -> None:
        self.queued = True
        self.room.queue.add(self)

    def serve(self) -> None:
        self.queued = False
        began = self.room.now
        for _ in range(min(2, self.requests)):
            self.requests -= 1
            self.room.now += REQUEST_S
            self.room.served.append(self.name)
        self.room.queue.served(self, began, self.room.now)
        if self.requests:
            self.wait()


@pytest.fixture
def room() -> Room:
    return Room()


def test_a_request_is_served_as_it_arrives(room: Room) -> None:
    Client(room, "a").arrive()
    assert room.served == ["a"]
    assert not room.loop.ready, "and nothing is scheduled for it"


def test_a_turn_serves_no_more_than_its_time_allows(room: Room) -> None:
    crowd = [Client(room, f"flood-{number}") for number in range(100)]
    for client in crowd:
        client.arrive(50)
    assert len(room.served) == 6
    for _ in range(100):
        assert len(room.turn()) == 6


def test_a_client_that_sends_little_does_not_wait_for_a_crowd_that_sends_much(room: Room) -> None:
    crowd = [Client(room, f"flood-{number}") for number in range(100)]
    victim = Client(room, "victim")
    for client in crowd:
        client.arrive(1000)
    for _ in range(100):
        room.turn()
    for _ in range(10):
        victim.arrive()
        assert room.turn()[0] == "victim"
        for _ in range(100):
            assert "victim" not in room.turn()


def test_those_that_send_as_much_as_they_can_get_equal_shares(room: Room) -> None:
    crowd = [Client(room, f"flood-{number}") for number in range(10)]
    for client in crowd:
        client.arrive(1000)
    for _ in range(100):
        room.turn()
    left = [client.requests for client in crowd]
    assert max(left) - min(left) <= 4


def test_a_crowd_that_has_just_connected_precedes_a_busy_client_for_some_half_lives_only(room: Room) -> None:
    busy = Client(room, "busy", 2)
    busy.used_s, busy.used_at = HALF_LIFE_S, room.now
    busy.wait()
    began = room.now
    while busy.requests:
        for number in range(3):
            Client(room, f"new-{number}", 2).wait()
        room.turn()
    assert room.now - began > HALF_LIFE_S
    assert 2.0 ** ((room.now - began) / HALF_LIFE_S) < 2 * HALF_LIFE_S / LEAST_USED_S


def test_of_those_that_used_the_same_time_the_one_that_paused_is_first(room: Room) -> None:
    early, late = Client(room, "early"), Client(room, "late")
    early.requests = 2
    early.serve()
    room.now += HALF_LIFE_S
    late.requests = 2
    late.serve()
    late.requests = early.requests = 1
    late.wait()
    early.wait()
    assert room.turn() == ["early", "late"]


def test_time_used_is_forgotten_by_halves(room: Room) -> None:
    client = Client(room, "a", 2)
    client.serve()
    used_s = client.used_s
    room.now += HALF_LIFE_S
    client.requests = 2
    client.serve()
    assert client.used_s == pytest.approx(1.5 * used_s, rel=0.05)
