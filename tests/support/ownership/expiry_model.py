"""How calls and workers change with time, by docs/protocol.md: written from the text, not from the code.

The model does not predict when something expires. The daemon reports it by an event, and the model checks that it
was possible by then, and after each tick of the reaper that nothing is overdue. `heard` is the last sign of life
that certainly counts: nothing may expire before its time span has passed since then. `spoken` is the last that may
count: everything must have expired once the span has passed since then. They differ only where the contract leaves
it open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal


@dataclass(frozen=True)
class Spans:
    """The daemon's time spans, `reaper.*` of its configuration; seconds."""

    heartbeat_timeout_s: float
    grace_s: float
    reconnect_grace_s: float
    retention_s: float


SPANS: Final = Spans(heartbeat_timeout_s=2.0, grace_s=1.5, reconnect_grace_s=0.75, retention_s=6.0)
"""Multiples of a quarter of a second, which floats represent exactly: no deadline is missed by a rounding error."""

SILENT, EXITED, OVERTIME = "heartbeat_timeout", "worker_exited", "max_duration"
EPSILON_S = 1e-6
"""The daemon computes ages in microseconds."""
UNRELATED = frozenset({"journal.full", "journal.ok", "store.up", "store.down"})
"""Types of events that do not concern sessions or workers."""


@dataclass
class Call:
    """A session that exists, in memory or in the store."""

    session_id: str
    owner: str
    epoch: int
    born: float
    gained: float
    lost: float
    heard: float = 0.0
    spoken: float = 0.0
    instance: str = ""
    """The instance of its owner that holds it; empty if it gave none."""
    phase: Literal["live", "suspect", "ended"] = "live"
    status: str = "active"
    orphan: str = ""
    suspected: str = ""
    place: int = 0
    """Its place in the order in which calls lose their owners or are suspected."""
    reaped: bool = False
    status_before: str = ""
    ended_reason: str = ""
    timeout_s: float | None = None
    known_s: float | None = None
    """The timeout that its owner last learned, while another one is in force."""
    max_s: float | None = None
    to: str = ""
    turns: int = 0
    interruptions: int = 0
    fenced_epoch: int | None = None
    cold: bool = False
    """Whether it is in the store alone."""
    touched: bool = True
    """Whether it changed since the last check."""

    def in_force_s(self) -> float:
        """The heartbeat timeout in force."""
        return SPANS.heartbeat_timeout_s if self.timeout_s is None else self.timeout_s

    def span_s(self) -> float:
        """How long it may be silent in its phase."""
        if self.phase == "live":
            return max(self.in_force_s(), self.known_s or 0.0)
        return SPANS.grace_s if self.phase == "suspect" else SPANS.retention_s


@dataclass
class Worker:
    """A worker that has joined, or was restored by a restart, and has not left."""

    program: int | None
    lines: set[int] = field(default_factory=set)
    away: float | None = None
    restored: bool = False


