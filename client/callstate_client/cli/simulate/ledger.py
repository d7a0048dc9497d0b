"""What was acknowledged of one call, and whether a store has it: the oracle of simulations.

Pure: the player records in it what was sent and what was acknowledged, and it compares that with what is read back.
Every turn carries its number in the call, so that lost, doubled and changed turns can be distinguished.
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
    """A turn as it was sent; `contents` holds every wording that it may have by now."""

    role: str
    contents: list[str]
    acknowledged: bool = False


@dataclass(slots=True)
class Comparison:
    """The result of comparing calls with their ledgers. All but the first two counts are faults.

    Args:
        acknowledged: turns that were acknowledged.
        found: those of them that the store has.
        lost: those of them that it does not have.
        doubled: further copies of a turn that was sent once.
        misplaced: turns that are not in the order sent.
        altered: turns, counters, notes or endings that are not as acknowledged.
        missing_calls: calls whose creation was acknowledged and which the store does not have.
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
        """How many things are not as acknowledged."""
        return self.lost + self.doubled + self.misplaced + self.altered + self.missing_calls

    def add(self, other: Comparison) -> None:
        """Add the counts of another call."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


@dataclass(slots=True)
class Ledger:
    """What was sent and acknowledged of one call, recorded by its player."""

    session_id: str
    turns: list[SentTurn] = field(default_factory=list)
    interruptions_sent: int = 0
    interruptions_acknowledged: int = 0
    recovery_sent: list[Any] = field(default_factory=list)
    recovery_acknowledged: Any = None
    ended_with: str | None = None
    died: bool = False

    def sent_turn(self, role: str, content: str) -> int:
        """Record a turn that is about to be sent. Returns its number."""
        self.turns.append(SentTurn(role, [content]))
        return len(self.turns) - 1

    def sent_amendment(self, number: int, content: str) -> None:
        """Record that a turn is about to be amended: from now on it may have either wording."""
        self.turns[number].contents.append(content)

    def amendment_acknowledged(self, number: int, content: str) -> None:
        """The turn has this wording and no other."""
        self.turns[number].contents = [content]

    def interruption_acknowledged(self) -> None:
        """The store counts one more barge-in."""
        self.interruptions_acknowledged += 1

    def recovery_data_acknowledged(self, recovery_data: Any) -> None:
        """The session has this recovery data; what was sent before was overwritten."""
        self.recovery_acknowledged = recovery_data
        del self.recovery_sent[: self.recovery_sent.index(recovery_data) + 1]

    @property
    def acknowledged(self) -> frozenset[int]:
        """Numbers of the turns acknowledged so far."""
        return frozenset(number for number, turn in enumerate(self.turns) if turn.acknowledged)

    def compare(self, record: Record | None) -> Comparison:
        """Compare what the store has with what was acknowledged.

        Args:
            record: the call with its whole history; None if the store does not have it.
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
    """The numbers of the turns in a record; -1 for a turn that no simulation sent."""
    return [int(turn.extra.get(TURN_NUMBER, -1)) for turn in record.state.history]
