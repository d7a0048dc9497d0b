"""One event: its values as they are recorded, and the notification line that subscribers get."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from msgspec import UNSET, Struct, UnsetType

from callstate_client.engine.user import UNKNOWN
from callstate_client.model.times import format_us
from callstate_client.protocol.messages import encode_json

_NO_SESSION: Final = (UNSET, "", "", UNSET, "", UNSET)


class NotedEvent(NamedTuple):
    """An event of the open group, with the session's values at that moment: they may change before the commit."""

    type: str
    at_us: int
    session: tuple[str, str, str, dict[str, str], str, int] | None
    """Its id, provider, call id, labels, owner and epoch."""
    reason: str
    evidence: str
    deadline_us: int
    more: dict[str, Any]
    """Further members of the params, by name."""
    uid: int = UNKNOWN
    gid: int = UNKNOWN
    """The session's creator."""
    own: str = ""
    """The worker that did this to a session of its own, or to one that was nobody's; empty for all else."""


class _Params(Struct, omit_defaults=True, gc=False):
    """The params of an event's notification; empty members are omitted."""

    stream: str
    seq: int
    type: str
    at: str
    session_id: str | UnsetType = UNSET
    provider: str = ""
    call_id: str = ""
    labels: dict[str, str] | UnsetType = UNSET
    owner: str = ""
    epoch: int | UnsetType = UNSET
    reason: str = ""
    evidence: str = ""
    deadline: str = ""
    worker_id: str = ""
    error: str = ""
    drain: bool | UnsetType = UNSET
    turn_count: int | UnsetType = UNSET


def event_line(stream: str, seq: int, noted: NotedEvent) -> bytes:
    """Encode an event as its notification."""
    type_, at_us, session, reason, evidence, deadline_us, more = noted[:7]
    session_id, provider, call_id, labels, owner, epoch = session or _NO_SESSION
    params = _Params(  # by position, which is faster: thousands of sessions may expire at once
        stream, seq, type_, format_us(at_us), session_id, provider, call_id, labels or UNSET, owner, epoch,
        reason, evidence, format_us(deadline_us) if deadline_us else "",
    )  # fmt: skip
    for name, value in more.items():
        setattr(params, name, value)
    return b'{"jsonrpc":"2.0","method":"event","params":%b}\n' % encode_json(params)
