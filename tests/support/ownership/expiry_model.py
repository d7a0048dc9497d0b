"""Calls and workers as time has them, by docs/protocol.md: written from the text, and not from the code.

What time does is not foretold. The daemon says so by an event, and the model says whether it might by then, and
after each look of the reaper whether it ought to have. `heard` is the last sign of life that counts for certain:
nobody may be judged before its span is over from then on. `spoken` is the last that may count: everybody must be by
then. They differ only where the contract leaves it open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal


@dataclass(frozen=True)
class Spans:
    """The daemon's spans, `reaper.*` of its configuration; seconds."""

    heartbeat_timeout_s: float
    grace_s: float
    reconnect_grace_s: float
    retention_s: float


SPANS: Final = Spans(heartbeat_timeout_s=2.0, grace_s=1.5, reconnect_grace_s=0.75, retention_s=6.0)
"""All of it in quarters of a second, which floats hold exactly: a deadline is met or is not, never by a hair."""

SILENT, EXITED, OVERTIME = "heartbeat_timeout", "worker_exited", "max_duration"
EPSILON_S = 1e-6
"""Ages are of microseconds."""
UNTOLD = frozenset({"journal.full", "journal.ok", "store.up", "store.down"})
"""Events that say nothing of sessions and workers."""


@dataclass
class Call:
    """A session that was created and not deleted since."""

    session_id: str
    owner: str
    epoch: int
    born: float
    gained: float
    lost: float
    heard: float = 0.0
    spoken: float = 0.0
    instance: str = ""
    """Of its owner, that holds it; empty where it did not say."""
    phase: Literal["live", "suspect", "ended"] = "live"
    status: str = "active"
    orphan: str = ""
    suspected: str = ""
    place: int = 0
    """Raised from one that loses its owner, or is suspected, to the next."""
    reaped: bool = False
    status_before: str = ""
    ended_reason: str = ""
    timeout_s: float | None = None
    known_s: float | None = None
    """What its owner goes by, while somebody else has changed it and it was not told."""
    max_s: float | None = None
    to: str = ""
    turns: int = 0
    interruptions: int = 0
    fenced_epoch: int | None = None
    cold: bool = False
    """Only the store has it."""
    touched: bool = True
    """Changed since the last look."""

    def in_force_s(self) -> float:
        """The timeout that it has."""
        return SPANS.heartbeat_timeout_s if self.timeout_s is None else self.timeout_s

    def span_s(self) -> float:
        """How long it may be silent in its phase."""
        if self.phase == "live":
            return max(self.in_force_s(), self.known_s or 0.0)
        return SPANS.grace_s if self.phase == "suspect" else SPANS.retention_s


@dataclass
class Worker:
    """A worker that has joined, or is remembered from before a restart, and has not left."""

    program: int | None
    lines: set[int] = field(default_factory=set)
    away: float | None = None
    restored: bool = False


