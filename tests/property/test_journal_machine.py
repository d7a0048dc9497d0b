"""SessionTable, journal and crashes against a plain model: what was acknowledged is there, and nothing else is."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from support.budget import examples
from support.journals import FaultyFiles, JournaledTable, Killed, done_then_killed, eio, killed, turn

SESSIONS = st.sampled_from([f"s{number}" for number in range(6)])


class JournalMachine(RuleBasedStateMachine):
    """The model: session id to the numbers of its turns, as far as they were acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="cs-"))
        self.model: dict[str, list[int]] = {}
        self.number = 0
        self.files = FaultyFiles(10**9, eio)
        self.journaled = JournaledTable(self.directory, self.files, segment_bytes=2048)

    def teardown(self) -> None:
        self.journaled.journal.close()
        shutil.rmtree(self.directory)

    def _fail_in(self, calls: int | None) -> None:
        self.files.fail_at = 10**9 if calls is None else self.files.count + calls

    @rule(session=SESSIONS, fail_in=st.none() | st.integers(0, 3))
    def create(self, session: str, fail_in: int | None) -> None:
        if session in self.model:
            return
        self._fail_in(fail_in)
        try:
            self.journaled.create(session)
        except OSError:
            return
        self.model[session] = []

    @rule(session=SESSIONS, count=st.integers(1, 40), fail_in=st.none() | st.integers(0, 3))
    def add_turns(self, session: str, count: int, fail_in: int | None) -> None:
        if session not in self.model:
            return
        self._fail_in(fail_in)
        for _ in range(count):
            self.number += 1
            try:
                self.journaled.add_turn(session, turn(self.number))
            except OSError:
                continue
            self.model[session].append(self.number)

    @rule(session=SESSIONS, fail_in=st.none() | st.integers(0, 3))
    def delete(self, session: str, fail_in: int | None) -> None:
        if session not in self.model:
            return
        self._fail_in(fail_in)
        try:
            self.journaled.delete(session)
        except OSError:
            return
        del self.model[session]

    @rule(fail_in=st.none() | st.integers(0, 12))
    def checkpoint(self, fail_in: int | None) -> None:
        self._fail_in(fail_in)
        try:
            self.journaled.checkpoint()
        except OSError:
            pass

    @rule()
    def sync(self) -> None:
        self._fail_in(None)
        self.journaled.journal.sync()

    @rule(at=st.none() | st.integers(0, 12), after=st.booleans(), torn=st.binary(max_size=40))
    def crash(self, at: int | None, after: bool, torn: bytes) -> None:
        """Killed now, or in the middle of a checkpoint, with half a record behind the log."""
        if at is not None:
            dying = FaultyFiles(at, done_then_killed if after else killed)
            journal = self.journaled.journal
            journal._files = journal._manifest._files = self.journaled.files = dying
            try:
                self.journaled.checkpoint()
            except Killed:
                pass
        journal = self.journaled.journal
        if torn and at is None:
            path = self.directory / f"log-{journal.segment.generation:012d}.csj"
            with path.open("r+b") as file:
                file.seek(journal.segment.end)
                file.write(torn)
        journal.close()
        self.files = FaultyFiles(10**9, eio)
        self.journaled = JournaledTable(self.directory, self.files, segment_bytes=2048)

    @precondition(lambda self: self.number % 3 == 0)
    @invariant()
    def all_that_was_acknowledged_and_nothing_else(self) -> None:
        table = self.journaled.harness.table
        assert set(table.sessions) == set(self.model)
        for session, numbers in self.model.items():
            expected = b",".join(turn(number) for number in numbers)
            assert b",".join(table.sessions[session].doc.chunks) == expected


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(max_examples=examples(60), stateful_step_count=50)
