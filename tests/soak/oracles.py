"""What must be true of a daemon whatever happens: each oracle is told what was seen, and raises a Violation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from support.oracle import SessionModel


class Violation(AssertionError):  # noqa: N818 - what it is called
    """Something was seen that must never be."""


@dataclass
class Losses:
    """When the store last lost what it had, which only what is not hot can't survive.

    Args:
        now: seconds of any clock.
    """

    now: Callable[[], float] = time.monotonic
    last_s: float = float("-inf")

    def happened(self) -> None:
        """The store has been emptied, or has gone back to what it had earlier."""
        self.last_s = self.now()

    def since(self, at_s: float) -> bool:
        """Whether it has since."""
        return self.last_s >= at_s


@dataclass
class Call:
    """What workers have reported of one call.

    Args:
        acknowledged: the turns that the daemon acknowledged to a worker, in the order of the reports.
        holder: the worker that reported last that it holds the call; None: it has left it, or ended it.
        epoch: of that holder.
        ended: whether a worker was acknowledged its end.
        heard_s: when a worker last reported of it, by the clock of `Losses`.
    """

    acknowledged: dict[str, None] = field(default_factory=dict)
    holder: str | None = None
    epoch: int | None = None
    ended: bool = False
    heard_s: float = float("-inf")


def _by_worker(turns: Iterable[str]) -> dict[str, list[int]]:
    """The numbers of turns, each worker's by itself: `w3:17` is the seventeenth that w3 has said."""
    numbers: dict[str, list[int]] = {}
    for turn in turns:
        worker, _, number = turn.partition(":")
        numbers.setdefault(worker, []).append(int(number))
    return numbers


class Calls:
    """The calls of worker processes: what was acknowledged is there, once, and no call of a live worker is reaped.

    Args:
        is_alive: whether the process of a worker lives.
        losses: when the store has lost what it had.
    """

    def __init__(self, is_alive: Callable[[str], bool], losses: Losses) -> None:
        self._is_alive = is_alive
        self._losses = losses
        self.by_id: dict[str, Call] = {}
        self.acknowledged = 0
        self.recovered = 0

    def _heard(self, session_id: str) -> Call:
        call = self.by_id.setdefault(session_id, Call())
        call.heard_s = self._losses.now()
        return call

    def held(self, session_id: str, worker: str, epoch: int | None, turns: Sequence[str]) -> None:
        """A worker holds a call, whose history has these turns."""
        call = self._heard(session_id)
        self.recovered += call.holder is not None
        self.has_turns(session_id, turns)
        if call.epoch is None or epoch is None or epoch >= call.epoch:
            call.holder, call.epoch = worker, epoch

    def said(self, session_id: str, turn: str) -> None:
        """A turn was acknowledged to a worker."""
        self._heard(session_id).acknowledged[turn] = None
        self.acknowledged += 1

    def left(self, session_id: str, worker: str, *, ended: bool) -> None:
        """A worker has left a call; `ended`: and was acknowledged its end."""
        call = self._heard(session_id)
        if call.holder == worker:
            call.holder = None
        call.ended = call.ended or ended

    def has_turns(self, session_id: str, turns: Sequence[str]) -> None:
        """These turns were found: all acknowledged ones, none twice, each worker's in its order."""
        twice = [turn for turn, count in Counter(turns).items() if count > 1]
        if twice:
            raise Violation(f"{session_id} has turns twice: {twice}")
        acknowledged = self.by_id[session_id].acknowledged
        lost = acknowledged.keys() - {*turns}
        if lost:
            raise Violation(f"{session_id} has lost acknowledged turns: {sorted(lost)}; it has {turns}")
        for worker, numbers in _by_worker(turns).items():
            if numbers != sorted(numbers):
                raise Violation(f"{session_id} has turns of {worker} in another order: {numbers}")

    def found(self, session_id: str, result: dict[str, Any] | None) -> None:
        """What a load of the call returned; None: there is no such session."""
        call = self.by_id[session_id]
        if result is None:
            lives = call.holder is not None and self._is_alive(call.holder)
            if not lives and self._losses.since(call.heard_s):
                return  # it had ended, and left the daemon's memory: only the store had it
            raise Violation(f"{session_id} is lost, and {len(call.acknowledged)} turns with it")
        self.has_turns(session_id, [turn["content"] for turn in result["session"]["history"]])
        if call.ended and result["session"]["status"] != "ended":
            raise Violation(f"{session_id} was acknowledged as ended, and is {result['session']['status']}")

    def expired(self, event: dict[str, Any]) -> None:
        """The daemon has ended a call."""
        call = self.by_id.get(event["session_id"])
        if call is None or call.holder is None or call.epoch != event.get("epoch", 0):
            return
        if self._is_alive(call.holder):
            raise Violation(f"a call of {call.holder}, which lives, was reaped: {event}")

    def of(self, worker: str) -> list[str]:
        """The calls that a worker holds, as far as it has reported."""
        return [session_id for session_id, call in self.by_id.items() if call.holder == worker and not call.ended]