class ExpiryModel:
    """What becomes of calls and workers; `now` is the daemon's own running time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.gained = 0.0
        """Seconds by which the wall clock has gone more than the daemon has run: stalls, and steps forward."""
        self.lost = 0.0
        """And fewer: steps back."""
        self.calls: dict[str, Call] = {}
        self.tombstones: dict[str, int] = {}
        self.workers: dict[str, Worker] = {}
        self.known: dict[str, int] = {}
        self.dead: set[int] = set()
        self.pending: dict[str, str] = {}
        """Calls whose owner has left, and why: soon they are suspects, or orphans. Claimable they are at once."""
        self.expected: list[dict[str, Any]] = []
        self.may_recover: set[str] = set()
        """Suspects that a change was undone of: left open is whether it was a sign of life all the same."""
        self.draining = False
        self.changed = False
        self.places = 0
        self.caller = ""
        self.instance = ""
        self.instances: dict[int, str] = {}
        """Of each connection, what it said when it registered."""

    # -- a call --------------------------------------------------------------------------------------------

    def touch(self, call: Call) -> None:
        """It is changed, so it is in memory."""
        call.touched = self.changed = True
        call.cold = False

    def alive(self, call: Call) -> None:
        """It has its full time."""
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

    def left(self, worker_id: str, reason: str, *, told: bool = False) -> None:
        del self.workers[worker_id]
        if not told:
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
        """Nobody is connected, everybody has a full timeout, and the dead are looked for."""
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

    def told(self, event: dict[str, Any]) -> None:
        """An event: foretold, or what time has done, and might do by now."""
        said = {name: value for name, value in event.items() if name not in ("stream", "seq", "at", "deadline")}
        if said["type"] in UNTOLD:
            return
        about = [expected for expected in self.expected if key(expected) == key(said)]
        for expected in about:
            if expected == said | {"optional": True}:
                # perhaps told again where a request is answered again, and perhaps not where it has become hot
                self.expected = [other for other in self.expected if other != said]
                return
            if expected == said:
                self.expected.remove(expected)
                return
            if "optional" not in expected:
                break
        verb = {
            "recovered": self.recovered,
            "suspect": self.suspect,
            "expired": self.expired,
            "orphaned": self.orphaned,
            "worker.left": self.gone,
        }
        assert said["type"] in verb, (said, about)
        verb[said["type"]](said)

    def suspect(self, said: dict[str, Any]) -> None:
        call = self.concerned(said)
        assert call.phase == "live", said
        if said["reason"] == EXITED:
            assert said["evidence"] == "process_exited"
            assert self.pending.pop(call.session_id, "") == EXITED, f"its owner has not exited: {said}"
        else:
            assert (said["reason"], said["evidence"]) == (SILENT, "silence")
            assert call.heard + call.span_s() <= self.now + EPSILON_S, f"suspected while it lives: {said}"
        self.places += 1
        call.phase, call.suspected, call.place = (
            "suspect",
            said["reason"],
            call.place if call.orphan else self.places,
        )
        call.heard = call.spoken = self.now

    def recovered(self, said: dict[str, Any]) -> None:
        call = self.concerned(said)
        assert call.session_id in self.may_recover, f"nothing has shown that it lives: {said}"
        assert call.phase == "suspect"
        assert "reason" not in said
        self.alive(call)

    def expired(self, said: dict[str, Any]) -> None:
        call = self.concerned(said)
        assert call.phase != "ended", f"ended twice: {said}"
        if said["reason"] == OVERTIME:
            assert self.limit(call, early=True) <= self.now + EPSILON_S, f"ended before its time: {said}"
        else:
            assert call.phase == "suspect", f"ended, and was never suspected: {said}"
            assert said["reason"] == call.suspected
            assert call.heard + call.span_s() <= self.now + EPSILON_S, f"ended within its grace: {said}"
        self.over(call, said["reason"])
        call.reaped = call.touched = True

    def orphaned(self, said: dict[str, Any]) -> None:
        call = self.calls[said["session_id"]]
        assert (said["owner"], said["epoch"], said["reason"]) == (call.owner, call.epoch, "disconnected")
        assert self.pending.pop(call.session_id, "") == "disconnected", f"its owner has not left: {said}"
        self.forsake(call, "disconnected")

    def gone(self, said: dict[str, Any]) -> None:
        worker = self.workers[said["worker_id"]]
        assert said["reason"] == "disconnected", said
        assert worker.away is not None, said
        assert worker.away + SPANS.reconnect_grace_s <= self.now, f"left within its grace: {said}"
        self.left(said["worker_id"], "disconnected", told=True)

    def concerned(self, said: dict[str, Any]) -> Call:
        call = self.calls[said["session_id"]]
        assert (said.get("owner", ""), said["epoch"]) == (call.owner, call.epoch), said
        return call

    # -- time ----------------------------------------------------------------------------------------------

    def limit(self, call: Call, *, early: bool) -> float:
        """When it is over time: it is as old as the wall clock says, or as the daemon has run since its begin."""
        if call.max_s is None:
            return float("inf")
        skew = call.gained - self.gained if early else self.lost - call.lost
        return call.born + call.max_s + skew

    def overdue(self) -> Iterator[str]:
        """What the reaper, having looked, ought to have seen to by now."""
        for call in self.calls.values():
            if call.phase != "ended" and call.spoken + call.span_s() <= self.now - EPSILON_S:
                yield f"{call.session_id} is {call.phase}, and was silent too long"
            if call.phase != "ended" and self.limit(call, early=False) <= self.now - EPSILON_S:
                yield f"{call.session_id} is over time"
        for worker_id, worker in self.workers.items():
            if worker.away is not None and worker.away + SPANS.reconnect_grace_s <= self.now:
                yield f"{worker_id} is away"

    def blur(self) -> None:
        """A group was undone: whether that counted as a sign of life is left open."""
        for call in self.calls.values():
            call.spoken = self.now

    def forget(self) -> None:
        """The reaper has looked: nothing is kept of workers that are not here and own nothing."""
        owners = {call.owner for call in self.calls.values() if not call.cold}
        for worker_id, worker in [*self.workers.items()]:
            if worker.restored and worker_id not in owners:
                del self.workers[worker_id]
        for worker_id in [*self.known]:
            if worker_id not in self.workers and worker_id not in owners:
                del self.known[worker_id]


def key(event: dict[str, Any]) -> tuple[str, str]:
    """What an event is about."""
    if "session_id" in event:
        return "session", event["session_id"]
    return "worker", event.get("worker_id", "")
