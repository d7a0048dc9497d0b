"""Requests about who holds a session: heartbeat, claim, release."""

from __future__ import annotations

from collections.abc import Mapping

from callstate_client import protocol
from callstate_client.requests import replies, validation
from callstate_client.requests.prepared import PreparedRequest
from callstate_client.store import Record


def heartbeat(session_id: str) -> PreparedRequest[None]:
    """Send a heartbeat for one session."""
    validation.check_session_id(session_id)
    return PreparedRequest("session.heartbeat", protocol.HeartbeatParams(session_id=session_id), replies.nothing)


def claim(
    session_id: str,
    worker_id: str,
    history: str | int,
    *,
    steal: bool,
    heartbeat_timeout_s: float | None = None,
    max_duration_s: float | None = None,
) -> PreparedRequest[Record]:
    """Claim a session. The timeouts need a daemon with the feature CLAIM_TIMEOUTS."""
    validation.check_session_id(session_id)
    params = protocol.ClaimParams(
        session_id=session_id,
        worker_id=worker_id,
        steal=steal,
        history=history,
        heartbeat_timeout_s=heartbeat_timeout_s,
        max_duration_s=max_duration_s,
    )
    return PreparedRequest("session.claim", params, replies.record)


def claim_next(
    worker_id: str, labels: Mapping[str, str] | None, history: str | int
) -> PreparedRequest[Record | None]:
    """Claim any session that has lost its worker."""
    wanted = None if labels is None else dict(labels)
    params = protocol.ClaimNextParams(worker_id=worker_id, labels=wanted, history=history)
    return PreparedRequest("session.claim_next", params, replies.any_record)


def release(session_id: str, epoch: int) -> PreparedRequest[None]:
    """Release a session."""
    validation.check_session_id(session_id)
    return PreparedRequest(
        "session.release", protocol.ReleaseParams(session_id=session_id, epoch=epoch), replies.nothing
    )
