"""Deadlines by queues do what looking at every session each time would do."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from callstate_client.engine.phases import Evidence, Phase
from support.budget import examples
from support.named_liveness import NamedLiveness

IDS = st.sampled_from([f"s{i}" for i in range(8)])
TIMEOUTS = st.sampled_from([None, 2.0, 5.0, 30.0])
SPANS_S = {Phase.LIVE: 30.0, Phase.SUSPECT: 10.0, Phase.ENDED: 20.0}


@dataclass
class Plain:
    """What is known of one session, and when it is due."""

    phase: Phase
    since: float
    span_s: float
    limit: float | None = None

    def due(self) -> float:
        """When something has to be done about it."""
        silent = self.since + self.span_s
        return silent if self.limit is None else min(silent, self.limit)


class LivenessMachine(RuleBasedStateMachine):
    """Beats, ends, revivals, limits and time, in any order."""

    @initialize()
    def begin(self) -> None:
        self.now = 1000.0
        self.watch = NamedLiveness(SPANS_S[Phase.LIVE], SPANS_S[Phase.SUSPECT], SPANS_S[Phase.ENDED])
        self.model: dict[str, Plain] = {}

    def live(self, session_id: str, timeout_s: float | None) -> None:
        before = self.model.get(session_id)
        span_s = SPANS_S[Phase.LIVE] if timeout_s is None else timeout_s
        self.model[session_id] = Plain(Phase.LIVE, self.now, span_s, before.limit if before else None)

    def move(self, session_id: str, phase: Phase) -> None:
        limit = self.model[session_id].limit if phase is not Phase.ENDED else None
        self.model[session_id] = Plain(phase, self.now, SPANS_S[phase], limit)

    @rule(session_id=IDS, timeout_s=TIMEOUTS)
    def begin_to_watch(self, session_id: str, timeout_s: float | None) -> None:
        self.watch.watch(session_id, self.now, timeout_s)
        self.live(session_id, timeout_s)

    @rule(session_id=IDS, timeout_s=TIMEOUTS)
    def beat(self, session_id: str, timeout_s: float | None) -> None:
        known = self.model.get(session_id)
        assert self.watch.beat(session_id, self.now, timeout_s) is (known.phase if known else None)
        if known is None:
            return
        if known.phase is Phase.LIVE:
            known.since = self.now  # its timeout stays the one it has
        elif known.phase is Phase.SUSPECT:
            self.live(session_id, timeout_s)
        else:
            self.move(session_id, Phase.ENDED)  # a late turn

    @rule(session_id=IDS)
    def end(self, session_id: str) -> None:
        if session_id in self.model:
            assert self.watch.learn(session_id, Evidence.END, self.now) is Phase.ENDED
            self.move(session_id, Phase.ENDED)

    @rule(session_id=IDS, timeout_s=TIMEOUTS)
    def revive(self, session_id: str, timeout_s: float | None) -> None:
        if session_id in self.model and self.model[session_id].phase is Phase.ENDED:
            assert self.watch.learn(session_id, Evidence.REVIVAL, self.now, timeout_s) is Phase.LIVE
            self.live(session_id, timeout_s)

    @rule(session_id=IDS)
    def forget(self, session_id: str) -> None:
        self.watch.forget(session_id)
        self.model.pop(session_id, None)

    @rule(session_id=IDS, in_s=st.none() | st.sampled_from([0.0, 3.0, 15.0, 60.0]))
    def limit(self, session_id: str, in_s: float | None) -> None:
        known = self.model.get(session_id)
        if known is not None and known.phase is not Phase.ENDED:
            known.limit = None if in_s is None else self.now + in_s
            self.watch.limit(session_id, known.limit)

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0, 40.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(most=st.integers(1, 20))
    def tick(self, most: int) -> None:
        """Act on at most so many; each was due, and those left over still are."""
        for acted, (session_id, phase, evidence) in enumerate(self.watch.due(self.now), 1):
            known = self.model[session_id]
            assert phase is known.phase
            assert known.due() <= self.now, "judged before its deadline"
            if evidence is Evidence.OVERTIME:
                assert known.limit is not None
                assert known.limit <= self.now
                known.limit = None
            else:
                assert known.since + known.span_s <= self.now
            after = self.watch.learn(session_id, evidence, self.now)
            if after is None:
                del self.model[session_id]
            else:
                self.move(session_id, after)
            if acted == most:
                return
        assert not [i for i, known in self.model.items() if known.due() <= self.now], "kept past its deadline"

    @invariant()
    def same_phases(self) -> None:
        assert len(self.watch) == len(self.model)
        assert all(self.watch.phase(i) is known.phase for i, known in self.model.items())
        assert len(self.watch.suspects) == sum(known.phase is Phase.SUSPECT for known in self.model.values())

    @invariant()
    def no_queue_is_left_behind(self) -> None:
        """A queue a span: one for each timeout anybody ever asked for would be a leak."""
        spans = {known.span_s for known in self.model.values() if known.phase is Phase.LIVE}
        assert self.watch.spans == spans


TestLiveness = LivenessMachine.TestCase
TestLiveness.settings = settings(max_examples=examples(100), stateful_step_count=40)
