"""Write-behind over a store that fails, forgets, goes back and is written to by others, in any order.

Nothing acknowledged is lost or silently superseded: it is in memory, in the store, in quarantine or in a copy of
what another host has taken over, also after a restart. No deletion is undone. When the faults end, the store has
what is in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import Phase, settings

from support.budget import examples
from support.faulty_store import Fault
from support.writer_machine import WriterMachine

FUZZ = "CALLSTATE_FUZZ_EXAMPLES" in os.environ

TestWriter = WriterMachine.TestCase
TestWriter.settings = settings(
    max_examples=examples(60),
    stateful_step_count=40,
    phases=tuple(Phase) if FUZZ else (Phase.explicit, Phase.reuse, Phase.generate),
)


def refused_deletion(machine: WriterMachine) -> None:
    """A deletion that the store refuses holds, also over a restart."""
    machine.turn("a", True)
    machine.sessions_are_rejected("a")
    machine.delete("a", True)
    machine.restart()
    machine.write(1)


def refused_change(machine: WriterMachine) -> None:
    """So does a turn."""
    machine.sessions_are_rejected("ab")
    machine.turn("a", True)
    machine.turn("b", True)
    machine.restart()
    machine.turn("a", True)


def lost_replies(machine: WriterMachine) -> None:
    """What the store may have is deleted there too."""
    machine.operations_fail([Fault("timeout", True)])
    machine.turn("a", True)
    machine.delete("a", True)


def unanswered(machine: WriterMachine) -> None:
    """Batches that are not answered come apart, and nothing of them is forgotten."""
    machine.operations_fail([Fault("timeout", True), None, Fault("timeout", False), None, Fault("timeout", False)])
    machine.turn("a", False)
    machine.turn("b", True)
    machine.delete("b", True)


def old_copy(machine: WriterMachine) -> None:
    """A failover to a replica that lags behind undoes neither turns nor deletions."""
    machine.turn("a", True)
    machine.turn("b", True)
    machine.keep_a_copy()
    machine.turn("a", True)
    machine.delete("b", True)
    machine.lose_data("go back")
    machine.write(2)


def late_notice(machine: WriterMachine) -> None:
    """A loss is noticed after a session was written to what the store has become: its deletion is written too."""
    machine.lose_data("forget")
    machine.operations_fail([Fault("down", False)])
    machine.write(2)
    machine.delete("a", False)


def taken_over(machine: WriterMachine) -> None:
    """What was acknowledged before this host could know that another one has the session is kept."""
    machine.turn("a", True)
    machine.another_host_claims("a", False)
    machine.turn("a", True)
    machine.restart()
    machine.turn("a", True)


def begun_blind(machine: WriterMachine) -> None:
    """A call that begins while the store is away keeps what the store has of the one before."""
    machine.turn("a", True)
    machine.end("a")
    machine.write(1)
    machine.time_passes(400.0)
    machine.operations_fail([Fault("down", False)])
    machine.save("a", False, "active")
    machine.turn("a", True)


@pytest.mark.parametrize(
    "course",
    [refused_deletion, refused_change, lost_replies, unanswered, old_copy, late_notice, taken_over, begun_blind],
    ids=lambda course: course.__name__,
)
def test_a_course(course: Callable[[WriterMachine], None]) -> None:
    """With a call of each id; what must hold is looked at after it and, the faults having ended, at the end."""
    machine = WriterMachine()
    try:
        machine.begin()
        for session_id in "ab":
            machine.save(session_id, False, "active")
        course(machine)
        machine.nothing_is_lost()
    finally:
        machine.teardown()
