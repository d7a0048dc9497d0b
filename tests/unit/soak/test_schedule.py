"""The schedule of a soak is data, the same each time for its seed, and has every fault in a short run."""

from __future__ import annotations

import json
from itertools import pairwise

from soak.faults import Faults
from soak.floods import FLOODS
from soak.schedule import LANES, RESTARTS, RESTARTS_IN, Step, schedule
from soak.stage import HEARTBEAT_TIMEOUT_S

SECONDS = 170.0
"""What a run of three minutes has after its warm-up."""


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert schedule(7, SECONDS) == schedule(7, SECONDS)
    assert schedule(7, SECONDS) != schedule(8, SECONDS)


def test_a_schedule_is_data() -> None:
    steps = schedule(7, SECONDS)
    assert [Step(**each) for each in json.loads(json.dumps([step.to_json() for step in steps]))] == steps


def test_three_minutes_have_every_fault() -> None:
    every = {fault for lane in LANES.values() for fault in lane.faults}
    for seed in range(1, 30):
        assert {step.fault for step in schedule(seed, SECONDS)} == every


def test_faults_of_a_lane_follow_one_another() -> None:
    for lane in LANES:
        steps = [step for step in schedule(3, 3600.0) if step.lane == lane]
        assert all(one.at_s + one.for_s < other.at_s for one, other in pairwise(steps))
        assert steps[-1].at_s + steps[-1].for_s <= 3600.0


def test_the_daemon_that_runs_at_forty_percent_lives_to_the_end() -> None:
    for seed in range(1, 30):
        restarts = [step.at_s for step in schedule(seed, 600.0) if step.fault in RESTARTS]
        assert len(restarts) > 10
        assert max(restarts) <= RESTARTS_IN * 600.0


def test_every_fault_is_one_that_can_be_done() -> None:
    states = {"redis_readonly", "redis_oom", "redis_loading", "redis_busy", "redis_noauth"}
    for lane in LANES.values():
        for fault in lane.faults:
            assert fault in FLOODS or fault in states or hasattr(Faults, f"_{fault}")


def test_no_stop_is_as_long_as_the_heartbeat_timeout() -> None:
    stops = [LANES["worker"].faults["worker_stop"], LANES["daemon"].faults["daemon_stop"]]
    assert max(longest for _, longest in stops) < HEARTBEAT_TIMEOUT_S / 2
