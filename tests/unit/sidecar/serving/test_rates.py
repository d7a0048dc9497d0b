"""Requests a second of one user, in passed-in time."""

from __future__ import annotations

import pytest

from callstate_sidecar.serving.rates import MOST_BUCKETS, RequestRates


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def test_as_many_as_in_a_second_at_once_and_then_one_at_a_time() -> None:
    clock = Clock()
    rates = RequestRates(10, clock)
    assert [rates.take(1) for _ in range(11)] == [True] * 10 + [False]
    wait_s = rates.begin_wait(1)
    assert wait_s == pytest.approx(0.1)
    clock.now += wait_s + 1e-6
    rates.end_wait(1)
    assert [rates.take(1), rates.take(1)] == [True, False]
    clock.now += 100
    assert [rates.take(1) for _ in range(11)] == [True] * 10 + [False]


def test_users_have_tokens_of_their_own() -> None:
    rates = RequestRates(1, Clock())
    assert [rates.take(uid) for uid in (1, 1, 2, 2)] == [True, False, True, False]


def test_each_that_waits_does_so_for_a_token_of_its_own() -> None:
    clock = Clock()
    rates = RequestRates(10, clock)
    while rates.take(1):
        pass
    assert [rates.begin_wait(1) for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    assert rates.begin_wait(2) == 0
    clock.now += 0.1 + 1e-6
    rates.end_wait(1)
    assert rates.take(1)
    assert rates.begin_wait(1) == pytest.approx(0.3, abs=1e-3)
    for _ in range(3):
        rates.end_wait(1)
    assert rates.begin_wait(1) == pytest.approx(0.1, abs=1e-3)


def test_users_that_are_gone_are_forgotten() -> None:
    clock = Clock()
    rates = RequestRates(5, clock)
    for uid in range(10 * MOST_BUCKETS):
        clock.now += 0.01
        assert rates.take(uid)
    assert len(rates._buckets) <= MOST_BUCKETS
