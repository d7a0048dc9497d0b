"""What both stores encode alike: times to live, the results of repeatable mutations, and which ids are keys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

import msgspec

MAX_TTL_S: Final = 10 * 365 * 86400

_UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)

_decode_labels = msgspec.json.Decoder(dict[str, str]).decode
_decode_ops = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def ttl_ms(ttl: float | timedelta) -> int:
    """A time to live in milliseconds.

    Args:
        ttl: seconds, or a timedelta.

    Raises:
        ValueError: it is not between a millisecond and ten years.
    """
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else float(ttl)
    if not (math.isfinite(seconds) and 0.001 <= seconds <= MAX_TTL_S):
        raise ValueError(f"ttl must be 0.001 to {MAX_TTL_S} seconds, not {seconds}")
    return round(seconds * 1000)


def ops_text(ops: Mapping[str, bytes]) -> bytes:
    """Encode the results of repeatable mutations, by `op`, as one JSON object; empty if there are none."""
    if not ops:
        return b""
    return b"{%b}" % b",".join([b"%b:%b" % (msgspec.json.encode(op), result) for op, result in ops.items()])


def parse_ops(text: object) -> dict[str, bytes]:
    """Decode what `ops_text` encoded; anything else counts as no results."""
    try:
        return {op: bytes(result) for op, result in _decode_ops(_json(text)).items()}
    except _UNDECODABLE:
        return {}


def parse_labels(text: object) -> dict[str, str]:
    """Decode labels, a JSON object of strings; anything else counts as none."""
    try:
        return _decode_labels(_json(text))
    except _UNDECODABLE:
        return {}


def _json(text: object) -> bytes | str:
    return text if text and isinstance(text, bytes | str) else b"{}"


def plain_beat(value: object) -> int:
    """The time of a heartbeat, milliseconds since 1970; 0 if it is not a plausible one."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return 0
    return max(0, int(value))


def is_layout_name(session_id: str) -> bool:
    """Whether this session's document would have the key of something else in the layout."""
    return not session_id or session_id == "active" or session_id.startswith("@")
