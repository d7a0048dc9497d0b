"""Scripts are repeatable and look like calls; the ledger tells every kind of loss apart; a simulation plays
the scripts and notices when a store loses something."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from callstate_client.cli.simulate import DaemonUnreachableError, Simulation
from callstate_client.cli.simulate.ledger import TURN_NUMBER, Comparison, Ledger, turn_numbers
from callstate_client.cli.simulate.scenario import BARGE_IN_RATE, CallScript, Note, Say, SetStatus, Traffic
from callstate_client.cli.simulate.tally import MAX_PROBLEMS, Latencies, Tally, percentile
from callstate_client.errors import ConnectionLostError, SessionEndedError
from callstate_client.memory import MemoryStore
from callstate_client.model import Role, SessionMetrics, SessionState, Status, Turn
from callstate_client.store import Record


def said(script: CallScript) -> list[Say]:
    return [step for step in script.steps if isinstance(step, Say)]


class TestTraffic:
    def test_the_same_seed_gives_the_same_calls(self):
        assert list(Traffic(30, 10, seed=7, die=0.2).scripts()) == list(Traffic(30, 10, seed=7, die=0.2).scripts())

    def test_another_seed_gives_other_calls(self):
        ours, theirs = (next(Traffic(1, 10, seed=seed).scripts()) for seed in (1, 2))
        assert ours.steps != theirs.steps

    def test_more_calls_do_not_change_the_first_ones(self):
        few, many = (list(Traffic(calls, 10, seed=7).scripts()) for calls in (5, 50))
        assert many[:5] == few

    def test_arrivals_are_in_order_and_at_the_rate(self):
        scripts = list(Traffic(2000, 50, seed=1).scripts())
        assert all(a.arrives_s <= b.arrives_s for a, b in pairwise(scripts))
        assert scripts[-1].arrives_s == pytest.approx(2000 / 50, rel=0.1)

    @pytest.mark.parametrize("turns", [1, 2, 3, 4, 5, 12, 41])
    def test_a_call_has_the_requested_turns_and_speakers_alternate(self, turns):
        for script in Traffic(40, 10, seed=3, turns=(turns, turns)).scripts():
            assert script.turns == turns
            assert said(script)[0].role == Role.AGENT
            assert all(a.role != b.role for a, b in pairwise(said(script)))

    def test_the_length_of_calls_spans_the_range(self):
        assert {script.turns for script in Traffic(400, 10, seed=3, turns=(6, 9)).scripts()} == {6, 7, 8, 9}

    @pytest.mark.parametrize(("die", "dead"), [(0, 0), (0.1, 4), (0.5, 20), (1, 40)])
    def test_so_many_calls_die_and_in_mid_call(self, die, dead):
        scripts = list(Traffic(40, 10, seed=5, die=die).scripts())
        assert sum(script.reason is None for script in scripts) == dead
        assert all(script.steps for script in scripts)

    def test_no_slot_is_left_unfilled(self):
        texts = [say.text for script in Traffic(200, 10, seed=2).scripts() for say in said(script)]
        assert not [text for text in texts if "{" in text or "}" in text]

    def test_a_barge_in_cuts_what_was_heard_to_a_beginning_of_it(self):
        says = [say for script in Traffic(300, 10, seed=4).scripts() for say in said(script)]
        cut = [say for say in says if say.heard is not None]
        agent = [say for say in says if say.role == Role.AGENT]
        assert 0.5 * BARGE_IN_RATE < len(cut) / len(agent) < 1.5 * BARGE_IN_RATE
        for say in cut:
            assert say.role == Role.AGENT
            assert say.heard
            assert say.text.startswith(say.heard)
            assert say.heard != say.text
            assert 0 < say.heard_s < say.speech_s

    def test_every_kind_of_event_occurs_in_simulated_calls(self):
        scripts = list(Traffic(300, 10, seed=6).scripts())
        steps = [step for script in scripts for step in script.steps]
        statuses = [step.status for step in steps if isinstance(step, SetStatus)]
        assert statuses.count(Status.ON_HOLD) >= 1
        assert statuses.count(Status.TRANSFERRING) == sum(s.reason == "transferred" for s in scripts)
        assert any(isinstance(step, Note) for step in steps)
        assert {script.direction for script in scripts} == {"inbound", "outbound"}
        assert len({script.call_id for script in scripts}) == len(scripts)
        assert len({script.provider for script in scripts}) > 2
        assert all(say.pause_s > 0 and say.speech_s > 0 for script in scripts for say in said(script))

    @pytest.mark.parametrize(
        ("wrong", "named"),
        [
            ({"calls": 0}, "calls"),
            ({"rate": 0}, "rate"),
            ({"rate": float("inf")}, "rate"),
            ({"rate": float("nan")}, "rate"),
            ({"die": 1.1}, "die"),
            ({"die": -0.1}, "die"),
            ({"turns": (0, 4)}, "turns"),
            ({"turns": (5, 4)}, "turns"),
            ({"turns": (1, 100_001)}, "turns"),
        ],
    )
    def test_an_option_out_of_range_is_named(self, wrong, named):
        with pytest.raises(ValueError, match=f"^{named}: "):
            Traffic(**{"calls": 1, "rate": 1, "seed": 1} | wrong)


def ledger_and_record(turns: int = 4) -> tuple[Ledger, Record]:
    """A call with everything acknowledged, and a store that has all of it."""
    ledger = Ledger("sim-1")
    state = SessionState(id="sim-1", status=Status.ENDED, metrics=SessionMetrics(interruption_count=1))
    for index in range(turns):
        role = Role.USER if index % 2 else Role.AGENT
        number = ledger.sent_turn(role, f"words {index}")
        ledger.turns[number].acknowledged = True
        state.add_turn(role, f"words {index}", extra={TURN_NUMBER: number})
    ledger.interruptions_sent = ledger.interruptions_acknowledged = 1
    ledger.recovery_sent.append({"after_turn": 4})
    ledger.recovery_data_acknowledged({"after_turn": 4})
    state.recovery_data = {"after_turn": 4}
    ledger.ended_with = "completed"
    return ledger, Record(state, ended_reason="completed")


class TestLedger:
    def test_all_there(self):
        ledger, record = ledger_and_record()
        comparison = ledger.compare(record)
        assert comparison == Comparison(acknowledged=4, found=4)
        assert comparison.faults == 0

    def test_a_lost_turn(self):
        ledger, record = ledger_and_record()
        del record.state.history[1]
        record.state.metrics.turn_count -= 1
        assert ledger.compare(record) == Comparison(acknowledged=4, found=3, lost=1)

    def test_a_doubled_turn(self):
        ledger, record = ledger_and_record()
        record.state.history.insert(1, record.state.history[1])
        record.state.metrics.turn_count += 1
        assert ledger.compare(record) == Comparison(acknowledged=4, found=4, doubled=1)

    def test_a_turn_out_of_place(self):
        ledger, record = ledger_and_record()
        history = record.state.history
        history[1], history[2] = history[2], history[1]
        assert ledger.compare(record) == Comparison(acknowledged=4, found=4, misplaced=1)

    @pytest.mark.parametrize(("field", "value"), [("content", "other words"), ("role", "tool")])
    def test_an_altered_turn(self, field, value):
        ledger, record = ledger_and_record()
        setattr(record.state.history[2], field, value)
        assert ledger.compare(record) == Comparison(acknowledged=4, found=4, altered=1)

    def test_a_turn_nobody_sent(self):
        ledger, record = ledger_and_record()
        record.state.add_turn("user", "from nowhere")
        assert turn_numbers(record) == [0, 1, 2, 3, -1]
        assert ledger.compare(record).altered == 1

    def test_a_missing_call(self):
        ledger, _ = ledger_and_record()
        assert ledger.compare(None) == Comparison(acknowledged=4, lost=4, missing_calls=1)

    def test_an_unacknowledged_turn_may_be_there_or_not(self):
        ledger, record = ledger_and_record()
        number = ledger.sent_turn("user", "cut off")
        assert ledger.compare(record).faults == 0
        record.state.add_turn("user", "cut off", extra={TURN_NUMBER: number})
        assert ledger.compare(record) == Comparison(acknowledged=4, found=4)

    def test_an_unacknowledged_amendment_may_be_there_or_not_an_acknowledged_one_must(self):
        ledger, record = ledger_and_record()
        ledger.sent_amendment(2, "words")
        assert ledger.compare(record).faults == 0
        record.state.history[2].content = "words"
        assert ledger.compare(record).faults == 0
        ledger.amendment_acknowledged(2, "words")
        assert ledger.compare(record).faults == 0
        record.state.history[2].content = "words 2"
        assert ledger.compare(record).altered == 1

    @pytest.mark.parametrize(("count", "altered"), [(0, 1), (1, 0), (2, 0), (3, 1)])
    def test_interruptions_between_those_acknowledged_and_those_sent(self, count, altered):
        ledger, record = ledger_and_record()
        ledger.interruptions_sent = 2
        record.state.metrics.interruption_count = count
        assert ledger.compare(record).altered == altered

    def test_a_turn_counted_twice(self):
        ledger, record = ledger_and_record()
        record.state.metrics.turn_count += 1
        assert ledger.compare(record).altered == 1

    def test_a_note_acknowledged_is_there_unless_a_later_one_was_sent(self):
        ledger, record = ledger_and_record()
        record.state.recovery_data = None
        assert ledger.compare(record).altered == 1
        ledger.recovery_sent.append({"after_turn": 8})
        record.state.recovery_data = {"after_turn": 8}
        assert ledger.compare(record).altered == 0

    @pytest.mark.parametrize(
        ("status", "reason"),
        [(Status.ACTIVE, None), (Status.ENDED, "heartbeat_timeout"), (Status.ENDED, None)],
    )
    def test_another_ending_than_acknowledged(self, status, reason):
        ledger, record = ledger_and_record()
        record.state.status, record.ended_reason = status, reason
        assert ledger.compare(record).altered == 1

    def test_comparisons_add_up(self):
        total = Comparison()
        for _ in range(2):
            total.add(Comparison(9, 7, 1, 2, 3, 4, 5))
        assert total == Comparison(18, 14, 2, 4, 6, 8, 10)
        assert total.faults == 2 + 4 + 6 + 8 + 10


class TestFigures:
    @pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.001, 1)])
    def test_percentiles_are_nearest_rank(self, share, value):
        assert percentile(range(1, 101), share) == value

    def test_percentile_of_one_value(self):
        assert percentile([3.5], 0.99) == 3.5

    def test_latencies_in_milliseconds_busiest_first(self):
        latencies = Latencies()
        latencies.add("end", 1.0)
        for millisecond in range(1, 11):
            latencies.add("add_turn", millisecond / 1000)
        assert list(latencies.to_dict().items()) == [
            ("add_turn", {"count": 10, "p50": 5.0, "p95": 10.0, "p99": 10.0, "max": 10.0}),
            ("end", {"count": 1, "p50": 1000.0, "p95": 1000.0, "p99": 1000.0, "max": 1000.0}),
        ]

    def test_all_problems_are_counted_and_the_first_kept(self):
        tally = Tally()
        for index in range(MAX_PROBLEMS + 5):
            tally.problem("kind", str(index))
        assert tally.errors == {"kind": MAX_PROBLEMS + 5}
        assert tally.problems == [str(index) for index in range(MAX_PROBLEMS)]


def test_turn_numbers_survive_the_document():
    record = Record(SessionState(id="a", history=[Turn("user", "x", extra={TURN_NUMBER: 3})]))
    record.state = record.state.copy()
    assert turn_numbers(record) == [3]


TRAFFIC = Traffic(calls=12, rate=1000, seed=8, die=0.25)
"""Enough to hold a barge-in, a note and three deaths; over in a blink at `FAST`."""

FAST = 2000.0


def with_losses(harm) -> MemoryStore:
    """A store that gives back other than it took: `harm` changes each record that is read."""

    class Harmful(MemoryStore):
        async def get(self, session_id, history="all", **options):
            record = await super().get(session_id, history, **options)
            if history == "all":
                harm(record)
            return record

    return Harmful()


class TestSimulation:
    async def test_all_calls_are_played_and_checked(self):
        scripts = list(TRAFFIC.scripts())
        turns = sum(script.turns for script in scripts)
        seen = []
        async with MemoryStore() as store:
            simulation = Simulation(
                store, TRAFFIC, speed=FAST, on_change=lambda tally: seen.append(tally.turns_acknowledged)
            )
            await simulation.run()
            assert simulation.ok
            assert simulation.checked == Comparison(acknowledged=turns, found=turns)
            assert (await simulation.compare()) == simulation.checked
            ended = [record async for record in store.sessions(status="ended", labels={"app": "simulate"})]
            assert store.count() == 12
        tally = simulation.tally
        assert (tally.started, tally.live, tally.ended, tally.died, tally.failed) == (12, 0, 9, 3, 0)
        assert sorted(record.ended_reason for record in ended) == sorted(tally.reasons.elements())
        assert tally.reasons == {
            reason: sum(script.reason == reason for script in scripts)
            for reason in {script.reason for script in scripts} - {None}
        }
        assert tally.barge_ins == sum(say.heard is not None for script in scripts for say in said(script))
        assert tally.barge_ins > 0
        assert tally.turns_sent == tally.turns_acknowledged == turns == seen[-1]

    async def test_its_report_is_json_and_says_what_was_counted(self):
        async with MemoryStore() as store:
            simulation = Simulation(store, TRAFFIC, speed=FAST)
            await simulation.run()
        report = json.loads(json.dumps(simulation.report()))
        assert report["ok"] is True
        assert report["seed"] == 8
        assert report["counts"]["reasons"] == dict(simulation.tally.reasons)
        assert report["checked"]["found"] == simulation.checked.found
        assert report["latency_ms"]["add_turn"]["count"] == report["counts"]["turns_acknowledged"]
        assert report["latency_ms"]["create"]["count"] == report["latency_ms"]["read"]["count"] == 12

    async def test_two_runs_of_the_same_calls_do_not_meet(self):
        async with MemoryStore() as store:
            for _ in range(2):
                simulation = Simulation(store, TRAFFIC, speed=FAST)
                await simulation.run()
                assert simulation.ok
            assert store.count() == 24

    @pytest.mark.parametrize(
        ("harm", "fault"),
        [
            (lambda record: record.state.history.pop(), "lost"),
            (lambda record: record.state.history.append(record.state.history[-1]), "doubled"),
            (lambda record: record.state.history.reverse(), "misplaced"),
            (lambda record: setattr(record.state.history[-1], "content", "else"), "altered"),
            (lambda record: setattr(record.state.metrics, "interruption_count", 99), "altered"),
            (lambda record: setattr(record.state, "recovery_data", "else"), "altered"),
            (lambda record: setattr(record, "ended_reason", "else"), "altered"),
        ],
    )
    async def test_whatever_a_store_loses_is_noticed(self, harm, fault):
        async with with_losses(harm) as store:
            simulation = Simulation(store, TRAFFIC, speed=FAST)
            await simulation.run()
        assert not simulation.ok
        assert getattr(simulation.checked, fault) > 0
        assert simulation.tally.errors["not as acknowledged"] > 0
        assert simulation.tally.problems

    async def test_a_call_that_was_taken_away_fails(self):
        """Ended by somebody else in mid-call: its worker's turns are still taken, its beats are not."""

        class Meddler(MemoryStore):
            async def update_heartbeat(self, session_id, **options):
                raise SessionEndedError(session_id, reason="operator")

        async with Meddler() as store:
            simulation = Simulation(store, TRAFFIC, speed=FAST)
            await simulation.run()
        assert simulation.tally.errors["heartbeat: SessionEndedError"] > 0
        assert not simulation.ok

    async def test_without_any_answer_it_stops(self):
        class Gone(MemoryStore):
            asked = 0

            async def info(self, **options):
                self.asked += 1
                if self.asked > 1:
                    raise ConnectionLostError("nobody there")
                return await super().info(**options)

        async with Gone() as store:
            slow = Simulation(store, Traffic(3, 1000, seed=1), speed=1, max_outage_s=0.1)
            with pytest.raises(DaemonUnreachableError, match="nobody there"):
                await slow.run()
            assert slow.tally.live == 0
            assert not slow.ok

    async def test_another_daemon_than_before_is_a_restart(self):
        class Restarted(MemoryStore):
            asked = 0

            async def info(self, **options):
                self.asked += 1
                return await super().info(**options) | {"started_at": min(self.asked, 2)}

        async with Restarted() as store:
            simulation = Simulation(store, TRAFFIC, speed=FAST)
            await simulation.run()
        assert simulation.tally.restarts == 1
        assert simulation.ok

    @pytest.mark.parametrize("speed", [0, -1, float("nan")])
    async def test_a_speed_is_over_0(self, speed):
        async with MemoryStore() as store:
            with pytest.raises(ValueError, match="speed"):
                Simulation(store, TRAFFIC, speed=speed)
