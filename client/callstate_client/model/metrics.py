"""A call's counters: the defined members, listed once, and the types built on them.

`Counters` is what a document's `metrics` decode into; `StrictCounters` refuses other members, so one pass shows
whether a document has any. `SessionMetrics` is what workers see: the same with `extra`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from callstate_client.model.go_json import INT64_MAX, Int64

RESPONSE_MS: Final = "response_ms"
"""The member of a turn with the time from the end of what the user said to this turn's first word, milliseconds."""

RESPONSE_COUNT: Final = "response_count"
RESPONSE_TOTAL_MS: Final = "response_total_ms"
"""Members of metrics that the Go package does not have: how many response times `average_response_ms` is the mean
of, and their sum, so that it stays exact."""


class Counters(msgspec.Struct):
    """The defined members of metrics, in the Go package's order. A missing one is zero."""

    turn_count: Int64 = 0
    interruption_count: Int64 = 0
    user_speech_duration_ms: Int64 = 0
    agent_speech_duration_ms: Int64 = 0
    first_response_ms: Int64 = 0
    average_response_ms: Int64 = 0


class StrictCounters(Counters, forbid_unknown_fields=True):
    """The same, without any other members."""


class SessionMetrics(Counters, omit_defaults=True, kw_only=True):
    """What was counted in one call.

    Args:
        turn_count: turns added so far, of every role, `system` and `tool` included; not lowered when the history is
            trimmed, nor raised when a turn is amended or a state is created with a history.
        interruption_count: how often the caller spoke over the agent.
        user_speech_duration_ms: speech of `user` turns, milliseconds.
        agent_speech_duration_ms: speech of `agent` turns, milliseconds.
        first_response_ms: the first `response_ms` of a turn, milliseconds; 0 is unknown and left out.
        average_response_ms: the mean of all `response_ms`, milliseconds, rounded down; 0 is unknown and left out.
            Their number and sum are `response_count` and `response_total_ms` in `extra`.
        extra: members that callstate does not define, written back inline.
    """

    extra: dict[str, Any] = msgspec.field(default_factory=dict)

    def add_response(self, response_ms: int) -> None:
        """Count a response time, milliseconds."""
        before = Responses(
            self.first_response_ms,
            self.average_response_ms,
            self.extra.get(RESPONSE_COUNT),
            self.extra.get(RESPONSE_TOTAL_MS),
        )
        after = before.plus((response_ms,))
        self.first_response_ms, self.average_response_ms = after.first_ms, after.average_ms
        self.extra |= {RESPONSE_COUNT: after.count, RESPONSE_TOTAL_MS: after.total_ms}

    def to_dict(self) -> dict[str, Any]:
        """The JSON members, as Go writes them."""
        members: dict[str, Any] = {
            "turn_count": self.turn_count,
            "interruption_count": self.interruption_count,
            "user_speech_duration_ms": self.user_speech_duration_ms,
            "agent_speech_duration_ms": self.agent_speech_duration_ms,
        }
        if self.first_response_ms:
            members["first_response_ms"] = self.first_response_ms
        if self.average_response_ms:
            members["average_response_ms"] = self.average_response_ms
        return members | self.extra if self.extra else members


class Responses:
    """The response times of a call, summed up.

    Args:
        first_ms, average_ms: as the metrics have them.
        count, total_ms: the same. Software that does not know these members drops them, or sets another average:
            then the average counts as the mean of `count` responses, or of one.
    """

    __slots__ = ("average_ms", "count", "first_ms", "total_ms")

    def __init__(self, first_ms: int, average_ms: int, count: object, total_ms: object) -> None:
        self.first_ms = first_ms
        self.average_ms = average_ms
        self.count = count if type(count) is int and 0 < count <= INT64_MAX else int(average_ms > 0)
        known = type(total_ms) is int and self.count > 0 and total_ms // self.count == average_ms
        self.total_ms: int = total_ms if known and isinstance(total_ms, int) else average_ms * self.count

    def plus(self, times_ms: Iterable[int]) -> Responses:
        """With these response times, milliseconds, counted."""
        first_ms, count, total_ms = self.first_ms, self.count, self.total_ms
        for response_ms in times_ms:
            first_ms = first_ms or response_ms
            count += 1
            total_ms += response_ms
        return Responses.of(first_ms, count, total_ms)

    @classmethod
    def of(cls, first_ms: int, count: int, total_ms: int) -> Responses:
        """The response times with this first one, number and sum."""
        total_ms = min(total_ms, INT64_MAX)
        return cls(first_ms, total_ms // count if count else 0, count, total_ms)


def metrics_of(found: Counters | None, extra: dict[str, Any] | None = None) -> SessionMetrics:
    """The metrics of a decoded document.

    Args:
        found: the counters; None if the document has none.
        extra: the other members.
    """
    if found is None:
        return SessionMetrics()
    return SessionMetrics(
        found.turn_count,
        found.interruption_count,
        found.user_speech_duration_ms,
        found.agent_speech_duration_ms,
        found.first_response_ms,
        found.average_response_ms,
        extra={} if extra is None else extra,
    )
