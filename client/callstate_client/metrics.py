"""What was counted in one call, and how it is decoded."""

from __future__ import annotations

from typing import Any

import msgspec

from callstate_client.errors import DocumentError
from callstate_client.turns import split_extra


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


class MetricsWire(msgspec.Struct):
    """Metrics as they lie on the wire. Internal to the client."""

    turn_count: int = 0
    interruption_count: int = 0
    user_speech_duration_ms: int = 0
    agent_speech_duration_ms: int = 0
    first_response_ms: int = 0
    average_response_ms: int = 0


class StrictMetricsWire(MetricsWire, forbid_unknown_fields=True):
    """The common metrics: no member that we don't know."""


_MEMBERS = frozenset(MetricsWire.__struct_fields__)


def metrics_of(found: StrictMetricsWire | dict[str, Any] | None) -> SessionMetrics:
    """The metrics that were decoded.

    Args:
        found: typed, or members of which we may not know all.

    Raises:
        DocumentError: a member is not of its type.
    """
    if found is None:
        return SessionMetrics()
    extra: dict[str, Any] = {}
    wire: MetricsWire
    if isinstance(found, dict):
        known, extra = split_extra(found, _MEMBERS)
        try:
            wire = msgspec.convert(known, MetricsWire)
        except msgspec.ValidationError as error:  # which knows the place in the metrics only
            raise DocumentError(str(error).replace("at `$", "at `$.metrics")) from error
    else:
        wire = found
    return SessionMetrics(
        turn_count=wire.turn_count,
        interruption_count=wire.interruption_count,
        user_speech_duration_ms=wire.user_speech_duration_ms,
        agent_speech_duration_ms=wire.agent_speech_duration_ms,
        first_response_ms=wire.first_response_ms,
        average_response_ms=wire.average_response_ms,
        extra=extra,
    )
