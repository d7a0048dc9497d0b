"""The delays between attempts: doubled up to a bound, jittered downwards, and reset by a success."""

from __future__ import annotations

import pytest

from callstate_client.transport import backoff as module
from callstate_client.transport.backoff import Backoff, Delays


@pytest.fixture
def _without_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.random, "uniform", lambda _, most: most)


@pytest.mark.usefixtures("_without_jitter")
@pytest.mark.parametrize(("at_once", "first"), [(True, [0.0]), (False, [])])
def test_delays_double_up_to_the_longest(at_once: bool, first: list[float]) -> None:
    backoff = Backoff(Delays(1.0, 5.0, at_once=at_once))
    for _ in range(2):
        expected = [*first, 1.0, 2.0, 4.0, 5.0, 5.0]
        assert [backoff.pause_s() for _ in expected] == expected
        backoff.reset()


def test_jitter_takes_up_to_a_half_away() -> None:
    pauses = [Backoff(Delays(1.0, 1.0)).pause_s() for _ in range(200)]
    assert 0.5 <= min(pauses) < 0.7
    assert 0.8 < max(pauses) <= 1.0


def test_very_many_failures_have_the_longest_delay() -> None:
    assert Delays(1.0, 30.0).after_s(100_000) == 30.0
