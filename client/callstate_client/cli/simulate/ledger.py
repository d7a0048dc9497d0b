"""What was acknowledged of one call, and whether a store still has it: the oracle of simulations.

Pure: it is told what was sent and what was answered, and compares that with what is read back. Every turn
carries its number in the call, so that a lost one, a doubled one and a changed one can be told apart.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, Final

from callstate_client.model.state import Status, Turn
from callstate_client.store import Record

TURN_NUMBER: Final = "sim_turn"
"""The member of a turn that carries its number."""


@dataclass(slots=True)
class SentTurn:
    """A turn as it was sent; `contents` holds every wording it may rightly have by now."""

    role: str
    contents: list[str]
    acknowledged: bool = False


@dataclass(slots=True)
class Comparison:
    """What comparing calls with their ledgers came to. All but the first two are faults.

    Args:
        acknowledged: turns that were acknowledged.
        found: of those, how many are there.
        lost: of those, how many are not.
        doubled: turns that are there once more than they were sent.
        misplaced: turns that are not in the order sent.
        altered: turns, counters, notes or endings that are not as acknowledged.
        missing_calls: calls that were acknowledged as created and are not there at all.
    """

    acknowledged: int = 0
    found: int = 0
    lost: int = 0
    doubled: int = 0
    misplaced: int = 0
    altered: int = 0
    missing_calls: int = 0

    @property
    def faults(self) -> int:
        """Everything that is not as it was acknowledged."""
        return self.lost + self.doubled + self.misplaced + self.altered + self.missing_calls

    def add(self, other: Comparison) -> None:
        """Add up another call's."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


@dataclass(slots=True)
class Ledger:
    """One call's acknowledgements. Whoever plays the call notes what it asks for, then what was answered."""

    session_id: str
    turns: list[SentTurn] = field(default_factory=list)
    interruptions_sent: int = 0
    interruptions_acknowledged: int = 0
    recovery_sent: list[Any] = field(default_factory=list)
    recovery_acknowledged: Any = None
    ended_with: str | None = None
    died: bool = False

    def sent_turn(self, role: str, content: str) -> int:
        """Note a turn about to be sent; gives its number."""
        self.turns.append(SentTurn(role, [content]))
        return len(self.turns) - 1

    def sent_amendment(self, number: int, content: str) -> None:
        """Note that a turn is about to get another wording: from here on it may have either."""
        self.turns[number].contents.append(content)

    def amendment_acknowledged(self, number: int, content: str) -> None:
        """The turn has that wording and no other."""
        self.turns[number].contents = [content]

    def interruption_acknowledged(self) -> None:
        """One more barge-in is counted."""
        self.interruptions_acknowledged += 1

    def recovery_is(self, recovery_data: Any) -> None:
        """The note was acknowledged; those sent before it are gone."""
        self.recovery_acknowledged = recovery_data
        del self.recovery_sent[: self.recovery_sent.index(recovery_data) + 1]

    @property
    def acknowledged(self) -> frozenset[int]:
        """Numbers of the turns acknowledged so far."""
        return frozenset(number for number, turn in enumerate(self.turns) if turn.acknowledged)

    def compare(self, record: Record | None) -> Comparison:
        """What is there against what was acknowledged.

        Args:
            record: the call with its whole history; None when the store knows none.
        """
        acknowledged = self.acknowledged
        result = Comparison(acknowledged=len(acknowledged))
        if record is None:
            result.missing_calls = 1
            result.lost = len(acknowledged)
            return result
        numbers = turn_numbers(record)
        there = Counter(numbers)
        result.found = len(acknowledged & there.keys())
        result.lost = len(acknowledged) - result.found
        result.doubled = sum(count - 1 for count in there.values())
        result.misplaced = sum(a > b for a, b in pairwise(numbers))
        result.altered = sum(
            not self._is_as_sent(number, turn) for number, turn in zip(numbers, record.state.history, strict=True)
        ) + self._altered_head(record)
        return result

    def _is_as_sent(self, number: int, turn: Turn) -> bool:
        if not 0 <= number < len(self.turns):
            return False
        sent = self.turns[number]
        return turn.role == sent.role and turn.content in sent.contents

    def _altered_head(self, record: Record) -> int:
        state = record.state
        interruptions = state.metrics.interruption_count
        faults = [
            state.metrics.turn_count != len(state.history),
            not self.interruptions_acknowledged <= interruptions <= self.interruptions_sent,
            state.recovery_data not in (self.recovery_acknowledged, *self.recovery_sent),
        ]
        if self.ended_with is not None:
            faults.append(state.status != Status.ENDED or record.ended_reason != self.ended_with)
        return sum(faults)


def turn_numbers(record: Record) -> list[int]:
    """The numbers of the turns that are there; -1 for one that no simulation sent."""
    return [int(turn.extra.get(TURN_NUMBER, -1)) for turn in record.state.history]
