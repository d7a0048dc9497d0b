"""Which hosts are dead: their counters stood still for the lease, as far as this observer can tell."""

from __future__ import annotations

from callstate_sidecar.hosts.watch import MOST_WATCHED_HOSTS, WATCHED_HOSTS, HostWatch
from callstate_sidecar.stores.hosts import Surroundings

LEASE_S = 30.0


def looks(
    watch: HostWatch,
    counters: list[int],
    *,
    start: float = 0.0,
    every_s: float = 5.0,
    dead: frozenset[str] = frozenset(),
) -> list[bool]:
    """Whether `other` is dead at each of these looks at its counter."""
    return [
        "other" in watch.look(Surroundings({"own": 1, "other": counter}, dead), start + number * every_s)
        for number, counter in enumerate(counters)
    ]


def test_a_counter_that_stands_still_for_the_lease_is_of_a_dead_host() -> None:
    watch = HostWatch("own", LEASE_S)
    assert looks(watch, [7] * 8) == [False] * 6 + [True, True]
    assert watch.is_dead("other")


def test_a_counter_that_moves_is_of_a_live_one_whatever_way_it_moves() -> None:
    watch = HostWatch("own", LEASE_S)
    assert not any(looks(watch, [7, 7, 7, 7, 7, 7, 8, 8, 8, 8, 8, 8, 2, 2, 2, 2, 2, 2]))


def test_a_host_without_a_counter_is_dead_after_the_lease_too() -> None:
    watch = HostWatch("own", LEASE_S)
    assert looks(watch, [0] * 7)[-1]


def test_own_is_never_dead_nor_is_one_that_nobody_watches() -> None:
    watch = HostWatch("own", LEASE_S)
    looks(watch, [7] * 9)
    assert not watch.is_dead("own")
    assert not watch.is_dead("unknown")


def test_an_outage_of_the_observer_restarts_every_watch() -> None:
    watch = HostWatch("own", LEASE_S)
    looks(watch, [7] * 6)
    watch.interrupted()
    assert looks(watch, [7] * 7, start=30.0) == [False] * 6 + [True]


def test_so_does_a_gap_between_two_looks() -> None:
    watch = HostWatch("own", LEASE_S)
    looks(watch, [7] * 6)
    assert looks(watch, [7] * 7, start=300.0) == [False] * 6 + [True]


def test_one_that_comes_back_is_alive() -> None:
    watch = HostWatch("own", LEASE_S)
    assert looks(watch, [7] * 7)[-1]
    assert looks(watch, [8], start=35.0) == [False]


def test_a_host_that_another_found_dead_is_dead_until_it_moves() -> None:
    watch = HostWatch("own", LEASE_S)
    found = frozenset({"far", "other", "own"})
    looks(watch, [7], dead=found)
    assert watch.is_dead("far")
    assert watch.is_dead("other")
    assert watch.knows("far")
    assert not watch.is_dead("own")
    looks(watch, [8], start=5.0, dead=found)
    assert not watch.is_dead("other")
    watch.interrupted()
    assert not watch.is_dead("far")


def test_behind_dead_hosts_others_are_watched() -> None:
    watch = HostWatch("own", LEASE_S)
    ahead = []
    for number in range(1000):
        ahead.append(watch.ahead)
        watch.look(Surroundings({f"h{i}": 7 for i in range(watch.ahead)}, frozenset()), number * 5.0)
    assert ahead[:15] == [WATCHED_HOSTS] * 7 + [2 * WATCHED_HOSTS] * 7 + [3 * WATCHED_HOSTS]
    assert max(ahead) == MOST_WATCHED_HOSTS
