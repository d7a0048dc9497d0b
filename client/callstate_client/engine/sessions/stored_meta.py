"""What a store has beside a document, judged like what comes from a client: by types, sizes and ranges.

Others write to a store too, by other programs or by hand, and what is read there is spliced into replies, journaled
and written again. A member that a daemon can't have written counts as absent: none of them is worth the call. Host,
epoch and version are another matter. They decide whose the session is and which write may replace it, so without
them it is unreadable, and nothing is created over it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from callstate_client.engine.sessions.ops import KEPT_OPS
from callstate_client.engine.sessions.stored import ENDED, LIVE, ORPHAN, SUSPECT, StoredMeta
from callstate_client.engine.sessions.validation.values import check_json
from callstate_client.engine.user import MAX_ID, UNKNOWN
from callstate_client.errors import WireError
from callstate_client.model.go_json import INT64_MAX
from callstate_client.protocol.ids import (
    MAX_DETAIL_BYTES,
    MAX_LABEL_VALUE_BYTES,
    MAX_LABELS,
    MAX_NAME_BYTES,
    MAX_SECONDS,
)

MAX_NUMBER: Final = INT64_MAX
"""Highest epoch and version: what stores and other languages have as an integer."""

MAX_HOST_BYTES: Final = 64
"""Longest host id, as in the configuration."""

MAX_RESULT_BYTES: Final = 4096
"""Longest result of a repeatable mutation; those that daemons write have some 100 bytes."""

_STATES: Final = frozenset({LIVE, SUSPECT, ORPHAN, ENDED})
_PLAIN_RESULT: Final = re.compile(rb'\{(?:"\w+":(?:-?\d{1,18}|"[\w:.+-]*"|true|false|null)(?:,(?=")|(?=\})))*\}')
"""The usual result, which needs no parser."""


class UnreadableMetaError(ValueError):
    """Host, epoch or version can't be read."""


def checked_meta(meta: StoredMeta) -> StoredMeta:
    """The same meta with what is not as daemons write it taken out.

    Args:
        meta: as it was found; its members may be of any type.

    Raises:
        UnreadableMetaError: it does not say whose the session is, or in which epoch and version.
    """
    if not is_readable(meta.host, meta.epoch, meta.version):
        raise UnreadableMetaError("host, epoch or version can't be read")
    meta.labels = _labels(meta.labels)
    meta.heartbeat_timeout_s = _seconds(meta.heartbeat_timeout_s)
    meta.max_duration_s = _seconds(meta.max_duration_s)
    for name in ("owner", "ended_reason", "ended_at", "status_before", "orphan"):
        if not _is_text(getattr(meta, name), MAX_NAME_BYTES):
            setattr(meta, name, "")
    if not _is_detail(meta.ended_detail):
        meta.ended_detail = ""
    if meta.state not in _STATES:
        meta.state = ""
    meta.uid, meta.gid = _user_id(meta.uid), _user_id(meta.gid)
    meta.ops = _ops(meta.ops)
    return meta


def is_readable(host: Any, epoch: Any, version: Any) -> bool:
    """Whether these say whose a session is, and in which epoch and version."""
    return _is_number(epoch) and _is_number(version) and _is_text(host, MAX_HOST_BYTES)


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_NUMBER


def _is_text(value: Any, most: int) -> bool:
    """Whether it is text of at most so many bytes that can be sent."""
    if not isinstance(value, str) or len(value) > most:
        return False
    try:
        return value.isascii() or len(value.encode()) <= most
    except UnicodeEncodeError:
        return False


def _labels(labels: Any) -> dict[str, str]:
    if not labels:
        return {}
    good = {
        name: value
        for name, value in labels.items()
        if name and _is_text(name, MAX_NAME_BYTES) and _is_text(value, MAX_LABEL_VALUE_BYTES)
    }
    return good if len(good) <= MAX_LABELS else {}


def _seconds(value: Any) -> float | None:
    if type(value) not in (int, float) or not math.isfinite(value):
        return None
    return value if 0 < value <= MAX_SECONDS else None


def _user_id(value: Any) -> int:
    return value if type(value) is int and 0 <= value <= MAX_ID else UNKNOWN


def _is_detail(text: Any) -> bool:
    return text == "" or (_is_text(text, MAX_DETAIL_BYTES) and _is_json(text.encode()))


def _ops(ops: Mapping[str, bytes]) -> Mapping[str, bytes]:
    if not ops:
        return {}
    good = {op: result for op, result in ops.items() if op and _is_text(op, MAX_NAME_BYTES) and _is_result(result)}
    return good if len(good) <= KEPT_OPS else dict([*good.items()][-KEPT_OPS:])


def _is_result(result: bytes) -> bool:
    if _PLAIN_RESULT.fullmatch(result):
        return True
    return len(result) <= MAX_RESULT_BYTES and _is_json(result)


def _is_json(data: bytes) -> bool:
    """Whether it is JSON that can be sent within a message, on one line."""
    try:
        data.decode()
        check_json(data, "$", 2)
    except (WireError, UnicodeDecodeError):
        return False
    return b"\n" not in data
