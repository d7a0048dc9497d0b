"""Each oracle of a soak can fail: it does when what it watches for is planted, and not otherwise."""

from __future__ import annotations

import pytest

from soak.oracles import (
    Calls,
    Losses,
    Stream,
    Violation,
    check_dead,
    check_model,
    compare_streams,
    is_free,
)
from soak.resources import MIB, Resources, Sample, slope
from soak.stage import check_lines
from support.oracle import SessionModel


class Now:
    """A clock that stands."""

    def __init__(self) -> None:
        self.at_s = 100.0

    def __call__(self) -> float:
        return self.at_s


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def alive() -> set[str]:
    return {"w1", "w2"}


@pytest.fixture
def losses(now: Now) -> Losses:
    return Losses(now)


@pytest.fixture
def calls(alive: set[str], losses: Losses) -> Calls:
    calls = Calls(alive.__contains__, losses)
    calls.held("c1", "w1", 3, [])
    for number in (1, 2, 4):
        calls.said("c1", f"w1:{number}")
    return calls


def loaded(*turns: str, status: str = "active") -> dict[str, object]:
    return {"session": {"status": status, "history": [{"content": turn} for turn in turns]}}


# -- calls of workers -------------------------------------------------------------------------------------------


def test_what_was_acknowledged_is_found_with_what_was_not(calls: Calls) -> None:
    calls.found("c1", loaded("w1:1", "w1:2", "w1:3", "w2:9", "w1:4"))


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        (("w1:1", "w1:4"), "lost acknowledged turns: .*w1:2"),
        (("w1:1", "w1:2", "w1:2", "w1:4"), "turns twice"),
        (("w1:2", "w1:1", "w1:4"), "another order"),
    ],
)
def test_a_lost_or_repeated_or_displaced_turn_is_a_violation(
    calls: Calls, turns: tuple[str, ...], said: str
) -> None:
    with pytest.raises(Violation, match=said):
        calls.found("c1", loaded(*turns))


def test_a_call_taken_over_without_an_acknowledged_turn_is_a_violation(calls: Calls) -> None:
    with pytest.raises(Violation, match="lost"):
        calls.held("c1", "w2", 4, ["w1:1", "w1:2"])


def test_a_lost_call_is_a_violation(calls: Calls) -> None:
    with pytest.raises(Violation, match="c1 is lost, and 3 turns"):
        calls.found("c1", None)


def test_only_the_stores_loss_of_what_has_ended_excuses_a_lost_call(calls: Calls, losses: Losses, now: Now) -> None:
    losses.happened()
    with pytest.raises(Violation, match="is lost"):
        calls.found("c1", None)  # its worker lives, so it was hot
    calls.left("c1", "w1", ended=True)
    now.at_s += 1
    losses.happened()
    calls.found("c1", None)


def test_an_end_that_was_acknowledged_and_undone_is_a_violation(calls: Calls) -> None:
    calls.left("c1", "w1", ended=True)
    calls.found("c1", loaded("w1:1", "w1:2", "w1:4", status="ended"))
    with pytest.raises(Violation, match="acknowledged as ended, and is active"):
        calls.found("c1", loaded("w1:1", "w1:2", "w1:4"))


def test_reaping_a_call_of_a_worker_that_lives_is_a_violation(calls: Calls, alive: set[str]) -> None:
    calls.expired({"session_id": "c1", "epoch": 2})  # of an earlier owner
    with pytest.raises(Violation, match="w1, which lives, was reaped"):
        calls.expired({"session_id": "c1", "epoch": 3})
    alive.remove("w1")
    calls.expired({"session_id": "c1", "epoch": 3})


def test_a_dead_workers_call_that_nobody_may_take_is_a_violation() -> None:
    active = {"session": {"status": "active"}, "owner": "w1"}
    assert not is_free(active, "w1")
    assert is_free(active | {"owner": "w2"}, "w1")
    assert is_free({"session": {"status": "ended"}, "owner": "w1"}, "w1")
    assert is_free(active | {"state": "suspect"}, "w1")
    assert is_free({"session": {"status": "active"}}, "w1")
    check_dead("w1", [], 90.0)
    with pytest.raises(Violation, match="after w1 died nobody may take"):
        check_dead("w1", ["c1"], 90.0)


# -- plain clients ----------------------------------------------------------------------------------------------


def test_a_session_in_no_state_that_its_requests_lead_to_is_a_violation() -> None:
    known = SessionModel(exists=True, turns=["t1"])
    doubtful = SessionModel(exists=True, turns=["t1", "t2"])
    assert check_model("p1", doubtful, [known, doubtful]) is doubtful
    with pytest.raises(Violation, match="p1 is"):
        check_model("p1", SessionModel(exists=True, turns=["t2"]), [known, doubtful])
    with pytest.raises(Violation, match="p1 is"):
        check_model("p1", SessionModel(), [known])


# -- events -----------------------------------------------------------------------------------------------------


