"""Errors that say what a session is instead of what the request presumed."""

from __future__ import annotations

from callstate_client.engine.sessions.session import Session
from callstate_client.errors import ConflictError, SessionEndedError
from callstate_client.model.times import format_us


def ended_error(session: Session) -> SessionEndedError:
    """The error that says when and why the session ended."""
    reason = session.facts.ended_reason
    return SessionEndedError(
        f"the session has ended: {reason}" if reason else "the session has ended",
        ended_at=format_us(session.ended_us),
        reason=reason,
    )


def version_conflict(session: Session, if_version: int) -> ConflictError:
    """The error for another `if_version` than the session's; for 0, with which there should be no session, it says
    what is there."""
    text, about = f"the session has version {session.version}", {}
    if if_version == 0:
        about["status"] = session.doc.status
        if session.ended:
            error = ended_error(session)
            text, about = error.message, about | error.data
    return ConflictError(text, version=session.version, **about)
