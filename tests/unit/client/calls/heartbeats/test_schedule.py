"""When heartbeats are due: times are the test's."""

from __future__ import annotations

import gc

import pytest

from callstate_client.calls.heartbeats.schedule import Schedule
from callstate_client.errors import CallstateError, SessionNotFoundError

TIMEOUT_S = 24.0
INTERVAL_S = TIMEOUT_S / 3
ERROR = SessionNotFoundError("no session c1")


class Holder:
    """Has a call, and is told when it is lost."""

    def __init__(self) -> None:
        self.told: list[CallstateError] = []

    def lost(self, error: CallstateError) -> None:
        self.told.append(error)


@pytest.fixture
def holder() -> Holder:
    return Holder()


@pytest.fixture
def schedule(holder: Holder) -> Schedule:
    schedule = Schedule()
    schedule.add("c1", TIMEOUT_S, 100.0, holder.lost)
    return schedule


def test_a_heartbeat_is_due_once_in_a_third_of_the_timeout(schedule: Schedule) -> None:
    for at in (100.0, 100.0 + INTERVAL_S):
        assert schedule.next_due == at + INTERVAL_S
        assert schedule.take_due(at) == {}
        assert [*schedule.take_due(at + INTERVAL_S)] == ["c1"]


def test_beats_due_soon_leave_in_the_same_batch(schedule: Schedule, holder: Holder) -> None:
    schedule.add("soon", TIMEOUT_S, 100.0 + INTERVAL_S / 8, holder.lost)
    schedule.add("later", TIMEOUT_S, 100.0 + INTERVAL_S / 7, holder.lost)
    assert [*schedule.take_due(100.0 + INTERVAL_S)] == ["c1", "soon"]


def test_without_a_call_nothing_is_due() -> None:
    assert Schedule().next_due is None


@pytest.mark.parametrize(("pause_s", "after_s"), [(1.0, 1.0), (60.0, INTERVAL_S)])
def test_one_that_was_not_sent_is_repeated_within_the_interval(
    schedule: Schedule, pause_s: float, after_s: float
) -> None:
    schedule.take_due(108.0)["c1"].retry(pause_s, 109.0)
    assert schedule.next_due == 109.0 + after_s


@pytest.mark.parametrize(("timeout_s", "due"), [(3.0, 109.0), (300.0, 108.0 + INTERVAL_S)])
def test_another_timeout_counts_from_now_on_and_never_delays_the_next(
    schedule: Schedule, timeout_s: float, due: float
) -> None:
    call = schedule.take_due(108.0)["c1"]
    call.retime(timeout_s, 108.0)
    assert schedule.next_due == due
    schedule.take_due(due)
    assert schedule.next_due == due + timeout_s / 3


def test_the_loss_of_a_call_is_reported_to_its_holder(schedule: Schedule, holder: Holder) -> None:
    call = schedule.take_due(108.0)["c1"]
    assert schedule.drop("c1", call)
    call.lose(ERROR)
    assert holder.told == [ERROR]
    assert len(schedule) == 0
    assert not schedule.drop("c1", call)


def test_a_call_that_is_held_again_is_neither_dropped_nor_discarded(schedule: Schedule, holder: Holder) -> None:
    before = schedule.take_due(108.0)["c1"]
    schedule.add("c1", TIMEOUT_S, 108.0, Holder().lost)
    assert not schedule.drop("c1", before)
    schedule.discard("c1", holder.lost)
    assert len(schedule) == 1


def test_a_holder_is_not_kept_alive_and_its_call_gets_no_heartbeats(schedule: Schedule) -> None:
    holder = Holder()
    for session_id in ("c2", "c3"):
        schedule.add(session_id, TIMEOUT_S, 100.0, holder.lost)
    call = schedule.take_due(108.0)["c2"]
    del holder
    gc.collect()
    call.lose(ERROR)
    schedule.discard("c2", None)
    assert len(schedule) == 2
    assert [*schedule.take_due(200.0)] == ["c1"]
    assert len(schedule) == 1
