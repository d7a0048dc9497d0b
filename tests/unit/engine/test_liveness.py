"""Deadlines: the table of transitions, and what a look at them costs."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest

from callstate_client.engine.liveness import LATER_LOOKED_AT
from callstate_client.engine.phases import TRANSITIONS, Evidence, Phase
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.span_classes import EXACT_SPANS, SPAN_CLASSES
from support.named_liveness import NamedLiveness

TIMEOUT_S, GRACE_S, RETENTION_S = 30.0, 10.0, 300.0


def fresh() -> NamedLiveness:
    return NamedLiveness(TIMEOUT_S, GRACE_S, RETENTION_S)


def in_phase(phase: Phase, now: float = 0.0) -> NamedLiveness:
    liveness = fresh()
    liveness.watch("a", now)
    if phase is Phase.SUSPECT:
        liveness.learn("a", Evidence.SILENCE, now)
    elif phase is Phase.ENDED:
        liveness.learn("a", Evidence.END, now)
    assert liveness.phase("a") is phase
    return liveness


def due(liveness: NamedLiveness, now: float) -> list[Any]:
    """All that is due, each being acted on as the table says."""
    found = []
    for session_id, phase, evidence in liveness.due(now):
        found.append((session_id, phase, evidence))
        liveness.learn(session_id, evidence, now)
    return found


# Ended sessions have no limit, nobody looks for their owner, and only an ended one can be revived. When a suspect's
# owner exits as well, it is one already.
IMPOSSIBLE = {
    (Phase.ENDED, Evidence.OVERTIME),
    (Phase.ENDED, Evidence.EXIT),
    (Phase.ENDED, Evidence.OWNER),
    (Phase.SUSPECT, Evidence.EXIT),
    (Phase.LIVE, Evidence.REVIVAL),
    (Phase.SUSPECT, Evidence.REVIVAL),
}


def test_the_table_says_what_follows_from_everything_that_can_be() -> None:
    every = {(phase, evidence) for phase in Phase for evidence in Evidence}
    assert TRANSITIONS.keys() == every - IMPOSSIBLE


@pytest.mark.parametrize(("case", "after"), TRANSITIONS.items(), ids=str)
def test_each_transition_is_made(case: tuple[Phase, Evidence], after: Phase | None) -> None:
    phase, evidence = case
    liveness = in_phase(phase)
    assert liveness.learn("a", evidence, 5.0) is after
    assert liveness.phase("a") is after
    assert len(liveness) == (0 if after is None else 1)


@pytest.mark.parametrize(
    ("phase", "span_s"), [(Phase.LIVE, TIMEOUT_S), (Phase.SUSPECT, GRACE_S), (Phase.ENDED, RETENTION_S)]
)
def test_each_phase_lasts_its_span(phase: Phase, span_s: float) -> None:
    liveness = in_phase(phase, 100.0)
    assert not due(liveness, 100.0 + span_s - 0.001)
    assert due(liveness, 100.0 + span_s)[0] == ("a", phase, Evidence.SILENCE)


def test_a_beat_gives_a_full_span() -> None:
    liveness = in_phase(Phase.LIVE)
    assert liveness.beat("a", 29.0) is Phase.LIVE
    assert not due(liveness, 58.9)
    assert due(liveness, 59.0) == [("a", Phase.LIVE, Evidence.SILENCE)]


def test_heartbeats_during_a_stall_count_from_its_end() -> None:
    """The beats that waited are read before anybody knows how long the daemon stood still."""
    liveness = fresh()
    for name in "abc":
        liveness.watch(name, 0.0)
    for name in "ba":
        liveness.beat(name, 1000.0)
    liveness.step_back(5.0)
    assert [found[0] for found in due(liveness, 30.0)] == ["c"]
    assert not due(liveness, 34.9)
    assert [found[0] for found in due(liveness, 35.0)] == ["b", "a"]


def test_a_beat_of_what_is_not_watched_does_nothing() -> None:
    liveness = in_phase(Phase.LIVE)
    assert liveness.beat("b", 1.0) is None
    assert liveness.phase("b") is None


def test_a_beat_brings_a_suspect_back_with_its_own_timeout() -> None:
    liveness = in_phase(Phase.SUSPECT)
    assert list(liveness.suspects) == ["a"]
    assert liveness.beat("a", 1.0, 2.0) is Phase.SUSPECT
    assert not liveness.suspects
    assert due(liveness, 3.0) == [("a", Phase.LIVE, Evidence.SILENCE)]


def test_sessions_with_timeouts_of_their_own_are_due_by_them() -> None:
    liveness = fresh()
    for name, timeout_s in (("a", 100.0), ("b", 1.0), ("c", None)):
        liveness.watch(name, 0.0, timeout_s)
    assert [found[0] for found in due(liveness, 1.0)] == ["b"]
    assert [found[0] for found in due(liveness, 29.9)] == ["b"], "its grace is over"
    assert [found[0] for found in due(liveness, 30.0)] == ["c"]
    assert [found[0] for found in due(liveness, 100.0)] == ["a", "c"]


def test_without_grace_the_same_look_suspects_and_ends() -> None:
    liveness = NamedLiveness(TIMEOUT_S, 0.0, RETENTION_S)
    liveness.watch("a", 0.0)
    assert [found[1] for found in due(liveness, 30.0)] == [Phase.LIVE, Phase.SUSPECT]
    assert liveness.phase("a") is Phase.ENDED


def test_a_limit_ends_a_session_that_beats() -> None:
    liveness = in_phase(Phase.LIVE)
    liveness.limit("a", 40.0)
    liveness.beat("a", 39.0)
    assert not due(liveness, 39.9)
    assert due(liveness, 40.0) == [("a", Phase.LIVE, Evidence.OVERTIME)]


@pytest.mark.parametrize("deadline", [None, 60.0])
def test_a_limit_that_was_taken_back_or_moved_does_not_end_it(deadline: float | None) -> None:
    liveness = in_phase(Phase.LIVE)
    liveness.limit("a", 40.0)
    liveness.limit("a", deadline)
    liveness.beat("a", 41.0)
    assert not due(liveness, 41.0)
    assert due(liveness, 60.0) == ([] if deadline is None else [("a", Phase.LIVE, Evidence.OVERTIME)])


def test_a_limit_dies_with_its_session() -> None:
    liveness = in_phase(Phase.LIVE)
    liveness.limit("a", 40.0)
    liveness.learn("a", Evidence.END, 1.0)
    liveness.learn("a", Evidence.REVIVAL, 2.0)
    liveness.beat("a", 40.0)
    assert not due(liveness, 40.0)
    liveness.limit("a", 50.0)
    liveness.forget("a")
    assert not due(liveness, 50.0)


def test_forgetting_an_unknown_session_is_not_an_error() -> None:
    fresh().forget("a")


def test_a_look_costs_what_expires() -> None:
    """Of ten thousand that live, none is even looked at: the first of each queue tells."""
    liveness = fresh()
    for number in range(10_000):
        liveness.watch(f"s{number}", 0.0)
    for number in range(10_000):
        if number != 5_000:
            liveness.beat(f"s{number}", 20.0)
    looked = liveness.due(30.0)
    assert next(looked)[0] == "s5000"
    liveness.learn("s5000", Evidence.SILENCE, 30.0)
    [queue] = liveness.inner._live[TIMEOUT_S].queues
    seen = queue.order = _Counting(queue.order)
    assert list(looked) == []
    assert list(liveness.due(30.0)) == []
    assert seen.read <= 4


class _Counting(OrderedDict[Session, float]):
    """Counts how many of its values are read."""

    read = 0

    def __getitem__(self, session: Session) -> float:
        self.read += 1
        return super().__getitem__(session)


def test_queues_of_unused_timeouts_are_dropped() -> None:
    liveness = fresh()
    for number in range(100):
        liveness.watch("a", 0.0, 1.0 + number)
    assert len(liveness.spans) == 1
    liveness.learn("a", Evidence.END, 1.0)
    assert not liveness.spans


@pytest.mark.parametrize("timeout_s", [20.0, 40.0])
def test_another_timeout_counts_from_the_last_evidence(timeout_s: float) -> None:
    liveness = fresh()
    liveness.watch("early", 3.0, timeout_s)
    liveness.watch("a", 5.0)
    liveness.watch("late", 7.0, timeout_s)
    liveness.retime("a", timeout_s)
    assert liveness.deadline("a") == 5.0 + timeout_s
    assert [each[0] for each in due(liveness, 4.9 + timeout_s)] == ["early"]
    assert [each[0] for each in due(liveness, 5.0 + timeout_s)] == ["a"]
    assert [each[0] for each in due(liveness, 7.0 + timeout_s)] == ["late"]


@pytest.mark.parametrize("phase", [Phase.SUSPECT, Phase.ENDED])
def test_another_timeout_of_one_that_is_not_live_changes_nothing_yet(phase: Phase) -> None:
    liveness = in_phase(phase)
    before = liveness.deadline("a")
    liveness.retime("a", 1.0)
    assert (liveness.phase("a"), liveness.deadline("a")) == (phase, before)


def test_timeouts_that_clients_choose_make_a_bounded_number_of_queues() -> None:
    """A tick looks at each queue, so its cost would grow with every other timeout that somebody thinks of."""
    liveness = fresh()
    for number in range(20_000):
        liveness.watch(f"s{number}", 0.0, 0.001 * 1.0013**number)
    octaves = 39
    assert len(liveness.spans) <= EXACT_SPANS + octaves * SPAN_CLASSES
    for number in range(20_000):
        liveness.forget(f"s{number}")
    assert not liveness.spans


def test_the_first_timeouts_in_use_and_the_default_are_exact_and_others_at_most_a_class_longer() -> None:
    liveness = fresh()
    spans = [40.0 + number / 7 for number in range(5 * EXACT_SPANS)]
    for number, span_s in enumerate(spans):
        liveness.watch(f"s{number}", 0.0, span_s)
    liveness.watch("default", 0.0)
    assert liveness.deadline("default") == TIMEOUT_S
    deadlines = [liveness.deadline(f"s{number}") for number in range(len(spans))]
    assert deadlines[:EXACT_SPANS] == spans[:EXACT_SPANS]
    longer = [deadline / span_s for deadline, span_s in zip(deadlines, spans, strict=True)]
    assert min(longer) == 1.0
    assert 1.0 < max(longer) <= 1 + 1 / SPAN_CLASSES


@pytest.mark.parametrize("timeout_s", [5e-324, 1e-9, 0.002, 1.0, 3e8])
def test_a_timeout_of_any_length_is_waited_for(timeout_s: float) -> None:
    liveness = fresh()
    for number in range(EXACT_SPANS):
        liveness.watch(f"s{number}", 0.0, 50.0 + number)
    liveness.watch("a", 0.0, timeout_s)
    assert timeout_s <= liveness.deadline("a") <= max(0.001, timeout_s * (1 + 1 / SPAN_CLASSES))


def test_a_limit_that_moves_a_hundred_thousand_times_is_one_entry() -> None:
    liveness = in_phase(Phase.LIVE)
    for number in range(100_000):
        liveness.limit("a", 1e9 - number if number % 2 else 40.0 + number)
    assert len(liveness.inner.limited) == len(liveness.inner._limits) == 1
    assert liveness.next_deadline() == TIMEOUT_S


def test_a_timeout_changed_long_after_the_last_evidence_moves_few_others() -> None:
    liveness = fresh()
    liveness.watch("a", 0.0)
    for number in range(3 * LATER_LOOKED_AT):
        liveness.watch(f"s{number}", 1.0 + number / 1000, 40.0)
    liveness.retime("a", 40.0)
    oldest_moved = 1.0 + (2 * LATER_LOOKED_AT) / 1000
    assert liveness.deadline("a") == oldest_moved + 40.0
    assert next(liveness.due(41.0))[0] == "s0"
