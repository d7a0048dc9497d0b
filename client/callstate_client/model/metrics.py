"""A call's counters: the defined members, listed once, and the types built on them.

`Counters` is what a document's `metrics` decode into; `StrictCounters` refuses other members, so one pass shows
whether a document has any. `SessionMetrics` is what workers see: the same with `extra`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from callstate_client.model.go_json import Int64


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
        first_response_ms: from answer to the agent's first word, milliseconds; 0 is unknown and left out.
        average_response_ms: mean time to respond, milliseconds; 0 is unknown and left out.
        extra: members that callstate does not define, written back inline.
    """

    extra: dict[str, Any] = msgspec.field(default_factory=dict)

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
