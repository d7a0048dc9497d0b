"""A session's document as the client decodes it in one pass. Internal to the client."""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from callstate_client.model.documents import HeadDoc, OnlyMetrics


class StrictStateWire(HeadDoc, forbid_unknown_fields=True):
    """The common document: no member that we don't know, so nothing has to be looked for a second time."""

    history: Raw = Raw(b"null")
    metrics: OnlyMetrics | None = None
    recovery_data: Any = None
