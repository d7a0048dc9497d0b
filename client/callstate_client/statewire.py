"""A session's document as it lies on the wire. Internal to the client."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from callstate_client.metrics import StrictMetricsWire
from callstate_client.times import ZERO_TIME

_NULL: Final = msgspec.Raw(b"null")


class StateWire(msgspec.Struct):
    """A document as it lies on the wire, decoded no further than one pass needs."""

    id: str = ""
    created_at: str = ZERO_TIME
    updated_at: str = ZERO_TIME
    call_id: str = ""
    provider: str = ""
    direction: str = ""
    from_: str = msgspec.field(name="from", default="")
    to: str = ""
    status: str = ""
    history: msgspec.Raw = _NULL
    recovery_data: Any = None


class StrictStateWire(StateWire, forbid_unknown_fields=True):
    """The common document: no member that we don't know, so nothing has to be looked for a second time."""

    metrics: StrictMetricsWire | None = None


class LenientStateWire(StateWire):
    """Any other."""

    metrics: dict[str, Any] | None = None


MEMBERS: Final = frozenset(LenientStateWire.__struct_encode_fields__)
"""The names of the members we know, as they are in JSON."""
