"""The bounds of what a request may carry, as types: each string, list and map in params has one of these.

A decoder refuses what is longer, with the path and the bound in the error. It counts the characters of strings; of
those that are kept, the bytes are counted once they are decoded.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Meta

from callstate_client.model.go_json import INT64_MAX
from callstate_client.protocol.ids import (
    MAX_DURATION_S,
    MAX_HEARTBEAT_TIMEOUT_S,
    MAX_ID_BYTES,
    MAX_NAME_BYTES,
    MAX_SECONDS,
    MAX_TEXT_BYTES,
)

MAX_HEARTBEAT_IDS: Final = 10_000
"""Sessions that one heartbeat may name: the client sends 2,000 at most."""

MAX_FLUSH_IDS: Final = 20_000
"""Sessions that one flush may name, more than a host has calls: decoded at once, and then looked at in slices."""

MAX_RETRY_IDS: Final = 1000
"""Sessions that one `quarantine.retry` may name: three pages of `quarantine.list`."""

MAX_EVENT_TYPES: Final = 64
"""Types of events that a subscription may name: there are some twenty."""

SessionId = str
WorkerId = str
"""Checked once they are decoded, for errors that give the whole rule (ids.py)."""

Word = Annotated[str, Meta(max_length=MAX_NAME_BYTES)]
"""A status, an op, a reason …"""

Text = Annotated[str, Meta(max_length=MAX_TEXT_BYTES)]
"""A call id, a cursor …"""

RequestId = Annotated[str, Meta(max_length=MAX_TEXT_BYTES)]
"""The `id` of a request, where it is a string: kept until the reply."""

HeartbeatIds = Annotated[list[str], Meta(max_length=MAX_HEARTBEAT_IDS)]
"""Strings of any length: what is not an id is answered as missing, as it must not fail the other heartbeats."""

FlushIds = Annotated[list[Annotated[str, Meta(max_length=MAX_ID_BYTES)]], Meta(max_length=MAX_FLUSH_IDS)]
RetryIds = Annotated[list[SessionId], Meta(max_length=MAX_RETRY_IDS)]
EventTypes = Annotated[list[Word], Meta(max_length=MAX_EVENT_TYPES)]

Labels = dict[str, Any]
"""Names and values, which have to be strings: checked once they are decoded (engine/rules/param_checks.py), for
errors that name the label."""

Version = Annotated[int, Meta(ge=0, le=INT64_MAX)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=MAX_SECONDS)]
HeartbeatTimeout = Annotated[float, Meta(gt=0, le=MAX_HEARTBEAT_TIMEOUT_S)]
MaxDuration = Annotated[float, Meta(gt=0, le=MAX_DURATION_S)]
Limit = Annotated[int, Meta(ge=1, le=10_000)]
UNKNOWN: Final = -1
UserId = Annotated[int, Meta(ge=UNKNOWN, le=2**32 - 2)]
History = Word | Version
"""`"all"`, `"none"`, or how many of the last turns."""
