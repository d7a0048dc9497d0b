"""Whose lines are served next: with time passed in, and a loop that runs its callbacks when told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from math import ceil
from typing import cast

import pytest

from callstate_client.engine.user import User
from callstate_sidecar.serving.fair_queue import EACH_S, TURN_S, FairQueue
from support.core import Core, FakeClient

REQUEST_S = TURN_S / 6
US, THEM = 1000, 2000
"""Users."""


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
    """A queue, a clock, and a record of who was served, and for how long."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.noticed: list[float] = []
        self.ends: list[int] = []
        """How many requests of the turn had been served whenever replies left in it."""
        self.queue = FairQueue(cast(asyncio.AbstractEventLoop, self.loop), self.noticed.append, self.end_group)
        self.served: list[str] = []
        self.spent_s: dict[str, float] = {}

    def end_group(self) -> None:
        self.ends.append(len(self.served))

    def turn(self) -> list[str]:
        """Who is served in the next turn of the loop."""
        self.served = []
        self.ends = []
        self.loop.turn()
        return self.served


class Client:
    """A connection with a number of requests, of which it may have two served at a time.

    Args:
        room: where it waits.
        name: in what was served.
        uid: its user.
        pid: its process.
        request_s: how long a request takes.
    """

    def __init__(self, room: Room, name: str, uid: int = US, pid: int = 1, request_s: float = REQUEST_S) -> None:
        self.room = room
        self.name = name
        self.member = room.queue.member(uid, pid)
        self.request_s = request_s
        self.requests = 0
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
        for _ in range(min(2, self.requests)):
            self.requests -= 1
            self.room.served.append(self.name)
            self.room.spent_s[self.name] = self.room.spent_s.get(self.name, 0.0) + self.request_s
            self.room.queue.served(self.request_s)
        if self.requests:
            self.wait()


@pytest.fixture
def room() -> Room:
    return Room()


def crowd(room: Room, count: int, uid: int = THEM, *, processes: int = 1) -> list[Client]:
    """Clients that always have requests, and a turn in which nobody else is served."""
    clients = [Client(room, "crowd", uid, 10 + number % processes) for number in range(count)]
    for client in clients:
        client.arrive(100_000)
    return clients


# -- turns ---------------------------------------------------------------------------------------------------------


def test_a_request_is_served_as_it_arrives(room: Room) -> None:
    Client(room, "a").arrive()
    assert room.served == ["a"]
    assert not room.loop.ready, "and nothing is scheduled for it"


def test_a_turn_serves_no_more_than_its_time_allows(room: Room) -> None:
    crowd(room, 100)
    assert len(room.served) == 6
    for _ in range(100):
        assert len(room.turn()) == 6


def test_each_connection_counts_for_more_than_its_request(room: Room) -> None:
    """Else a turn would serve a hundred of them with a cheap request each, and take thrice its time."""
    clients = [Client(room, "one", request_s=0.0) for _ in range(1000)]
    for client in clients:
        client.arrive()
    assert len(room.turn()) == ceil(TURN_S / EACH_S)


def test_a_connection_is_served_once_a_turn_and_its_replies_leave_between(room: Room) -> None:
    Client(room, "a").arrive(6)
    assert room.served == ["a", "a"]
    assert room.turn() == ["a", "a"]
    assert not room.ends, "there is time left for what arrives in this turn"


def test_replies_leave_at_once_when_the_time_is_used_up(room: Room) -> None:
    crowd(room, 10)
    room.turn()
    assert room.ends == [6]


@pytest.mark.parametrize("uid", [US, THEM], ids=["of the same user", "of another user"])
@pytest.mark.parametrize("connections", [10, 1000])
def test_the_reply_of_who_sends_little_leaves_before_the_turn_is_used_up(
    room: Room, uid: int, connections: int
) -> None:
    victim = Client(room, "victim")
    crowd(room, connections, uid)
    room.turn()
    for _ in range(10):
        victim.arrive()
        assert room.turn()[0] == "victim"
        assert room.ends == [1, len(room.served)]


def test_replies_leave_early_once_a_turn(room: Room) -> None:
    """However many send little: each time costs a write to the journal."""
    crowd(room, 10, THEM)
    victims = [Client(room, "victim", uid) for uid in range(2)]
    room.turn()
    for _ in range(10):
        for victim in victims:
            victim.arrive()
        assert room.turn()[:2] == ["victim"] * 2
        assert room.ends == [2, len(room.served)]


def test_replies_leave_early_once_a_turn_whoever_is_next(room: Room) -> None:
    """Those that send little come before and after the ones that waited."""
    crowds = [crowd(room, 10, uid) for uid in range(4)]
    clients = [Client(room, "once", uid, 5) for uid in range(4)]
    for _ in range(20):
        for client in clients:
            client.arrive()
        room.turn()
        assert len(room.ends) <= 2
    assert all(crowds)


def test_replies_do_not_leave_early_for_those_who_always_send(room: Room) -> None:
    crowd(room, 10, THEM)
    late = Client(room, "late")
    late.arrive(1000)
    assert "late" in room.turn()
    assert room.ends == [6]


def test_what_takes_no_time_has_its_place_too(room: Room) -> None:
    """As connections that were closed meanwhile, or whose clients have to read first."""
    clients = [Client(room, f"{uid}-{pid}", uid, pid, 0.0) for uid in (US, THEM) for pid in range(4)]
    for client in clients:
        client.requests = 3
        client.wait()
    assert len(room.turn()) == 16
    assert len(room.turn()) == 8
    assert not room.loop.ready


