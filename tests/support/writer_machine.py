"""The machine of tests/property/test_writer_machine.py: a daemon's core over a store that does its worst."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from callstate_client.engine.interfaces import INTERNAL
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.table.quarantine import RETRY_MAX_S
from callstate_client.engine.table.replay import all_dirty
from callstate_client.errors import WireError
from support.core import Core
from support.faulty_store import Fault, FaultyStore, said
from support.hot_bytes import recounted

IDS = st.sampled_from("ab")
FAULT = st.none() | st.builds(Fault, st.sampled_from(["down", "timeout", "refusing"]), st.booleans())


class WriterMachine(RuleBasedStateMachine):
    """A daemon's core over a FaultyStore.

    `acknowledged` is what was said in each session that must still exist, `deleted` the sessions whose deletion was
    acknowledged and must hold.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = FaultyStore()
        self.acknowledged: dict[str, list[str]] = {}
        self.deleted: set[str] = set()
        self.number = 0

    def teardown(self) -> None:
        try:
            if hasattr(self, "core"):
                self.faults_end()
                self.run(self.core.read_through.close())
        finally:
            self.loop.close()

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    @initialize()
    def begin(self) -> None:
        async def make() -> Core:
            return Core(backend=self.store)

        self.core = self.run(make())

    # -- requests -----------------------------------------------------------------------------------------------

    def ask(self, method: str, **params: Any) -> str:
        """The kind of the error, or empty."""
        self.core.clock.at_us += 1  # no version is given twice
        try:
            self.run(self.core.call(method, **params))
        except WireError as error:
            return error.kind
        return ""

    @rule(session_id=IDS, create=st.booleans(), status=st.sampled_from(["active", "active", "ended"]))
    def save(self, session_id: str, create: bool, status: str) -> None:
        if_version = {"if_version": 0} if create else {}
        kind = self.ask("session.save", session={"id": session_id, "status": status}, **if_version)
        if kind:
            allowed = {"store_unavailable", "fenced", "session_ended"} | ({"conflict"} if create else set())
            assert kind in allowed, kind
            return
        self.acknowledged.setdefault(session_id, [])
        self.deleted.discard(session_id)

    @rule(session_id=IDS, written=st.booleans())
    def turn(self, session_id: str, written: bool) -> None:
        self.number += 1
        content = f"turn {self.number}"
        turn = {"role": "user", "content": content}
        kind = self.ask("session.add_turn", session_id=session_id, turn=turn)
        if not kind:
            assert session_id not in self.deleted, "a deleted session takes a turn"
            self.acknowledged.setdefault(session_id, []).append(content)
        else:
            self.refused(session_id, kind)
        if written:
            self.write(1)

    @rule(session_id=IDS)
    def end(self, session_id: str) -> None:
        kind = self.ask("session.end", session_id=session_id)
        if kind:
            self.refused(session_id, kind)

    @rule(session_id=IDS, written=st.booleans())
    def delete(self, session_id: str, written: bool) -> None:
        kind = self.ask("session.delete", session_id=session_id)
        if not kind:
            self.acknowledged.pop(session_id, None)
            self.deleted.add(session_id)
        else:
            self.refused(session_id, kind)
        if written:
            self.write(1)

    def refused(self, session_id: str, kind: str) -> None:
        assert kind in ("not_found", "store_unavailable", "fenced", "session_ended"), kind
        if kind == "not_found":
            gone = session_id not in self.acknowledged or self.store.is_elsewhere(session_id)
            assert gone, "there, and yet not found"

    # -- the store ----------------------------------------------------------------------------------------------

    @rule(faults=st.lists(FAULT, min_size=1, max_size=6))
    def operations_fail(self, faults: list[Fault | None]) -> None:
        self.store.faults.extend(faults)

    @rule(rejected=st.sampled_from(["", "a", "b", "ab"]))
    def sessions_are_rejected(self, rejected: str) -> None:
        self.store.rejected = {*rejected}

    @rule(away=st.sampled_from(["", "a", "b"]), applies=st.booleans())
    def part_is_away(self, away: str, applies: bool) -> None:
        """As a primary of a cluster."""
        self.store.away_ids, self.store.away_applies = {*away}, applies

    @rule()
    def keep_a_copy(self) -> None:
        self.store.keep_a_copy()

    @rule(how=st.sampled_from(["forget", "go back"]))
    def lose_data(self, how: str) -> None:
        (self.store.forget if how == "forget" else self.store.go_back)()
        self.forgive()

    def forgive(self) -> None:
        """What only the store had is lost with it, and what it brings back nobody here knows of."""
        for session_id in [*self.acknowledged]:
            session = self.core.table.sessions.get(session_id)
            if session is None or session.unverified:
                kept = self.everywhere(session_id)
                self.acknowledged[session_id] = [each for each in self.acknowledged[session_id] if each in kept]
                if session is None and session_id not in self.store.rows:
                    del self.acknowledged[session_id]
        table, remembered = self.core.table, self.core.writer._deletions._deleted
        self.deleted -= {i for i in self.deleted if i not in table.tombstones.pending and i not in remembered}

    @rule(session_id=IDS, ends=st.booleans())
    def go_writes(self, session_id: str, ends: bool) -> None:
        self.number += 1
        self.store.change_by_go(session_id, f"Go's {self.number}", ends=ends)

    @rule(session_id=IDS)
    def go_deletes(self, session_id: str) -> None:
        """What it deleted may be gone, and is written again where something has changed here."""
        if self.store.delete_by_go(session_id):
            self.acknowledged.pop(session_id, None)

    @rule(session_id=IDS, delete=st.booleans())
    def another_host_claims(self, session_id: str, delete: bool) -> None:
        """What was acknowledged there is that host's: only what it does not know of is ours to keep."""
        if self.store.claim_elsewhere(session_id, delete=delete):
            self.deleted.discard(session_id)
            if delete and session_id not in self.core.table.sessions:
                self.acknowledged.pop(session_id, None)

    # -- time ---------------------------------------------------------------------------------------------------

    @rule(rounds=st.integers(1, 3))
    def write(self, rounds: int) -> None:
        for _ in range(rounds):
            self.run(self.core.writer.write_round())

    @rule()
    def sweep(self) -> None:
        self.run(self.core.writer._sweep.sweep())

    @rule(seconds=st.sampled_from([0.2, 1.5, 31.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        """The reaper looks too: calls without a heartbeat end, and leave memory once the store has them."""

        async def pass_time() -> None:
            self.core.clock.advance(seconds)
            await self.core.writer._rewrite_after_loss()  # as each second
            self.core.reaper.tick(self.core.clock.live())

        self.run(pass_time())

    @rule()
    def restart(self) -> None:
        """kill -9, and a start from the journal."""

        async def start() -> Core:
            await self.core.read_through.close()
            table, before = self.core.replayed(), self.core
            all_dirty(table, before.clock.mono())
            core = Core(backend=self.store, table=table)
            core.clock.at_us, core.clock.at_s = before.clock.at_us, before.clock.at_s
            core.logged = [*before.logged]
            for session in table.sessions.values():
                if session.ended:
                    core.liveness.keep(session, core.clock.live())
                else:
                    core.ctx.watch(INTERNAL, session)
            return core

        losses = self.core.writer._data_losses
        self.core = self.run(start())
        if losses != self.store.data_losses:
            self.core.writer._data_losses = losses
        self.forgive()

    # -- what must hold -----------------------------------------------------------------------------------------

    def everywhere(self, session_id: str) -> set[str]:
        """All that is kept of what was said in a session, wherever it is."""
        table = self.core.table
        found = set(self.store.turns(session_id))
        for session in self.kept_here(session_id):
            found.update(said(session.doc.to_json(session.doc.updated_us)))
        assert all(i in table.sessions or i in table.tombstones.pending for i in table.quarantined)
        return found

    def kept_here(self, session_id: str) -> list[Session]:
        table = self.core.table
        kept = [Session.of_record(copy.state, None) for copy in table.set_aside.of(session_id)]
        return kept + ([table.sessions[session_id]] if session_id in table.sessions else [])

    @invariant()
    @precondition(lambda self: hasattr(self, "core"))
    def hot_bytes_are_the_sum_of_what_is_kept(self) -> None:
        """Whatever the store answers, or fails to."""
        away = sum(write.size for write, _ in self.core.writer._batches._away._writes.values())
        assert self.core.table.hot.total == recounted(self.core.table, self.core.events) + away

    @invariant()
    @precondition(lambda self: hasattr(self, "core"))
    def nothing_is_lost(self) -> None:
        """What was acknowledged is somewhere, and what the store lacks will be written."""
        for session_id, contents in self.acknowledged.items():
            missing = set(contents) - self.everywhere(session_id)
            assert not missing, f"{session_id}: {missing}"

        table = self.core.table
        for session_id, session in table.sessions.items():
            assert session.stored_version >= session.version or self.is_to_be_written(session_id), session_id
        for session_id in table.tombstones.pending:
            assert self.is_to_be_written(session_id), session_id

    def is_to_be_written(self, session_id: str) -> bool:
        table = self.core.table
        dirty = session_id in table.dirty.marks or session_id in table.dirty.in_flight
        return dirty or session_id in table.quarantined

    @rule()
    def faults_end(self) -> None:
        """Then the store has what is in memory, and nothing that was deleted."""
        self.store.faults.clear()
        self.store.rejected, self.store.away_ids = set(), set()
        for _ in range(8):
            self.core.clock.advance(RETRY_MAX_S)
            self.run(self.core.writer.write_round())
        self.run(self.core.writer._sweep.sweep())
        for _ in range(3):
            self.run(self.core.writer.write_round())
        table = self.core.table
        assert not table.dirty.sessions
        assert not table.quarantined.keys()
        assert not table.tombstones.pending
        assert self.core.writer.store.status == "up"
        for session_id, session in table.sessions.items():
            row = self.store.rows[session_id]
            assert row.meta is not None
            assert (row.meta.host, row.meta.version) == ("host-1", session.version)
            assert said(row.document) == said(session.doc.to_json(0))
            assert (session_id in self.store.active) is not session.ended
        for session_id in self.deleted:
            deleted = session_id not in self.store.rows or self.store.rows[session_id].document is None
            assert deleted or self.store.is_elsewhere(session_id), f"{session_id} is back"