def is_free(result: dict[str, Any] | None, dead: str) -> bool:
    """Whether a dead worker's call, as `session.list` has it, is free or taken over; None: it is gone."""
    if result is None or result["session"]["status"] == "ended":
        return True
    return result.get("owner") != dead or "suspect" in result.get("state", "")


def check_dead(dead: str, unfreed: Sequence[str], within_s: float) -> None:
    """None of the calls of a dead worker is left that nobody may take."""
    if unfreed:
        raise Violation(f"{within_s:.0f} s after {dead} died nobody may take {unfreed}")


def check_model(session_id: str, found: SessionModel, allowed: Iterable[SessionModel]) -> SessionModel:
    """A session is in one of the states that acknowledged requests, and one whose reply was lost, lead to."""
    states = [*allowed]
    if found not in states:
        raise Violation(f"{session_id} is {found}, which is none of {states}")
    return found


@dataclass
class Stream:
    """What one subscriber has received of one event stream.

    Args:
        seqs: sequence number to type and session.
        holes: ranges that a `gap` has announced: after the first number, before the second.
    """

    began: int
    seqs: dict[int, tuple[str, str | None]] = field(default_factory=dict)
    holes: list[tuple[int, int]] = field(default_factory=list)
    _last: int = -1
    _gap: bool = False

    def __post_init__(self) -> None:
        self._last = self.began

    @property
    def last(self) -> int:
        """The last number received, or the one after which the subscription began."""
        return self._last

    def received(self, event: dict[str, Any]) -> None:
        """Take an event of this stream."""
        if event["type"] == "gap":
            self._gap = True
            return
        seq = event["seq"]
        if seq <= self._last:
            raise Violation(f"an event came late, or twice, after number {self._last}: {event}")
        if self._gap:
            self.holes.append((self._last, seq))
            self._gap = False
        self.seqs[seq] = (event["type"], event.get("session_id"))
        self._last = seq

    def _announced(self, seq: int) -> bool:
        return any(after < seq < before for after, before in self.holes)

    def missing(self, other: Stream) -> list[int]:
        """What another subscriber of the stream has received and this one has not, without being told."""
        return [
            seq
            for seq in other.seqs
            if self.began < seq <= self._last and seq not in self.seqs and not self._announced(seq)
        ]


def compare_streams(one: Stream, other: Stream) -> None:
    """Two subscribers have received the same events of a stream, wherever both were subscribed."""
    for mine, theirs in ((one, other), (other, one)):
        if missing := mine.missing(theirs):
            lost = [(seq, *theirs.seqs[seq]) for seq in missing[:5]]
            raise Violation(f"a subscriber has missed {len(missing)} events, and no gap was announced: {lost}")
    both = one.seqs.keys() & other.seqs.keys()
    if differ := [seq for seq in both if one.seqs[seq] != other.seqs[seq]]:
        raise Violation(f"two subscribers have received different events {differ[:5]}")