def test_what_raises_loses_its_turn_and_nobody_elses(room: Room) -> None:
    class Faulty(Client):
        def serve(self) -> None:
            raise ValueError

    others = crowd(room, 3)
    Faulty(room, "faulty", THEM, 10).wait()
    with pytest.raises(ValueError):  # noqa: PT011
        for _ in range(3):
            room.turn()
    before = [client.requests for client in others]
    for _ in range(10):
        room.turn()
    assert all(client.requests < then for client, then in zip(others, before, strict=True))


# -- shares --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uid", "processes"),
    [(THEM, 1), (THEM, 50), (US, 1), (US, 50)],
    ids=["another user", "many processes of another user", "another process", "many other processes"],
)
@pytest.mark.parametrize("known", [True, False], ids=["known before", "a newcomer"])
def test_a_client_that_sends_little_waits_for_the_turn_under_way_only(
    room: Room, uid: int, processes: int, known: bool
) -> None:
    """However many connections the crowd has. A newcomer waits for a share of each of the others."""
    victim = Client(room, "victim")
    crowd(room, 1000, uid, processes=processes)
    for _ in range(100):
        room.turn()
    if not known:
        victim = Client(room, "victim", pid=2)
        victim.arrive()
        turns = 0
        while "victim" not in room.turn():
            turns += 1
        assert turns <= (processes if uid == US else 1) + 1
    for _ in range(10):
        for _ in range(20):
            room.turn()
        victim.arrive()
        assert room.turn()[0] == "victim"


def test_a_client_with_less_than_its_share_waits_for_the_turn_under_way_only(room: Room) -> None:
    """Two users have half of the time each: one that uses 40 % is as prompt as one that uses none."""
    victim = Client(room, "victim", US)
    crowd(room, 900)
    for _ in range(20):
        room.turn()
    for _ in range(200):
        victim.arrive(2)
        assert room.turn()[:2] == ["victim", "victim"]


@pytest.mark.parametrize("uid", [THEM, US], ids=["another user", "the same user"])
def test_a_crowd_of_new_processes_does_not_precede_who_was_there(room: Room, uid: int) -> None:
    """As worker after worker registers."""
    victim = Client(room, "victim", US)
    crowd(room, 10, US)
    for number in range(100):
        victim.arrive(number % 10 == 0)
        room.turn()
    for pid in range(20, 320):
        Client(room, "new", uid, pid).arrive(2)
    victim.arrive()
    assert "victim" in room.turn()[:3], "a share of another user precedes, nobody of the same"


def test_users_then_processes_then_connections_get_equal_shares(room: Room) -> None:
    clients = [
        *(Client(room, "many", THEM, 10) for _ in range(8)),
        *(Client(room, "few", THEM, 11) for _ in range(2)),
        Client(room, "one", US, 1),
    ]
    for client in clients:
        client.arrive(100_000)
    for _ in range(4000):
        room.turn()
    whole = sum(room.spent_s.values())
    shares = {name: spent_s / whole for name, spent_s in room.spent_s.items()}
    assert shares == pytest.approx({"one": 0.5, "many": 0.25, "few": 0.25}, abs=0.02)


def test_those_of_one_process_get_equal_shares(room: Room) -> None:
    clients = crowd(room, 10)
    for _ in range(100):
        room.turn()
    left = [client.requests for client in clients]
    assert max(left) - min(left) <= 4


def test_time_that_nobody_waited_for_does_not_count(room: Room) -> None:
    """A user that had the daemon for itself for an hour has the same share as one that comes now."""
    mine = Client(room, "mine", US)
    mine.arrive(60_000)
    while mine.requests:
        room.turn()
    theirs = Client(room, "theirs", THEM)
    room.spent_s.clear()
    mine.arrive(1000)
    theirs.arrive(1000)
    for _ in range(100):
        room.turn()
    assert room.spent_s["mine"] == pytest.approx(room.spent_s["theirs"], rel=0.1)


def test_at_most_a_turn_of_others_precedes_a_light_client_whatever_they_do(room: Room) -> None:
    """Random users, processes, connections that come and go, costs of requests up to a whole turn."""
    chance = random.Random(1)
    victim = Client(room, "victim", US)
    victim.arrive()
    others = crowd(room, 5)
    users = range(THEM, THEM + 3)
    for number in range(3000):
        if chance.random() < 0.2:
            others.append(
                Client(room, "crowd", chance.choice(users), chance.randrange(20), TURN_S * chance.random())
            )
        for client in chance.sample(others, 3):
            client.arrive(chance.randrange(1, 20))
        if number % 10 == 9:
            victim.arrive()
            served = room.turn()
            assert "victim" in served, "one turn"
            before = served[: served.index("victim")]
            assert len(before) <= 2 * len(users), "only those that began to wait at the same time: a share each"
        else:
            room.turn()


# -- users and processes as the kernel names them ------------------------------------------------------------------


async def test_each_connection_counts_for_its_user_and_process() -> None:
    core = Core()
    one, same, other = (FakeClient(core, user=User(uid, uid)) for uid in (US, US, THEM))
    groups = [client.connection.member.process for client in (one, same, other)]
    assert groups[0] is groups[1]
    assert groups[0] is not groups[2]