class ExpiryModel:
    """Calls and workers over time; `now` is the time for which the daemon has run."""

    def __init__(self) -> None:
        self.now = 0.0
        self.gained = 0.0
        """Seconds that the wall clock has gained on the daemon's time, by stalls and steps forward."""
        self.lost = 0.0
        """Seconds that it has lost, by steps back."""
        self.calls: dict[str, Call] = {}
        self.tombstones: dict[str, int] = {}
        self.workers: dict[str, Worker] = {}
        self.known: dict[str, int] = {}
        self.dead: set[int] = set()
        self.pending: dict[str, str] = {}
        """Calls whose owner has left, and why: soon suspects or orphans, and claimable at once."""
        self.expected: list[dict[str, Any]] = []
        self.may_recover: set[str] = set()
        """Suspects of which a change was rolled back: it may or may not count as a sign of life."""
        self.draining = False
        self.changed = False
        self.places = 0
        self.caller = ""
        self.instance = ""
        self.instances: dict[int, str] = {}
        """The instance that each connection gave when it registered."""

    # -- a call --------------------------------------------------------------------------------------------

    def touch(self, call: Call) -> None:
        """The call changes, so it is in memory."""
        call.touched = self.changed = True
        call.cold = False

    def alive(self, call: Call) -> None:
        """The call is live, with its full timeout."""
        call.phase, call.suspected = "live", ""
        call.heard = call.spoken = self.now

    def over(self, call: Call, reason: str) -> None:
        self.pending.pop(call.session_id, None)
        call.status_before, call.status, call.phase = call.status, "ended", "ended"
        call.suspected, call.ended_reason = "", reason
        call.heard = call.spoken = self.now

    def forsake(self, call: Call, why: str) -> None:
        self.pending.pop(call.session_id, None)
        call.owner, call.instance, call.orphan, call.known_s = "", "", why, None
        self.places += 1
        call.place = self.places
        self.alive(call)
        self.touch(call)

    # -- workers -------------------------------------------------------------------------------------------

    def register(self, line: int, worker_id: str, program: int, instance: str) -> str:
        """The kind of error that a registration must get, or none."""
        self.instances[line] = instance
        worker = self.workers.get(worker_id)
        if worker is not None and worker.program not in (None, program):
            if worker.program not in self.dead:
                return "conflict"
            self.left(worker_id, "exited")
            worker = None
        if worker is None or worker.restored:
            self.expected.append({"type": "worker.joined", "worker_id": worker_id})
        worker = self.workers.setdefault(worker_id, Worker(program))
        worker.program, worker.away, worker.restored = program, None, False
        worker.lines.add(line)
        self.known[worker_id] = program
        return ""

    def hung_up(self, line: int, worker_id: str) -> None:
        worker = self.workers.get(worker_id)
        if worker is None or line not in worker.lines:
            return  # another process has taken the id
        worker.lines.discard(line)
        if not worker.lines and worker.program in self.dead:
            self.left(worker_id, "exited")
        elif not worker.lines:
            worker.away = self.now

    def exited(self, program: int) -> None:
        self.dead.add(program)
        for worker_id, worker in [*self.workers.items()]:
            if worker.program == program and not worker.lines:
                self.left(worker_id, "exited")

    def left(self, worker_id: str, reason: str, *, reported: bool = False) -> None:
        del self.workers[worker_id]
        if not reported:
            self.expected.append({"type": "worker.left", "worker_id": worker_id, "reason": reason})
        for call in self.calls.values():
            if call.owner != worker_id or call.phase == "ended":
                continue
            if reason == "exited" and call.phase == "suspect":
                if call.suspected != EXITED:
                    self.expect("suspect", call, reason=EXITED, evidence="process_exited")
                call.suspected = EXITED
            else:
                self.pending[call.session_id] = EXITED if reason == "exited" else reason

    def restart(self) -> None:
        """No worker is connected, each call has its full timeout, and exited processes are found."""
        self.workers, self.draining, self.pending = {}, False, {}
        for call in self.calls.values():
            call.fenced_epoch = call.known_s = None
            if call.phase != "ended":
                self.alive(call)
            call.heard = call.spoken = self.now
        owners = {call.owner for call in self.calls.values() if call.owner and not call.cold}
        self.known = {worker_id: program for worker_id, program in self.known.items() if worker_id in owners}
        for worker_id in sorted(owners):
            program = self.known.get(worker_id)
            self.workers[worker_id] = Worker(program, restored=True)
            if program in self.dead:
                self.left(worker_id, "exited")

    # -- events --------------------------------------------------------------------------------------------

    def expect(
        self, type_: str, call: Call, *, owner: str | None = None, optional: bool = False, **more: str
    ) -> None:
        event: dict[str, Any] = {"type": type_, "session_id": call.session_id, "epoch": call.epoch}
        event |= {name: text for name, text in more.items() if text}
        owner = call.owner if owner is None else owner
        self.expected.append(event | ({"owner": owner} if owner else {}) | ({"optional": True} if optional else {}))

    def observe(self, event: dict[str, Any]) -> None:
        """Check an event: it was expected, or time may have caused it by now."""
        event = {name: value for name, value in event.items() if name not in ("stream", "seq", "at", "deadline")}
        if event["type"] in UNRELATED:
            return
        about = [expected for expected in self.expected if key(expected) == key(event)]
        for expected in about:
            if expected == event | {"optional": True}:
                # a request that runs again may report it again, and may not if the call is in memory meanwhile
                self.expected = [other for other in self.expected if other != event]
                return
            if expected == event:
                self.expected.remove(expected)
                return
            if "optional" not in expected:
                break
        verb = {
            "recovered": self.recovered,
            "suspect": self.suspect,
            "expired": self.expired,
            "orphaned": self.orphaned,
            "worker.left": self.worker_left,
        }
        assert event["type"] in verb, (event, about)
        verb[event["type"]](event)

    def suspect(self, event: dict[str, Any]) -> None:
        call = self.find_concerned(event)
        assert call.phase == "live", event
        if event["reason"] == EXITED:
            assert event["evidence"] == "process_exited"
            assert self.pending.pop(call.session_id, "") == EXITED, f"its owner has not exited: {event}"
        else:
            assert (event["reason"], event["evidence"]) == (SILENT, "silence")
            assert call.heard + call.span_s() <= self.now + EPSILON_S, f"suspected too early: {event}"
        self.places += 1
        call.phase, call.suspected, call.place = (
            "suspect",
            event["reason"],
            call.place if call.orphan else self.places,
        )
        call.heard = call.spoken = self.now

    def recovered(self, event: dict[str, Any]) -> None:
        call = self.find_concerned(event)
        assert call.session_id in self.may_recover, f"recovered without a sign of life: {event}"
        assert call.phase == "suspect"
        assert "reason" not in event
        self.alive(call)

    def expired(self, event: dict[str, Any]) -> None:
        call = self.find_concerned(event)
        assert call.phase != "ended", f"ended twice: {event}"
        if event["reason"] == OVERTIME:
            assert self.limit(call, early=True) <= self.now + EPSILON_S, (
                f"ended before its maximal duration: {event}"
            )
        else:
            assert call.phase == "suspect", f"expired without a suspicion: {event}"
            assert event["reason"] == call.suspected
            assert call.heard + call.span_s() <= self.now + EPSILON_S, f"expired within the grace period: {event}"
        self.over(call, event["reason"])
        call.reaped = call.touched = True

    def orphaned(self, event: dict[str, Any]) -> None:
        call = self.calls[event["session_id"]]
        assert (event["owner"], event["epoch"], event["reason"]) == (call.owner, call.epoch, "disconnected")
        assert self.pending.pop(call.session_id, "") == "disconnected", f"its owner has not left: {event}"
        self.forsake(call, "disconnected")

    def worker_left(self, event: dict[str, Any]) -> None:
        worker = self.workers[event["worker_id"]]
        assert event["reason"] == "disconnected", event
        assert worker.away is not None, event
        assert worker.away + SPANS.reconnect_grace_s <= self.now, f"left within the grace period: {event}"
        self.left(event["worker_id"], "disconnected", reported=True)

    def find_concerned(self, event: dict[str, Any]) -> Call:
        call = self.calls[event["session_id"]]
        assert (event.get("owner", ""), event["epoch"]) == (call.owner, call.epoch), event
        return call

    # -- time ----------------------------------------------------------------------------------------------

    def limit(self, call: Call, *, early: bool) -> float:
        """When its maximal duration is over: the wall clock and the daemon's time give the earliest and latest."""
        if call.max_s is None:
            return float("inf")
        skew = call.gained - self.gained if early else self.lost - call.lost
        return call.born + call.max_s + skew

    def overdue(self) -> Iterator[str]:
        """What the reaper should have ended or suspected by now."""
        for call in self.calls.values():
            if call.phase != "ended" and call.spoken + call.span_s() <= self.now - EPSILON_S:
                yield f"{call.session_id} is {call.phase}, and has been silent too long"
            if call.phase != "ended" and self.limit(call, early=False) <= self.now - EPSILON_S:
                yield f"{call.session_id} is past its maximal duration"
        for worker_id, worker in self.workers.items():
            if worker.away is not None and worker.away + SPANS.reconnect_grace_s <= self.now:
                yield f"{worker_id} has not reconnected in time"

    def blur(self) -> None:
        """A group was rolled back: its requests may or may not count as signs of life."""
        for call in self.calls.values():
            call.spoken = self.now

    def forget(self) -> None:
        """After a tick of the reaper nothing is kept of workers that are not connected and own nothing."""
        owners = {call.owner for call in self.calls.values() if not call.cold}
        for worker_id, worker in [*self.workers.items()]:
            if worker.restored and worker_id not in owners:
                del self.workers[worker_id]
        for worker_id in [*self.known]:
            if worker_id not in self.workers and worker_id not in owners:
                del self.known[worker_id]


def key(event: dict[str, Any]) -> tuple[str, str]:
    """The session or worker that an event concerns."""
    if "session_id" in event:
        return "session", event["session_id"]
    return "worker", event.get("worker_id", "")
