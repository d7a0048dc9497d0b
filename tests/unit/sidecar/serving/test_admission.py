"""Who gets a place: shares of users, the reserve, and newcomers that take the place of an idle connection."""

from __future__ import annotations

import os

import pytest

from callstate_client.engine.user import NOBODY, User
from callstate_client.errors import OverloadedError
from callstate_sidecar.access.policy import Policy
from callstate_sidecar.config.schema import LimitsConfig, UserLimitsConfig
from callstate_sidecar.serving.admission import Admission, Place

ALICE, BOB, ROOT = User(12001, 12001), User(12002, 12002), User(0, 0)
OURS = User(os.geteuid(), 0)


class Places:
    """An admission, and who has a place."""

    def __init__(self, *, fit: int = 10**6, per_uid: int = 0, **limits: int) -> None:
        self.idle = 0
        self.admission = Admission(fit, self.make_room, Policy(own_uid=OURS.uid).is_operator)
        self.limit(per_uid=per_uid, **limits)
        self.taken: list[tuple[User, Place]] = []

    def limit(self, *, per_uid: int = 0, **limits: int) -> None:
        self.admission.limit(LimitsConfig(**limits, per_uid=UserLimitsConfig(connections=per_uid)))

    def make_room(self) -> bool:
        if not self.idle:
            return False
        self.idle -= 1
        self.admission.leave(*self.taken.pop(0))
        return True

    def enter(self, user: User) -> Place | None:
        try:
            place = self.admission.find(user)
        except OverloadedError:
            return None
        self.admission.enter(user, place)
        self.taken.append((user, place))
        return place

    def fill(self, user: User) -> int:
        """Take all ordinary places there are for a user; how many."""
        count = 0
        while self.enter(user) is Place.ORDINARY:
            count += 1
        return count


@pytest.mark.parametrize("user", [ALICE, NOBODY])
def test_one_user_leaves_a_twentieth_to_the_others(user: User) -> None:
    places = Places(connections=1000)
    assert places.fill(user) == 950
    assert places.fill(BOB) == 50
    with pytest.raises(OverloadedError, match=r"limits\.connections \(1000\) is reached"):
        places.admission.find(BOB)


def test_a_few_places_are_for_whoever_comes() -> None:
    assert Places(connections=10).fill(ALICE) == 10


def test_a_user_with_a_configured_number_is_told_who_has_how_many() -> None:
    places = Places(connections=1000, per_uid=5)
    assert places.fill(ALICE) == 5
    with pytest.raises(
        OverloadedError, match=r"limits\.per_uid\.connections \(5\) is reached: uid 12001, gid 12001"
    ):
        places.admission.find(ALICE)
    assert places.fill(BOB) == 5


@pytest.mark.parametrize("user", [ROOT, OURS])
def test_root_and_the_own_user_may_have_all_and_then_the_reserve(user: User) -> None:
    places = Places(connections=1000, reserved_connections=3)
    places.fill(ALICE)
    assert places.fill(user) == 50
    assert [place for _, place in places.taken[-2:]] == [Place.ORDINARY, Place.RESERVED]
    assert [places.enter(user) for _ in range(3)] == [Place.RESERVED, Place.RESERVED, None]
    assert places.enter(BOB) is None


def test_a_configured_number_counts_for_root_too_but_not_for_the_reserve() -> None:
    places = Places(connections=1000, per_uid=5)
    assert places.fill(ROOT) == 5
    assert places.taken[-1] == (ROOT, Place.RESERVED)


@pytest.mark.parametrize(("connections", "reserve"), [(1, 0), (3, 0), (4, 1), (1000, 8)])
def test_the_reserve_is_at_most_a_quarter(connections: int, reserve: int) -> None:
    assert Places(connections=connections).admission.reserve == reserve


def test_a_place_that_is_left_is_free_for_the_same_user_and_for_others() -> None:
    places = Places(connections=100)
    places.fill(ALICE)
    places.admission.leave(*places.taken.pop(0))
    assert places.enter(ALICE) is Place.ORDINARY
    assert places.enter(ALICE) is None


def test_an_idle_connection_makes_room_for_a_newcomer() -> None:
    places = Places(connections=4, reserved_connections=0)
    assert places.fill(ALICE) == 4
    places.idle = 2
    assert [places.enter(BOB) for _ in range(3)] == [Place.ORDINARY, Place.ORDINARY, None]


def test_those_on_their_way_count() -> None:
    places = Places(connections=4)
    assert places.admission.find(ALICE, waiting=3) is Place.ORDINARY
    with pytest.raises(OverloadedError):
        places.admission.find(ALICE, waiting=4)


def test_what_does_not_fit_is_not_promised(caplog: pytest.LogCaptureFixture) -> None:
    places = Places(connections=1000, fit=100)
    assert places.admission.most == 100
    assert "limits.connections is 1000, but the limit on open files allows only 100" in caplog.text
    assert places.fill(ALICE) == 95


def test_a_lower_limit_drops_nobody() -> None:
    places = Places(connections=10)
    places.fill(ALICE)
    places.limit(connections=5)
    assert places.enter(ALICE) is None
    for taken in places.taken[:6]:
        places.admission.leave(*taken)
    assert places.enter(ALICE) is Place.ORDINARY
