"""Sessions that pass from one host to another, as either of them sees it.

The store decides whose a session is, by a compare-and-set of its epoch; here its word is followed. The host that
has lost a session keeps a copy of what it had (table/set_aside.py) and knows the session no more: the next request
for it reads the store, finds another host's session and is refused as `fenced`. The host that has taken one over
keeps it hot from then on, as an orphan that waits for a worker.
"""

from __future__ import annotations

from callstate_client.engine.events import SUPERSEDED
from callstate_client.engine.interfaces import INTERNAL
from callstate_client.engine.reasons import HOST_LOST
from callstate_client.engine.rules.context import Context
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.stored import StoredSession


def lose(ctx: Context, session: Session, host: str) -> None:
    """A hot session belongs to another host by now: set it aside, and tell its worker by an event.

    Args:
        ctx: the sessions.
        session: as it is here.
        host: the host that has it.
    """
    now_us = ctx.now_us()
    ctx.events.note("fenced", now_us, session, reason=SUPERSEDED)
    ctx.lift(session)
    ctx.tx.set_aside(session, host, now_us)
    ctx.liveness.forget(session.id)


def adopt(ctx: Context, session_id: str, stored: StoredSession, host_id: str) -> Session | None:
    """A session of a dead host was taken over: keep it hot, with a full timeout in which to be claimed.

    Args:
        ctx: the sessions.
        session_id: its id.
        stored: as it was in the store.
        host_id: this host.

    Returns:
        the session; None where it is hot already.

    Raises:
        UnreadableError: its document can't be read.
    """
    if session_id in ctx.table.sessions:
        return None
    session = take_over(session_id, stored, host_id, HOST_LOST)
    owner = stored.meta.owner if stored.meta is not None else ""
    if session is None:
        return None
    ctx.tx.admit(session)
    ctx.watch(INTERNAL, session)
    ctx.events.note("orphaned", ctx.now_us(), session, reason=HOST_LOST, owner=owner)
    return session


def take_over(session_id: str, stored: StoredSession, host_id: str, why: str) -> Session | None:
    """A session that the store has given to this host; None where that is a tombstone.

    Args:
        session_id: its id.
        stored: as it was in the store, with the epoch that it was given.
        host_id: this host.
        why: it has no owner any more; what it says of itself if it was an orphan already.

    Raises:
        UnreadableError: its document can't be read.
    """
    session = Session.of_stored(session_id, stored, host_id)
    if session is None:
        return None
    session.host = None
    session.suspected = ""
    session.change_facts(owner="", instance="", orphan=session.facts.orphan or why)
    return session
