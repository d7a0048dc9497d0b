"""Which session ids, worker ids and short strings are valid, defined only here."""

from __future__ import annotations

import re
from typing import Final

MAX_ID_BYTES: Final = 256
"""Longest session id, bytes. It becomes part of a Redis key and of every journal record."""

MAX_NAME_BYTES: Final = 64
"""Longest status, direction, role, provider, op and label name, bytes."""

MAX_TEXT_BYTES: Final = 1024
"""Longest `call_id`, `from` and `to`, bytes, and what other short texts of a request may have in characters. A call
id is in each event of its session, and in indexes; addresses of SIP have some hundred bytes."""

MAX_LABELS: Final = 16
"""Labels of one session: a few words to select by, kept beside the document in memory and in the store."""

MAX_LABEL_VALUE_BYTES: Final = 256
"""Longest value of a label, bytes."""

MAX_DETAIL_BYTES: Final = 1024
"""Longest detail of an end, bytes of JSON: a note, not a report."""

MAX_SECONDS: Final = 10 * 365 * 86400
"""The longest that a request may wait, seconds: ten years."""

MAX_HEARTBEAT_TIMEOUT_S: Final = 86400
"""Longest heartbeat timeout of a session, seconds: a day. A call that may be dead is kept in memory meanwhile."""

MAX_DURATION_S: Final = MAX_SECONDS
"""Longest `max_duration_s` of a session, seconds: ten years. It keeps no dead call in memory."""

SESSION_ID_RULE: Final = (
    f"1 to {MAX_ID_BYTES} bytes of printable ASCII, no space, no braces, not starting with '@', not 'active'"
)

# Braces would move the key's hash slot in a Redis Cluster; `@…` and `active` are keys of the layout itself.
_SESSION_ID = re.compile(rf"(?!@)(?!active\Z)[!-z|~]{{1,{MAX_ID_BYTES}}}\Z")


def is_session_id(text: str) -> bool:
    """Whether this is a valid session id."""
    return _SESSION_ID.match(text) is not None


WORKER_ID_RULE: Final = f"1 to {MAX_NAME_BYTES} bytes of printable ASCII, no space"

_WORKER_ID = re.compile(rf"[!-~]{{1,{MAX_NAME_BYTES}}}\Z")


def is_worker_id(text: str) -> bool:
    """Whether this is a valid worker id."""
    return _WORKER_ID.match(text) is not None
