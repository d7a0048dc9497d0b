"""What was counted in one call, and how it is decoded."""

from __future__ import annotations

from typing import Any

import msgspec

from callstate_client.model.documents import MetricsDoc


class SessionMetrics(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What was counted in one call.

    Args:
        turn_count: turns added so far; raised by each turn, kept when the history is trimmed.
        interruption_count: how often the caller spoke over the agent.
        user_speech_duration_ms: speech of `user` turns, milliseconds.
        agent_speech_duration_ms: speech of `agent` turns, milliseconds.
        first_response_ms: from answer to the agent's first word, milliseconds; 0 is unknown and left out.
        average_response_ms: mean time to respond, milliseconds; 0 is unknown and left out.
        extra: members we don't know, written back inline.
    """

    turn_count: int = 0
    interruption_count: int = 0
    user_speech_duration_ms: int = 0
    agent_speech_duration_ms: int = 0
    first_response_ms: int = 0
    average_response_ms: int = 0
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


def metrics_of(found: MetricsDoc | None, extra: dict[str, Any] | None = None) -> SessionMetrics:
    """The metrics that were decoded.

    Args:
        found: the members that we know; None: there were none.
        extra: those that we don't.
    """
    if found is None:
        return SessionMetrics()
    return SessionMetrics(
        turn_count=found.turn_count,
        interruption_count=found.interruption_count,
        user_speech_duration_ms=found.user_speech_duration_ms,
        agent_speech_duration_ms=found.agent_speech_duration_ms,
        first_response_ms=found.first_response_ms,
        average_response_ms=found.average_response_ms,
        extra={} if extra is None else extra,
    )
