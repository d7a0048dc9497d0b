"""Groups of requests of several workers, some of which the journal refuses: of those nothing is left.

The whole engine is compared with what it was before the group; what is committed, with a replay of the journal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from callstate_client.engine.engine import Engine
from callstate_client.engine.interfaces import INTERNAL, InSteps, NotCached, NotOurs
from callstate_client.engine.limits import DefaultLimits
from callstate_client.engine.request import read_long_request
from callstate_client.engine.rules import handoff
from callstate_client.engine.sessions.records import decode_record, encode_record
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.store_form import session_of
from callstate_client.engine.sessions.stored import StoredMeta, StoredSession
from callstate_client.engine.sessions.writes import Patch, Whole, Write
from callstate_client.engine.table.readings import Reading
from callstate_client.engine.table.replay import replay
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.engine.user import NOBODY
from callstate_client.errors import NotDurableError, WireError
from callstate_sidecar.config.schema import ReaperConfig
from support.budget import examples
from support.clock import ManualClock
from support.core import HOST, TIME, kept
from support.deep_state import deep_state
from support.hot_bytes import recounted, recounted_dirty

IDS: Final = ("a", "b")
TURNS: Final = tuple(
    {"role": role, "content": content, "timestamp": TIME, "duration_ms": 5} | more
    for role, content, more in (
        ("user", "one", {}),
        ("agent", "é", {"odd": [1]}),
        ("user", "x" * 600, {"response_ms": 3}),
    )
)


class Client:
    """A connection, perhaps of a registered worker."""

    def __init__(self, worker: str = "", instance: str = "") -> None:
        self.worker, self.instance = worker, instance
        self.told_timeout_s, self.user, self.unsent_bytes = 0.0, NOBODY, 0

    def send(self, data: bytes, /) -> None:
        """It reads nothing."""

    def close(self) -> None:
        """It stays."""


class BareHost:
    """What verbs ask of the program around them, without one."""

    accepts_new = True
    is_shared = False

    def is_dead(self, host: str) -> bool:
        """There is no other host that could be."""
        return False

    def retry_refused(self) -> None:
        """The machine does that."""


OP = st.sampled_from([{}, {}, {"op": "x"}, {"op": "y"}])
EPOCH = st.sampled_from([{}, {}, {"epoch": "present"}, {"epoch": "other"}])
SAVE = st.builds(
    lambda status, history, more, labels, times, condition: {
        "session": {"id": "", "status": status} | more, "history": history, **labels, **times, **condition
    },
    st.sampled_from(["active", "active", "on_hold", "ended"]),
    st.sampled_from(["kept", "longer", "other", "left out", "empty"]),
    st.sampled_from([{}, {"call_id": "k"}, {"recovery_data": {"n": 1}}, {"metrics": {"turn_count": 3, "odd": 1}}]),
    st.sampled_from([{}, {}, {"labels": {"app": "s"}}, {"labels": {}}]),
    st.sampled_from([{}, {}, {"heartbeat_timeout_s": 5.0}, {"max_duration_s": 50.0}]),
    st.sampled_from([{}, {}, {"if_version": 0}, {"if_version": "present"}]),
)  # fmt: skip
SET = st.sampled_from([
    {"status": "on_hold"}, {"status": "ended"}, {"note": 1}, {"recovery_data": {"z": 1}}, {"call_id": "k2"},
    {"created_at": "2026-01-01T00:00:07Z"}, {"metrics": {"first_response_ms": 9}},
])  # fmt: skip
AMEND = st.sampled_from([{"index": 0}, {"index": -2}, {"role": "user"}, {}])


def merged(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(*parts).map(lambda some: {name: value for each in some for name, value in each.items()})


REQUEST = st.one_of(
    st.tuples(st.just("session.save"), merged(SAVE, OP)),
    st.tuples(st.just("session.save"), merged(SAVE, OP)),
    st.tuples(
        st.just("session.add_turn"), merged(st.sampled_from(TURNS).map(lambda turn: {"turn": turn}), OP, EPOCH)
    ),
    st.tuples(st.just("session.add_turn"), st.just({"turns": [*TURNS] * 12})),
    st.tuples(st.just("session.amend_turn"), merged(AMEND, st.just({"set": {"content": "cut"}}), OP)),
    st.tuples(st.just("session.record_interruption"), OP),
    st.tuples(st.just("session.update"), merged(SET.map(lambda patch: {"set": patch}), OP, EPOCH)),
    st.tuples(st.just("session.end"), merged(OP, EPOCH)),
    st.tuples(st.just("session.delete"), merged(OP, EPOCH)),
    st.tuples(st.just("session.heartbeat"), st.just({})),
    st.tuples(st.just("session.load"), st.just({"history": 1})),
    st.tuples(
        st.just("session.claim"),
        st.sampled_from([{"worker_id": w, "steal": s} for w in ("w1", "w2") for s in (True, False)]),
    ),
    st.tuples(st.just("session.claim_next"), st.just({"worker_id": "w2"})),
    st.tuples(st.just("session.release"), st.just({"epoch": "present"})),
    st.tuples(st.just("quarantine.drop"), st.just({})),
    st.tuples(st.just("another host takes it"), st.just({})),
)
ANONYMOUS: Final = ("session.claim_next",)


class RollbackMachine(RuleBasedStateMachine):
    """An engine, its journal as a list of records, a store, and four clients of which two are one worker's."""

    @initialize()
    def begin(self) -> None:
        self.clock = ManualClock()
        self.engine = Engine(DefaultLimits(), ReaperConfig(), self.clock, "stream-1")
        self.engine.attach(BareHost())  # type: ignore[arg-type]
        self.clients = [Client(), Client("w1", "i1"), Client("w1", "i2"), Client("w2")]
        self.journal = SessionTable()
        """What a replay would make of it."""
        self.store: dict[str, Whole] = {}
        self.flight: list[tuple[Write, float]] = []
        self.admitted: set[str] = set()

    # -- requests -------------------------------------------------------------------------------------------

    def resolved(self, session_id: str, params: dict[str, Any]) -> dict[str, Any]:
        """The params with what they refer to."""
        session = self.engine.table.sessions.get(session_id)
        version, epoch = (0, 0) if session is None else (session.version, session.facts.epoch)
        params = {name: value for name, value in params.items() if name != "history" or "session" not in params}
        if params.get("epoch") is not None:
            params["epoch"] = epoch if params["epoch"] == "present" else epoch + 1
        if params.get("if_version") == "present":
            params["if_version"] = version
        return params

    def history(self, session_id: str, how: str) -> dict[str, Any]:
        session = self.engine.table.sessions.get(session_id)
        present = b"" if session is None else b",".join(session.doc.chunks)
        other = msgspec.json.encode(TURNS[1])
        texts = {"kept": present, "longer": b",".join(filter(None, (present, other))), "other": other, "empty": b""}
        return {"history": msgspec.Raw(b"[%b]" % texts[how])} if how in texts else {}

    def ask(self, client: Client, session_id: str, method: str, params: dict[str, Any]) -> None:
        self.clock.at_us += 1
        engine = self.engine
        if method == "another host takes it":
            session = engine.table.sessions.get(session_id)
            if session is not None:
                meta = StoredMeta(host="host-2", epoch=session.facts.epoch + 1, version=session.version)
                self.store[session_id] = Whole(session_id, session.doc.for_store()[0], meta, active=True)
                handoff.lose(engine.ctx, session, "host-2")
            return
        if method == "session.save":
            session_of_it = params["session"] | {"id": session_id} | self.history(session_id, params["history"])
            params = self.resolved(session_id, params) | {"session": session_of_it}
        else:
            params = self.resolved(session_id, params)
            params |= {} if method in ANONYMOUS else {"session_id": session_id}
        line = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        request = read_long_request(line, engine.table)
        assert request is not None

        def run() -> None:
            outcome = engine.run(client, request.verb, request.params)  # type: ignore[arg-type]
            if isinstance(outcome, InSteps):
                outcome.finish()

        try:
            self.with_store(run)
        except (WireError, NotOurs):
            pass

    def with_store(self, run: Callable[[], None]) -> None:
        """Run a request, again if it needs to know what the store has."""
        ctx = self.engine.ctx
        try:
            run()
        except NotCached as miss:
            reading = ctx.table.readings.begin(miss.session_id)
            self.read(reading)
            ctx.show(reading)
            try:
                run()
            finally:
                ctx.hide()
                ctx.table.readings.let_go(reading)

    def read(self, reading: Reading) -> None:
        """Fill a reading with what the store has, or make that hot."""
        ctx, session_id = self.engine.ctx, reading.session_id
        row = self.store.get(session_id)
        found = None if row is None else session_of(session_id, StoredSession(row.document, row.meta), HOST)
        if found is None:
            ctx.table.tombstones.remember_miss(session_id, self.clock.mono())
        elif not found.ended and not found.host:
            ctx.tx.admit(found)
            ctx.watch(INTERNAL, found)
            self.admitted.add(session_id)
        if not reading.outdated:
            ctx.table.readings.fill(reading, found, ctx.table.tombstones.predecessor(session_id))

    # -- groups ---------------------------------------------------------------------------------------------

    @rule(
        wanted=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(IDS), REQUEST), min_size=1, max_size=5),
        fails=st.booleans(),
    )
    def group(self, wanted: list[tuple[int, str, tuple[str, dict[str, Any]]]], fails: bool) -> None:
        engine = self.engine
        before = deep_state(engine)
        for client, session_id, (method, params) in wanted:
            self.ask(self.clients[client], session_id, method, params)
        if not fails:
            self.commit()
            return
        open_events = engine.events._open
        self.admitted |= {each.session[0] for each in open_events if each.type == "recovered" and each.session}
        engine.tx.rollback(NotDurableError("the disk is full"))
        assert self.without_observed(deep_state(engine)) == self.without_observed(before)
        self.commit()

    def without_observed(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state without sessions that were read from the store or have recovered, which they stay."""
        if not self.admitted:
            return state
        return {
            name: {i: each for i, each in state[name].items() if i not in self.admitted}
            for name in ("sessions", "phases")
        }

    def commit(self) -> None:
        tx = self.engine.tx
        for record in (*tx.observed, *tx.records):
            replay(self.journal, decode_record(encode_record(record)))
        tx.observed = []
        tx.commit()
        self.engine.publish(1 << 30)
        self.admitted = set()
        sessions = self.engine.table.sessions
        journaled = {i: kept(session) for i, session in sessions.items() if session.journaled}
        replayed = {i: kept(session) for i, session in self.journal.sessions.items()}
        assert self.without_default(replayed) == self.without_default(journaled)
        assert dict(self.journal.tombstones.pending) == dict(self.engine.table.tombstones.pending)
        assert {*self.journal.set_aside} == {*self.engine.table.set_aside}

    def without_default(self, sessions: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Without the timeout, which a session read from the store gets with no change of its own."""
        for session in sessions.values():
            session["facts"] = msgspec.structs.replace(session["facts"], heartbeat_timeout_s=None)
        return sessions

    # -- what else happens ----------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, 31.0, 310.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.engine.tick(self.clock.live())
        self.commit()

    @rule(outcome=st.sampled_from(["written", "written", "failed", "refused"]))
    def store_round(self, outcome: str) -> None:
        """Put something in flight; the next time, let it arrive."""
        queue, flight = self.engine.flush_queue, self.flight
        if not flight:
            queue.retry_refused(self.clock.mono() + 1000, 10)
            self.flight = queue.take(HOST, 3, 1 << 20)
            self.commit()
            return
        self.flight = []
        for write, since in flight:
            stored = self.store.get(write.session_id)
            if isinstance(write, Patch) and (stored is None or stored.version != write.base.version):
                queue.write_whole(write, since)
            elif outcome == "written":
                self.store[write.session_id] = self.applied(write)
                queue.acked(write)
            elif outcome == "failed":
                queue.retry(write, since)
            else:
                queue.quarantine(write.session_id, "rejected", self.clock.mono())
        self.commit()

    def applied(self, write: Write) -> Whole:
        if isinstance(write, Whole):
            return write
        document = self.store[write.session_id].document
        assert document is not None
        return Whole(write.session_id, write.apply(document), write.meta, active=True)

    # -- what must hold -------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_forgotten(self) -> None:
        table = self.engine.table
        waiting = {*table.dirty.marks, *table.dirty.in_flight, *table.quarantined}
        assert {i for i, session in table.sessions.items() if session.stored_version < session.version} <= waiting
        assert {*table.tombstones.pending} <= waiting
        assert {*table.dirty.marks} <= {*table.sessions, *table.tombstones.pending}

    @invariant()
    def all_agrees(self) -> None:
        table, liveness = self.engine.table, self.engine.liveness
        sessions: list[Session] = [*table.sessions.values()]
        assert table.hot.total == recounted(table, self.engine.events)
        assert table.dirty.size_bytes == recounted_dirty(table.dirty)
        assert {*table.index.orphans} == {each.id for each in sessions if each.facts.orphan and not each.ended}
        assert {*liveness.suspects} == {each.id for each in sessions if each.suspected}
        assert not any(each.suspected and each.ended for each in sessions)
        assert len(liveness) == len(sessions)
        limited = {each.id for each in sessions if each.facts.max_duration_s is not None and not each.ended}
        assert {each.id for each in liveness.limited} == limited


TestRollback = RollbackMachine.TestCase
TestRollback.settings = settings(max_examples=examples(60), stateful_step_count=30)
