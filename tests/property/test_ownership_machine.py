"""Who holds a call, and who is dead: the whole core, its reaper running, does what the contract says.

What happens is in `support.ownership.machine`, what the contract says in `support.ownership.expiry_model` and
`support.ownership.model`. Courses that only a long search would find each time are run besides, in a few steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import Phase, settings

from support.budget import examples
from support.ownership.machine import OwnershipMachine
from support.ownership.model import Request
from support.ownership.request_strategies import OPERATOR, OWNER

FUZZ = "CALLSTATE_FUZZ_EXAMPLES" in os.environ
SHORT = (Phase.explicit, Phase.reuse, Phase.generate)
"""To shrink what fails takes minutes, which the suite does not have: `make fuzz` does it."""

TestOwnership = OwnershipMachine.TestCase
TestOwnership.settings = settings(
    max_examples=examples(40),
    stateful_step_count=40,
    phases=tuple(Phase) if FUZZ else SHORT,
    derandomize=not FUZZ,  # what only a new search finds is for `make fuzz`, and for whoever runs it
)


def stall(machine: OwnershipMachine) -> None:
    """A beat that waited through a stall counts from when it was read, and no longer."""
    beat = [(OWNER, Request("beat", "b"))]
    machine.stall(seconds=10.0, waiting=beat, after=[], silent_ticks=14)


def stalls(machine: OwnershipMachine) -> None:
    """Nobody is judged for what the daemon slept, however often."""
    for _ in range(3):
        machine.stall(seconds=3600.0, waiting=[], after=[], silent_ticks=1)


def outsider(machine: OwnershipMachine) -> None:
    """What an operator says of a worker's call keeps it no longer."""
    machine.only_an_operator_speaks("beat", 16)


def outsider_changes(machine: OwnershipMachine) -> None:
    """Nor what it changes."""
    machine.only_an_operator_speaks("turn", 16)


def orphans(machine: OwnershipMachine) -> None:
    """They are handed on in the order in which they lost their owner, and nothing else is."""
    machine.send([(OWNER, Request("release", "c")), (OWNER, Request("release", "b"))])
    machine.check()
    for _ in range(3):
        machine.send([(OPERATOR, Request("claim_next", worker_id="w3"))])
        machine.check()


def left(machine: OwnershipMachine) -> None:
    """Whose process exits leaves suspects, whose connection closes leaves orphans."""
    machine.exit(which=0, closes="all")
    machine.hang_up(which=0)
    machine.time_passes(ticks=20)


def restarted(machine: OwnershipMachine) -> None:
    """Everybody has a full timeout, but those whose process is gone."""
    machine.restart(down_s=7200.0, meanwhile=[0])
    machine.time_passes(ticks=20)


def overtime(machine: OwnershipMachine) -> None:
    """A call as old as it may become is ended while it beats, and has no limit any more once it is claimed."""
    machine.send([(OWNER, Request("save", "b", max_s=4.0))])
    for _ in range(18):
        machine.tick([(OWNER, Request("beat", "b"))])
    machine.send([(OPERATOR, Request("claim", "b", worker_id="w2"))])
    machine.tick([])


def instances(machine: OwnershipMachine) -> None:
    """What one instance of a worker holds another does not touch while the first is there, but by a claim."""
    machine.join("w3", False, "i1")
    machine.join("w3", True, "i2")
    one, other = 2, 3
    machine.send([(one, Request("save", "d"))])
    machine.check()
    for kind in ("beat", "beats", "turn", "update", "release"):
        machine.send([(other, Request(kind, "d"))])
        machine.check()
    machine.send(
        [(other, Request("claim", "d")), (one, Request("beat", "d")), (one, Request("turn", "d", epoch="old"))]
    )
    machine.check()
    machine.hang_up(which=other)
    machine.send([(one, Request("turn", "d")), (one, Request("beat", "d"))])
    machine.check()


def timeouts(machine: OwnershipMachine) -> None:
    """A call is silent for as long as its last claim says, and over time when that does."""
    machine.send([(OWNER, Request("claim", "b", timeout_s=5.0)), (OWNER, Request("claim", "c", timeout_s=0.75))])
    machine.time_passes(ticks=16)
    machine.send([(OPERATOR, Request("claim", "b", worker_id="w2", steal=True, max_s=4.0, timeout_s=5.0))])
    machine.time_passes(ticks=4)


def retimed(machine: OwnershipMachine) -> None:
    """A call whose timeout somebody else makes shorter is not suspected before its owner was told, and then is."""
    machine.send([(OPERATOR, Request("save", "b", timeout_s=0.75)), (OWNER, Request("turn", "b"))])
    machine.time_passes(ticks=4)
    machine.send([(OWNER, Request("beats", "b")), (OWNER, Request("beat", "b"))])
    machine.time_passes(ticks=4)


@pytest.mark.parametrize(
    "course",
    [stall, stalls, outsider, outsider_changes, orphans, left, restarted, overtime, instances, timeouts, retimed],
    ids=lambda course: course.__name__,
)
def test_a_course(course: Callable[[OwnershipMachine], None]) -> None:
    """With a call of nobody's, and one of each of two workers."""
    machine = OwnershipMachine()
    try:
        machine.begin(workers=["w1", "w2"], first=[OPERATOR])
        machine.send(
            [(2, Request("save", "b")), (1, Request("save", "c")), (1, Request("save", "b", status="on_hold"))]
        )
        machine.check()
        course(machine)
        machine.counts_are_recounts()
    finally:
        machine.teardown()
