"""Workers under any order of connections, forks, deaths and time, against a small world that knows the truth.

The world has processes and the connections they hold; what happens in it is told to `Workers` later, in any order,
as a loop would. Pids come from a small pool, so they are recycled at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from callstate_client.engine.process import Process
from callstate_client.engine.workers.states import WorkerOutcome, WorkerState
from callstate_client.engine.workers.workers import Workers
from callstate_client.errors import ConflictError, ForbiddenError
from support.budget import examples

GRACE_S = 5.0
WORKERS = st.sampled_from(["v", "w", "x"])
PIDS = range(2, 6)
LEFT = (WorkerOutcome.LEFT_EXITED, WorkerOutcome.LEFT_DISCONNECTED)


@dataclass(eq=False)
class Program:
    """A process of the world; `seen`: what the kernel tells of it, None for one in another PID namespace."""

    process: Process
    seen: Process | None
    pidfd: bool
    alive: bool = True
    ids: set[str] = field(default_factory=set)


@dataclass(eq=False)
class Line:
    """A connection: who made it, who holds it, and the worker it is one of, as far as `Workers` was told."""

    maker: Program
    holders: set[Program]
    worker_id: str | None = None


@dataclass
class Known:
    """A worker that has joined and not left."""

    lines: set[Line] = field(default_factory=set)
    programs: set[Program] = field(default_factory=set)
    since: float | None = None
    """When its last connection was closed; None: it has one, or waits for no grace."""


class WorkersMachine(RuleBasedStateMachine):
    """What was true when it was said."""

    @initialize(restored=st.dictionaries(WORKERS, st.booleans(), max_size=2))
    def begin(self, restored: dict[str, bool]) -> None:
        self.now = 1000.0
        self.marks = 0
        self.workers = Workers(GRACE_S)
        self.programs: list[Program] = []
        self.lines: list[Line] = []
        self.news: list[tuple[str, Any]] = []
        self.known: dict[str, Known] = {}
        self.watching: dict[str, Program] = {}
        for worker_id, pidfd in restored.items():
            program = self.spawn(len(self.programs), pidfd=pidfd, visible=True)
            program.ids.add(worker_id)
            if self.workers.restored(worker_id, program.seen, pidfd=pidfd):
                self.watching[worker_id] = program
            self.known[worker_id] = Known(programs={program})

    # -- the world ----------------------------------------------------------------------------------------------

    def spawn(self, which: int, *, pidfd: bool, visible: bool) -> Program:
        self.marks += 1
        used = {program.process.pid for program in self.programs if program.alive}
        free = [pid for pid in PIDS if pid not in used]
        process = Process(free[which % len(free)], self.marks, "boot", self.marks)
        program = Program(process, process if visible else None, pidfd and visible)
        self.programs.append(program)
        return program

    @property
    def living(self) -> list[Program]:
        return [program for program in self.programs if program.alive]

    @precondition(lambda self: len(self.living) < len(PIDS))
    @rule(which=st.integers(0, 9), pidfd=st.booleans(), visible=st.integers(0, 4))
    def start(self, which: int, pidfd: bool, visible: int) -> None:
        self.spawn(which, pidfd=pidfd, visible=bool(visible))

    @precondition(lambda self: self.living)
    @rule(which=st.integers(0, 9))
    def connect(self, which: int) -> None:
        program = self.living[which % len(self.living)]
        self.lines.append(Line(program, {program}))

    @precondition(lambda self: self.living and len(self.living) < len(PIDS))
    @rule(which=st.integers(0, 9))
    def fork(self, which: int) -> None:
        parent = self.living[which % len(self.living)]
        child = self.spawn(which, pidfd=parent.pidfd, visible=parent.seen is not None)
        for line in self.lines:
            if parent in line.holders:
                line.holders.add(child)

    @precondition(lambda self: self.living)
    @rule(which=st.integers(0, 9))
    def kill(self, which: int) -> None:
        program = self.living[which % len(self.living)]
        program.alive = False
        self.news.extend(
            ("exit", (worker_id, program)) for worker_id, watched in self.watching.items() if watched is program
        )
        for line in [*self.lines]:
            self.let_go(line, program)

    @precondition(lambda self: self.lines)
    @rule(which=st.integers(0, 9))
    def close(self, which: int) -> None:
        line = self.lines[which % len(self.lines)]
        self.let_go(line, sorted(line.holders, key=lambda program: program.process.start_ticks)[0])

    def let_go(self, line: Line, program: Program) -> None:
        line.holders.discard(program)
        if not line.holders:
            self.lines.remove(line)
            self.news.append(("close", line))

    @rule(seconds=st.sampled_from([0.0, 1.0, 3.0, 10.0, -100.0]))
    def pass_time(self, seconds: float) -> None:
        """Below zero: a stall is taken out of the clock."""
        self.now += seconds

    def settle(self) -> None:
        """What is in the future when the clock is looked at was before a step back: it counts from now."""
        for known in self.known.values():
            if known.since is not None:
                known.since = min(known.since, self.now)

    # -- what is told ---------------------------------------------------------------------------------------------

    @precondition(lambda self: self.lines)
    @rule(which=st.integers(0, 9), worker_id=WORKERS)
    def register(self, which: int, worker_id: str) -> None:
        line = self.lines[which % len(self.lines)]
        maker = line.maker
        before = self.known.get(worker_id)
        process = self.workers.process_of(worker_id)
        exited = self.workers.state(worker_id) is WorkerState.EXITED
        try:
            done = self.workers.register(worker_id, line, maker.seen, pidfd=maker.pidfd)
        except ForbiddenError:
            assert line.worker_id not in (None, worker_id)
            return
        except ConflictError:
            assert before is not None
            assert process is not None
            assert process.pid != maker.process.pid, "one pid, and both of them alive?"
            assert not exited
            assert before.lines or worker_id in self.watching
            return
        assert line.worker_id in (None, worker_id)
        if done.replaced in LEFT:
            self.left(worker_id, done.replaced, process)
        assert done.joined is (worker_id not in self.known or self.only_restored(worker_id))
        known = self.known.setdefault(worker_id, Known())
        known.lines.add(line)
        known.programs.add(maker)
        known.since = None
        line.worker_id = worker_id
        maker.ids.add(worker_id)
        if done.watch:
            assert maker.pidfd
            self.watching[worker_id] = maker
            if not maker.alive:
                self.news.append(("exit", (worker_id, maker)))

    def only_restored(self, worker_id: str) -> bool:
        known = self.known[worker_id]
        return not known.lines and known.since is None

    @precondition(lambda self: self.news)
    @rule(which=st.integers(0, 9))
    def tell(self, which: int) -> None:
        kind, what = self.news.pop(which % len(self.news))
        if kind == "exit":
            worker_id, program = what
            process = self.workers.process_of(worker_id)
            self.outcome(worker_id, self.workers.exited(worker_id, program.process), process)
            return
        line: Line = what
        worker_id = line.worker_id
        process = None if worker_id is None else self.workers.process_of(worker_id)
        known = self.known.get(worker_id or "")
        if known is not None and line in known.lines:
            known.lines.discard(line)
            if not known.lines:
                self.settle()
                known.since = self.now
        self.outcome(worker_id or "", self.workers.closed(line, self.now), process)

    def outcome(self, worker_id: str, outcome: WorkerOutcome, process: Process | None) -> None:
        if outcome in LEFT:
            assert outcome is WorkerOutcome.LEFT_EXITED, "only time and a successor say that one is disconnected"
            assert not self.known[worker_id].lines, "left with a connection open"
            self.left(worker_id, outcome, process)

    @rule()
    def tick(self) -> None:
        self.settle()
        for worker_id in self.workers.due(self.now):
            known = self.known[worker_id]
            assert not known.lines
            assert known.since is not None
            assert known.since + GRACE_S <= self.now
            self.left(worker_id, WorkerOutcome.LEFT_DISCONNECTED, None)
        late = [
            worker_id
            for worker_id, known in self.known.items()
            if known.since is not None and known.since + GRACE_S <= self.now
        ]
        assert not late

    @rule(worker_id=WORKERS)
    def idle(self, worker_id: str) -> None:
        restored = worker_id in self.known and self.only_restored(worker_id)
        assert self.workers.idle(worker_id) is restored
        if restored:
            self.forget(worker_id)

    def left(self, worker_id: str, outcome: WorkerOutcome, process: Process | None) -> None:
        if outcome is WorkerOutcome.LEFT_EXITED:
            assert process is not None
            dead = [program for program in self.programs if program.process == process]
            assert not dead[0].alive, "said to have exited, and lives"
        self.forget(worker_id)

    def forget(self, worker_id: str) -> None:
        for line in self.known.pop(worker_id).lines:
            line.worker_id = None
        self.watching.pop(worker_id, None)

    # -- what holds all the time ----------------------------------------------------------------------------------

    @invariant()
    def who_is_known(self) -> None:
        assert len(self.workers) == len(self.known)
        for worker_id, known in self.known.items():
            assert self.workers.is_connected(worker_id) is bool(known.lines)
            assert all(self.workers.worker_of(line) == worker_id for line in known.lines)
        assert all(self.workers.worker_of(line) == line.worker_id for line in self.lines)

    @invariant()
    def never_two_processes_with_one_id(self) -> None:
        """Of those that can be told apart, and have but one id."""
        for known in self.known.values():
            makers = {line.maker for line in known.lines}
            apart = [maker for maker in makers if maker.seen is not None and len(maker.ids) == 1 and maker.alive]
            assert len(apart) <= 1

    def teardown(self) -> None:
        """Everybody dies, everything is told, time passes: nothing is left."""
        if not hasattr(self, "workers"):
            return
        for program in self.living:
            for line in [*self.lines]:
                self.let_go(line, program)
        while self.news:
            self.tell(0)
        self.tick()
        self.now += GRACE_S
        self.tick()
        for worker_id in [*self.known]:
            self.idle(worker_id)
        assert not any(content for content in vars(self.workers).values() if isinstance(content, dict))


TestWorkers = WorkersMachine.TestCase
TestWorkers.settings = settings(max_examples=examples(100), stateful_step_count=40)
