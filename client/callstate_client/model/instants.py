"""Points in time as microseconds since 1970, and as the RFC 3339 text that documents have."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from callstate_client.model.times import parse_time

MIN_US: Final = -62_135_596_800_000_000
"""0001-01-01T00:00:00Z in microseconds since 1970, the first moment a datetime can say."""

MAX_US: Final = 253_402_300_799_999_999
"""The last one."""


@lru_cache(maxsize=64)
def _second(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat()[:19]


def format_us(at_us: int) -> str:
    """RFC 3339 text of microseconds since 1970. Times of one second share most of their text."""
    seconds, fraction = divmod(at_us, 1_000_000)
    return f"{_second(seconds)}.{fraction:06d}Z" if fraction else f"{_second(seconds)}Z"


def parse_us(text: str) -> int:
    """Microseconds since 1970 of RFC 3339 text; negative before. An offset may not lead out of years 1 to 9999."""
    delta = parse_time(text) - datetime(1970, 1, 1, tzinfo=UTC)
    at_us = (delta.days * 86400 + delta.seconds) * 1_000_000 + delta.microseconds
    return max(MIN_US, min(at_us, MAX_US))
