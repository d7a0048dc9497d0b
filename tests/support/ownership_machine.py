"""A machine of all that happens to calls and workers: the whole core, its reaper running, beside the model.

Workers register, reconnect, hang up, die and come back under their old id. They and an unregistered connection
beat, change, end, delete, claim and release. Time passes, stalls, and is set. The daemon is killed and started
again, the disk fills up. Nothing is waited for: the loop runs by the same clock as the daemon.
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

from support.core import Peer
from support.floor import Program
from support.ownership_asks import METHODS, OPERATOR, OWNER, SPEAKERS, Heard, asked, beaten, kind_of, params
from support.ownership_fates import OPEN
from support.ownership_ledger import Ledger, listed, shown
from support.ownership_model import Ask, Model
from support.ownership_world import SPANS, TICK_S, World, WorldLoop

WORKERS = st.sampled_from(["w1", "w2", "w3"])
WHICH = st.integers(0, 5)
said = st.lists(asked, min_size=1, max_size=4)
some_said = st.lists(asked, max_size=3)
seldom = st.sampled_from([False] * 7 + [True])
ENOSPC = OSError(errno.ENOSPC, "No space left on device")


class OwnershipMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        logging.getLogger("callstate_sidecar").setLevel(logging.CRITICAL)  # stalls and full disks are told of
        self.loop = WorldLoop()
        self.directory = Path(tempfile.mkdtemp(prefix="cs-"))
        self.world: World | None = None
        self.model = Model()
        self.ledger = Ledger()
        self.number = 0

    def teardown(self) -> None:
        logging.getLogger("callstate_sidecar").setLevel(logging.NOTSET)
        if self.world is not None:
            self.world.check_replay()
            self.run(self.world.close())
        self.loop.close()
        shutil.rmtree(self.directory)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @initialize(workers=st.lists(WORKERS, max_size=3, unique=True), first=st.lists(SPEAKERS, max_size=3))
    def begin(self, workers: list[str], first: list[int]) -> None:
        async def start() -> None:
            self.world = World(self.directory, self.loop)
            await self.world.settle()

        self.run(start())
        for worker_id in workers:
            self.join(worker_id, False)
        self.hear([(which, Ask("save", session_id)) for which, session_id in zip(first, "abc", strict=False)])
        self.look()

    # -- workers -------------------------------------------------------------------------------------------

    @rule(worker_id=WORKERS, same=st.booleans(), instance=st.sampled_from(["", "i1", "i2"]))
    def join(self, worker_id: str, same: bool, instance: str = "") -> None:
        """A connection of a new process, or of the one that has this id, is registered."""
        world = self.world
        number = self.model.known.get(worker_id)
        if not same or number is None or number in self.model.dead:
            world.program()
            number = len(world.programs) - 1
        line = self.run(world.line(worker_id, world.programs[number], instance))
        kind = self.model.register(id(line), worker_id, number, instance)
        about = {"worker_id": worker_id} | ({"instance": instance} if instance else {})
        [reply] = self.run(world.replies(line.peer, ("worker.register", about)))
        assert kind_of(reply) == kind, (reply, kind)
        if kind:
            self.run(world.hung_up(line.peer))
        else:
            world.lines.append(line)
        world.drop_closed()
        self.look()

    @precondition(lambda self: self.world.lines)
    @rule(which=WHICH)
    def hang_up(self, which: int) -> None:
        line = self.world.lines.pop(which % len(self.world.lines))
        self.model.hung_up(id(line), line.worker_id)
        self.run(self.world.hung_up(line.peer))
        self.look()

    @precondition(lambda self: self.living)
    @rule(which=WHICH, closes=st.sampled_from(["no", "all", "all"]))
    def exit(self, which: int, closes: str) -> None:
        """A process exits; a child may hold its connections, or what it sent last is still unread."""
        number = self.living[which % len(self.living)]
        program: Program = self.world.programs[number]
        self.world.exit(program)
        self.model.exited(number)
        self.run(self.world.settle())
        if closes == "all":
            for line in [line for line in self.world.lines if line.program == number]:
                self.world.lines.remove(line)
                self.model.hung_up(id(line), line.worker_id)
                self.run(self.world.hung_up(line.peer))
        self.look()

    @property
    def living(self) -> list[int]:
        return [number for number in range(len(self.world.programs)) if number not in self.model.dead]

    # -- requests ------------------------------------------------------------------------------------------

    @rule(said=said)
    def turn_of_the_loop(self, said: list[tuple[int, Ask]]) -> None:
        self.hear(said)
        self.look()

    @rule(said=said)
    def turn_with_a_full_disk(self, said: list[tuple[int, Ask]]) -> None:
        """Changes are undone and not told; what changes nothing is answered as if they had never been asked for."""
        self.hear(said, full=True)
        self.look()

    @rule(said=said, over=st.sampled_from([True, True, False]))
    def drain(self, said: list[tuple[int, Ask]], over: bool) -> None:
        self.hear([(OPERATOR, Ask("drain", steal=True))])
        self.hear(said)
        if over:
            self.hear([(OPERATOR, Ask("drain", steal=False))])
        self.look()

    @rule(worker_id=WORKERS, successor=WORKERS)
    def give_up(self, worker_id: str, successor: str) -> None:
        """A worker that stops lets go of all it has; another one takes the first of it."""
        owned = [call.session_id for call in self.model.calls.values() if call.owner == worker_id]
        self.hear([(OWNER, Ask("release", session_id)) for session_id in owned])
        self.hear([(OPERATOR, Ask("claim_next", worker_id=successor))])
        self.look()

    @rule(kind=st.sampled_from(["beat", "beats", "turn", "update", "save"]), ticks=st.sampled_from([4, 9, 16]))
    def only_an_operator_speaks(self, kind: str, ticks: int) -> None:
        """What it says of another's call is taken; whose owner is here and says nothing is dead all the same."""
        for _ in range(ticks):
            self.tick([(OPERATOR, Ask(kind, session_id)) for session_id in self.model.calls])

    def hear(self, said: Sequence[tuple[int, Ask]], *, full: bool = False, hot_only: bool = False) -> None:
        """All of this is read in one turn of the loop, and answered.

        Args:
            said: who asks for what.
            full: the disk is full.
            hot_only: leave out what has to ask the store first, and so is not done at once.
        """
        heard: list[Heard] = []

        async def read() -> list[dict[str, Any]]:
            for which, drawn in said:
                ask = self.meant(drawn)
                if self.may_ask(ask, hot_only) and not (full and self.is_enough(heard)):
                    heard.append(self.read(which, ask, full, any(one.undone for one in heard)))
            return await self.world.answers([(one.peer, one.request_id) for one in heard])

        self.world.disk.error = ENOSPC if full else None
        replies = self.run(read())
        self.world.disk.error = None
        for one, reply in zip(heard, replies, strict=True):
            if not (one.undone and kind_of(reply) == "not_durable"):
                one.check(reply)
        if full:
            self.model.blur()
            if "undone-order" in OPEN:
                core = self.world.core
                self.model.reorder([*core.cache.index.orphans, *core.liveness.suspects])

    def read(self, which: int, drawn: Ask, full: bool, undone: bool) -> Heard:
        """One line arrives; what its answer has to be."""
        self.number += 1
        peer, caller, instance = self.speaker(which, drawn)
        ask = replace(drawn, number=self.number, worker_id=drawn.worker_id or caller or "w1")
        [request_id] = peer.send((METHODS[ask.kind], params(ask, self.model.epoch_for(ask))))
        trial = deepcopy(self.model) if full else self.model
        kind, result = trial.ask(ask, caller, instance)
        if full and trial.changed:
            self.model.undone(trial, ask)
            return Heard(ask, "not_durable", None, True, peer, request_id)
        if full:
            kind, result = self.model.ask(ask, caller, instance)
        return Heard(ask, kind, result, undone and "beat" not in ask.kind, peer, request_id)

    def is_enough(self, heard: list[Heard]) -> bool:
        """With the disk full: behind a change that is undone nothing else is asked."""
        return "behind-undone" in OPEN and any(one.undone for one in heard)

    def may_ask(self, ask: Ask, hot_only: bool) -> bool:
        """Whether it is done at once, where that matters."""
        call = self.model.calls.get(ask.session_id)
        return not (hot_only and ask.kind != "claim_next" and (call is None or call.cold))

    def meant(self, drawn: Ask) -> Ask:
        """As drawn, but seldom of a session that is not there: there is little to say of those."""
        calls = self.model.calls
        if drawn.session_id in calls or drawn.stray or drawn.kind == "save" or not calls:
            return drawn
        return replace(drawn, session_id=min(calls))

    def speaker(self, which: int, ask: Ask) -> tuple[Peer, str, str]:
        """A connection, the worker it is of, and which instance of that."""
        lines = self.world.lines
        if which == OWNER:
            call = self.model.calls.get(ask.session_id)
            lines = [line for line in lines if call is not None and line.worker_id == call.owner]
        if not lines or which == OPERATOR:
            return self.world.operator, "", ""
        line = lines[which % len(lines)]
        return line.peer, line.worker_id, line.instance

    # -- time ----------------------------------------------------------------------------------------------

    @rule(ticks=st.integers(1, 12))
    def time_passes(self, ticks: int) -> None:
        for _ in range(ticks):
            self.tick([])

    @rule(late_s=st.sampled_from([0.0, 0.0, TICK_S, 2 * TICK_S]), before=some_said, after=some_said, full=seldom)
    def tick_while_asked(
        self, late_s: float, before: list[tuple[int, Ask]], after: list[tuple[int, Ask]], full: bool
    ) -> None:
        """What is read before the reaper looks counts; what is read behind that may come too late."""
        self.tick(before, late_s=late_s, full=full)
        self.hear(after, hot_only=True)
        self.look()

    def tick(self, before: list[tuple[int, Ask]], *, late_s: float = 0.0, full: bool = False) -> None:
        """The reaper looks, with the disk full perhaps."""
        self.world.core.clock.advance(TICK_S + late_s)
        self.model.now += TICK_S + late_s
        self.hear(before, full=full, hot_only=True)
        self.look()
        assert full or not (overdue := [*self.model.overdue()]), overdue
        assert full or not self.model.pending, "what a full disk has undone is tried again with the next tick"
        self.model.forget()

    @rule(
        seconds=st.sampled_from([1.0, 10.0, 3600.0]),
        waiting=some_said | beaten,
        after=some_said,
        silent_ticks=st.sampled_from([0, 0, 8, 14]),
    )
    def stall(
        self, seconds: float, waiting: list[tuple[int, Ask]], after: list[tuple[int, Ask]], silent_ticks: int
    ) -> None:
        """The daemon stands still, and reads what has come in before the reaper is back, or behind that."""
        self.world.core.clock.advance(TICK_S + seconds)
        self.model.now += TICK_S
        self.model.gained += seconds
        self.hear(waiting, hot_only=True)
        self.hear(after, hot_only=True)
        self.look()
        for _ in range(silent_ticks):
            self.tick([])

    @rule(hours=st.sampled_from([-3, -1, 1, 3]))
    def set_the_wall_clock(self, hours: int) -> None:
        self.world.step_wall(hours)
        if hours > 0:
            self.model.gained += hours * 3600
        else:
            self.model.lost -= hours * 3600

    @rule(down_s=st.sampled_from([0.0, 1.0, 7200.0]), meanwhile=st.lists(WHICH, max_size=2))
    def restart(self, down_s: float, meanwhile: list[int]) -> None:
        """kill -9 and a new start, some processes having exited in between."""
        for which in meanwhile:
            if self.living:
                number = self.living[which % len(self.living)]
                self.world.exit(self.world.programs[number])
                self.model.dead.add(number)
        self.world.core.clock.advance(down_s)
        self.model.gained += down_s
        self.model.restart()
        self.run(self.world.restart())
        self.ledger.restarted()
        self.look()

    @rule(ticks=st.sampled_from([0, 26]))
    def write_behind(self, ticks: int) -> None:
        """The store has all of it, so what has ended may leave the memory in time."""
        self.run(self.world.core.writer._round())
        self.look()
        for _ in range(ticks):
            self.tick([])

    # -- what holds all the time ---------------------------------------------------------------------------

    def look(self) -> None:
        """What was told and what is there is what was foretold, or what time has done."""
        assert not self.loop.faults
        for event in self.world.news():
            self.ledger.told(event)
            self.model.told(event)
        assert not [event for event in self.model.expected if not event.get("optional")], self.model.expected
        self.model.expected.clear()
        self.model.may_recover.clear()
        rows = self.run(self.world.listed())
        self.ledger.listed(rows)
        self.cool(rows)
        assert {call.session_id: shown(call) for call in self.model.calls.values() if not call.cold} == {
            session_id: listed(row) for session_id, row in rows.items()
        }
        for session_id, row in rows.items():
            call = self.model.calls[session_id]
            self.ledger.version(session_id, row["version"], changed=call.touched)
            call.touched = False

    def cool(self, rows: dict[str, Any]) -> None:
        """Ended calls leave the memory when their retention is over, and not before."""
        for call in self.model.calls.values():
            if not call.cold and call.session_id not in rows:
                assert call.phase == "ended", f"{call} is live, and not in memory"
                assert call.heard + SPANS.retention_s <= self.model.now
                call.cold, call.fenced_epoch = True, None
                call.orphan, call.instance = "", ""  # the store knows of neither

    @invariant()
    def counts_are_recounts(self) -> None:
        if self.world is not None:
            self.world.check()
            suspects = {call.session_id for call in self.model.calls.values() if call.phase == "suspect"}
            assert {*self.world.core.liveness.suspects} == suspects
