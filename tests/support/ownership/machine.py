"""A state machine of calls and workers: the whole core with its reaper, compared with the model.

Workers register, reconnect, disconnect, die and come back under their old id. They and an unregistered connection
send heartbeats, change, end, delete, claim and release sessions. Time passes, the daemon stalls, the wall clock is
set. The daemon is killed and started again, the disk fills up. Nothing waits: the loop runs by the test's clock.
"""

from __future__ import annotations

import errno
import logging
import shutil
import tempfile
from collections.abc import Coroutine, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from support.core import FakeClient
from support.core_harness import FakeProcess
from support.ownership.expected_reply import ExpectedReply, kind_of
from support.ownership.expiry_model import SPANS
from support.ownership.invariants import Invariants, listed, shown
from support.ownership.model import OwnershipModel, Request
from support.ownership.request_strategies import CALLERS, METHODS, OPERATOR, OWNER, heartbeats, params, sent
from support.ownership.virtual_loop import TICK_S, VirtualHarness, VirtualLoop

WORKERS = st.sampled_from(["w1", "w2", "w3"])
WHICH = st.integers(0, 5)
some = st.lists(sent, min_size=1, max_size=4)
few = st.lists(sent, max_size=3)
seldom = st.sampled_from([False] * 7 + [True])
ENOSPC = OSError(errno.ENOSPC, "No space left on device")


class OwnershipMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        logging.getLogger("callstate_sidecar").setLevel(logging.CRITICAL)  # it warns of stalls and full disks
        self.loop = VirtualLoop()
        self.directory = Path(tempfile.mkdtemp(prefix="cs-"))
        self.harness: VirtualHarness | None = None
        self.model = OwnershipModel()
        self.checks = Invariants()
        self.number = 0

    def teardown(self) -> None:
        logging.getLogger("callstate_sidecar").setLevel(logging.NOTSET)
        if self.harness is not None:
            self.harness.check_replay()
            self.run(self.harness.close())
        self.loop.close()
        shutil.rmtree(self.directory)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @initialize(workers=st.lists(WORKERS, max_size=3, unique=True), first=st.lists(CALLERS, max_size=3))
    def begin(self, workers: list[str], first: list[int]) -> None:
        async def start() -> None:
            self.harness = VirtualHarness(self.directory, self.loop)
            await self.harness.settle()

        self.run(start())
        for worker_id in workers:
            self.join(worker_id, False)
        self.send([(which, Request("save", session_id)) for which, session_id in zip(first, "abc", strict=False)])
        self.check()

    # -- workers -------------------------------------------------------------------------------------------

    @rule(worker_id=WORKERS, same=st.booleans(), instance=st.sampled_from(["", "i1", "i2"]))
    def join(self, worker_id: str, same: bool, instance: str = "") -> None:
        """Register a connection of a new process, or of the one that has this id."""
        harness = self.harness
        number = self.model.known.get(worker_id)
        if not same or number is None or number in self.model.dead:
            harness.process()
            number = len(harness.processes) - 1
        line = self.run(harness.line(worker_id, harness.processes[number], instance))
        kind = self.model.register(id(line), worker_id, number, instance)
        about = {"worker_id": worker_id} | ({"instance": instance} if instance else {})
        [reply] = self.run(harness.replies(line.peer, ("worker.register", about)))
        assert kind_of(reply) == kind, (reply, kind)
        if kind:
            self.run(harness.disconnect(line.peer))
        else:
            harness.lines.append(line)
        harness.drop_closed()
        self.check()

    @precondition(lambda self: self.harness.lines)
    @rule(which=WHICH)
    def hang_up(self, which: int) -> None:
        line = self.harness.lines.pop(which % len(self.harness.lines))
        self.model.hung_up(id(line), line.worker_id)
        self.run(self.harness.disconnect(line.peer))
        self.check()

    @precondition(lambda self: self.living)
    @rule(which=WHICH, closes=st.sampled_from(["no", "all", "all"]))
    def exit(self, which: int, closes: str) -> None:
        """A process exits; its connections may stay open, held by a child or with unread requests."""
        number = self.living[which % len(self.living)]
        program: FakeProcess = self.harness.processes[number]
        self.harness.exit(program)
        self.model.exited(number)
        self.run(self.harness.settle())
        if closes == "all":
            for line in [line for line in self.harness.lines if line.program == number]:
                self.harness.lines.remove(line)
                self.model.hung_up(id(line), line.worker_id)
                self.run(self.harness.disconnect(line.peer))
        self.check()

    @property
    def living(self) -> list[int]:
        return [number for number in range(len(self.harness.processes)) if number not in self.model.dead]

    # -- requests ------------------------------------------------------------------------------------------

    @rule(drawn=some)
    def turn_of_the_loop(self, drawn: list[tuple[int, Request]]) -> None:
        self.send(drawn)
        self.check()

    @rule(drawn=some)
    def turn_with_a_full_disk(self, drawn: list[tuple[int, Request]]) -> None:
        """Changes are rolled back and cause no events; reads are answered as if they had never been requested."""
        self.send(drawn, full=True)
        self.check()

    @rule(drawn=some, over=st.sampled_from([True, True, False]))
    def drain(self, drawn: list[tuple[int, Request]], over: bool) -> None:
        self.send([(OPERATOR, Request("drain", steal=True))])
        self.send(drawn)
        if over:
            self.send([(OPERATOR, Request("drain", steal=False))])
        self.check()

    @rule(worker_id=WORKERS, successor=WORKERS)
    def release_all(self, worker_id: str, successor: str) -> None:
        """A worker releases all its calls; another one claims the first."""
        owned = [call.session_id for call in self.model.calls.values() if call.owner == worker_id]
        self.send([(OWNER, Request("release", session_id)) for session_id in owned])
        self.send([(OPERATOR, Request("claim_next", worker_id=successor))])
        self.check()

    @rule(kind=st.sampled_from(["beat", "beats", "turn", "update", "save"]), ticks=st.sampled_from([4, 9, 16]))
    def only_an_operator_speaks(self, kind: str, ticks: int) -> None:
        """An operator's requests succeed, but are no signs of life while the owner is connected."""
        for _ in range(ticks):
            self.tick([(OPERATOR, Request(kind, session_id)) for session_id in self.model.calls])

    def send(
        self, drawn: Sequence[tuple[int, Request]], *, full: bool = False, in_memory_only: bool = False
    ) -> None:
        """Send all of these requests in one pass of the event loop, and check their replies.

        Args:
            drawn: each sender and its request.
            full: the disk is full.
            in_memory_only: omit requests that wait for a read from the store.
        """
        heard: list[ExpectedReply] = []

        async def read() -> list[dict[str, Any]]:
            for which, each in drawn:
                request = self.aimed(each)
                if self.is_done_at_once(request, in_memory_only):
                    heard.append(self.send_one(which, request, full, any(one.undone for one in heard)))
            return await self.harness.answers([(one.peer, one.request_id) for one in heard])

        self.harness.disk.error = ENOSPC if full else None
        replies = self.run(read())
        self.harness.disk.error = None
        for one, reply in zip(heard, replies, strict=True):
            if not (one.undone and kind_of(reply) == "not_durable"):
                one.check(reply)
        if full:
            self.model.blur()

    def send_one(self, which: int, drawn: Request, full: bool, undone: bool) -> ExpectedReply:
        """Send one request, and return its expected reply."""
        self.number += 1
        peer, caller, instance = self.sender(which, drawn)
        request = replace(drawn, number=self.number, worker_id=drawn.worker_id or caller or "w1")
        [request_id] = peer.send((METHODS[request.kind], params(request, self.model.epoch_for(request))))
        trial = deepcopy(self.model) if full else self.model
        kind, result = trial.request(request, caller, instance)
        if full and trial.changed:
            self.model.undone(trial, request)
            return ExpectedReply(request, "not_durable", None, True, peer, request_id)
        if full:
            kind, result = self.model.request(request, caller, instance)
        return ExpectedReply(request, kind, result, undone and "beat" not in request.kind, peer, request_id)

    def is_done_at_once(self, request: Request, in_memory_only: bool) -> bool:
        """Whether the request waits for no read from the store, if that matters."""
        call = self.model.calls.get(request.session_id)
        return not (in_memory_only and request.kind != "claim_next" and (call is None or call.cold))

    def aimed(self, drawn: Request) -> Request:
        """The request as drawn, but seldom for a session that does not exist: little can go wrong there."""
        calls = self.model.calls
        if drawn.session_id in calls or drawn.stray or drawn.kind == "save" or not calls:
            return drawn
        return replace(drawn, session_id=min(calls))

    def sender(self, which: int, request: Request) -> tuple[FakeClient, str, str]:
        """The sender's connection, worker id and instance."""
        lines = self.harness.lines
        if which == OWNER:
            call = self.model.calls.get(request.session_id)
            lines = [line for line in lines if call is not None and line.worker_id == call.owner]
        if not lines or which == OPERATOR:
            return self.harness.operator, "", ""
        line = lines[which % len(lines)]
        return line.peer, line.worker_id, line.instance

    # -- time ----------------------------------------------------------------------------------------------

    @rule(ticks=st.integers(1, 12))
    def time_passes(self, ticks: int) -> None:
        for _ in range(ticks):
            self.tick([])

    @rule(late_s=st.sampled_from([0.0, 0.0, TICK_S, 2 * TICK_S]), before=few, after=few, full=seldom)
    def tick_among_requests(
        self, late_s: float, before: list[tuple[int, Request]], after: list[tuple[int, Request]], full: bool
    ) -> None:
        """Requests read before the reaper's tick count; those after it may be too late."""
        self.tick(before, late_s=late_s, full=full)
        self.send(after, in_memory_only=True)
        self.check()

    def tick(self, before: list[tuple[int, Request]], *, late_s: float = 0.0, full: bool = False) -> None:
        """One tick of the reaper, perhaps with a full disk."""
        self.harness.core.clock.advance(TICK_S + late_s)
        self.model.now += TICK_S + late_s
        self.send(before, full=full, in_memory_only=True)
        self.check()
        assert full or not (overdue := [*self.model.overdue()]), overdue
        assert full or not self.model.pending, "what a full disk rolled back is tried again with the next tick"
        self.model.forget()

    @rule(
        seconds=st.sampled_from([1.0, 10.0, 3600.0]),
        waiting=few | heartbeats,
        after=few,
        silent_ticks=st.sampled_from([0, 0, 8, 14]),
    )
    def stall(
        self,
        seconds: float,
        waiting: list[tuple[int, Request]],
        after: list[tuple[int, Request]],
        silent_ticks: int,
    ) -> None:
        """The daemon stalls, then reads what has arrived meanwhile, before or after its reaper's tick."""
        self.harness.core.clock.advance(TICK_S + seconds)
        self.model.now += TICK_S
        self.model.gained += seconds
        self.send(waiting, in_memory_only=True)
        self.send(after, in_memory_only=True)
        self.check()
        for _ in range(silent_ticks):
            self.tick([])

    @rule(hours=st.sampled_from([-3, -1, 1, 3]))
    def set_the_wall_clock(self, hours: int) -> None:
        self.harness.step_wall(hours)
        if hours > 0:
            self.model.gained += hours * 3600
        else:
            self.model.lost -= hours * 3600

    @rule(down_s=st.sampled_from([0.0, 1.0, 7200.0]), meanwhile=st.lists(WHICH, max_size=2))
    def restart(self, down_s: float, meanwhile: list[int]) -> None:
        """kill -9 and a new start, with some processes exiting in between."""
        for which in meanwhile:
            if self.living:
                number = self.living[which % len(self.living)]
                self.harness.exit(self.harness.processes[number])
                self.model.dead.add(number)
        self.harness.core.clock.advance(down_s)
        self.model.gained += down_s
        self.model.restart()
        self.run(self.harness.restart())
        self.checks.restarted()
        self.check()

    @rule(ticks=st.sampled_from([0, 26]))
    def write_behind(self, ticks: int) -> None:
        """Flush everything, so that ended sessions can be evicted in time."""
        self.run(self.harness.core.writer.write_round())
        self.check()
        for _ in range(ticks):
            self.tick([])

    # -- checks -------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check events and listing against the model."""
        assert not self.loop.faults
        for event in self.harness.news():
            self.checks.observe(event)
            self.model.observe(event)
        assert not [event for event in self.model.expected if not event.get("optional")], self.model.expected
        self.model.expected.clear()
        self.model.may_recover.clear()
        rows = self.run(self.harness.listed())
        self.checks.listed(rows)
        self.note_evicted(rows)
        assert {call.session_id: shown(call) for call in self.model.calls.values() if not call.cold} == {
            session_id: listed(row) for session_id, row in rows.items()
        }
        for session_id, row in rows.items():
            call = self.model.calls[session_id]
            self.checks.version(session_id, row["version"], changed=call.touched)
            call.touched = False

    def note_evicted(self, rows: dict[str, Any]) -> None:
        """Find the calls that were evicted: ended ones whose retention is over."""
        for call in self.model.calls.values():
            if not call.cold and call.session_id not in rows:
                assert call.phase == "ended", f"{call} is live, but not in memory"
                assert call.heard + SPANS.retention_s <= self.model.now
                call.cold, call.fenced_epoch = True, None
                call.orphan, call.instance = "", ""  # the store has neither

    @invariant()
    def counts_are_recounts(self) -> None:
        if self.harness is not None:
            self.harness.check_consistency()
            suspects = {call.session_id for call in self.model.calls.values() if call.phase == "suspect"}
            assert {*self.harness.core.liveness.suspects} == suspects