def stream(*seqs: int, began: int = 0) -> Stream:
    made = Stream(began)
    for seq in seqs:
        made.received({"type": "created", "seq": seq, "session_id": f"c{seq}"})
    return made


def test_a_gap_that_was_not_announced_is_a_violation() -> None:
    compare_streams(stream(1, 2, 3), stream(2, 3, began=1))
    with pytest.raises(Violation, match="missed 1 events, and no gap"):
        compare_streams(stream(1, 2, 3), stream(1, 3))
    with pytest.raises(Violation, match="missed 1 events, and no gap"):
        compare_streams(stream(1, 3), stream(1, 2, 3))


def test_a_gap_that_was_announced_is_none() -> None:
    told = stream(1)
    told.received({"type": "gap", "seq": 3})
    told.received({"type": "created", "seq": 3, "session_id": "c3"})
    compare_streams(stream(1, 2, 3), told)


def test_an_event_that_comes_twice_or_late_is_a_violation() -> None:
    for seq in (2, 1):
        with pytest.raises(Violation, match="late, or twice"):
            stream(1, 2, seq)


def test_different_events_of_one_number_are_a_violation() -> None:
    other = stream(1)
    other.received({"type": "ended", "seq": 2, "session_id": "c2"})
    with pytest.raises(Violation, match="different events"):
        compare_streams(stream(1, 2), other)


# -- resources --------------------------------------------------------------------------------------------------


def sample(
    at_s: float, pid: int = 1, rss: float = 80 * MIB, fds: float = 20, disk: float = 40 * MIB,
    hot: float | None = 0.0,
) -> Sample:  # fmt: skip
    return Sample(at_s, pid, rss, fds, disk, hot)


def rising(**steps: float) -> Resources:
    """Half an hour, in which figures rise by so much a second."""
    resources = Resources(sample(0.0))
    for second in range(0, 1800, 5):
        resources.add(sample(second, **{name: 20 + each * second for name, each in steps.items()}))
    return resources


def test_what_goes_up_and_down_is_flat() -> None:
    resources = Resources(sample(0.0))
    for second in range(1800):
        resources.add(sample(second, rss=(80 + second % 60) * MIB, fds=20 + second % 50))
    resources.check_flat()


def test_memory_of_sessions_that_are_kept_for_a_while_is_no_rise() -> None:
    resources = Resources(sample(0.0))
    for second in range(100):
        held = second * MIB if second < 60 else 0.0
        resources.add(sample(second, rss=80 * MIB + min(second, 59) * MIB, hot=held))
    resources.check_flat()


def test_samples_without_an_answer_count_for_the_peak_alone() -> None:
    resources = Resources(sample(0.0))
    for second in range(1800):
        resources.add(sample(second, rss=(80 + second % 300) * MIB, hot=None))
    assert resources.samples == []
    with pytest.raises(Violation, match="rss has reached"):
        resources.add(sample(1.0, rss=1024 * MIB, hot=None))


@pytest.mark.parametrize(("name", "step"), [("rss", 0.05 * MIB), ("fds", 0.02), ("disk", 0.05 * MIB)])
def test_a_figure_that_rises_all_the_time_is_a_violation(name: str, step: float) -> None:
    with pytest.raises(Violation, match=f"{name} has risen by"):
        rising(**{name: step}).check_flat()


def test_a_rise_over_restarts_is_seen_as_one() -> None:
    """Each process by itself: the fall at a restart doesn't hide the rise between."""
    lives = [[(life * 100.0 + at, float(at)) for at in range(100)] for life in range(5)]
    assert slope(lives) == pytest.approx(1.0)
    assert slope([[each for life in lives for each in life]]) < 0.2


@pytest.mark.parametrize(("name", "value"), [("rss", 200 * MIB), ("fds", 40.0), ("disk", 200 * MIB)])
def test_a_figure_that_does_not_come_back_is_a_violation(name: str, value: float) -> None:
    resources = Resources(sample(0.0))
    resources.check_rest(sample(10.0))
    with pytest.raises(Violation, match=f"{name} is .* above its start"):
        resources.check_rest(sample(10.0, **{name: value}))


def test_a_short_life_says_nothing_about_what_rises() -> None:
    resources = Resources(sample(0.0))
    for second in range(30):
        resources.add(sample(second, rss=second * 10 * MIB))
    resources.check_flat()


def test_a_peak_beyond_all_bounds_is_a_violation() -> None:
    with pytest.raises(Violation, match="rss has reached"):
        Resources(sample(0.0)).add(sample(1.0, rss=1024 * MIB), calm=False)


# -- the log ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "ERROR something that no fault explains",
        "Traceback (most recent call last):",
        "ERROR asyncio Task exception was never retrieved: Redis",
    ],
)
def test_an_error_that_no_fault_explains_is_a_violation(line: str) -> None:
    check_lines(["ERROR the store is down: Connection refused"])
    with pytest.raises(Violation, match="has logged"):
        check_lines([line])
