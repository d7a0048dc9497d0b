"""Sessions that move from one host to another: how they leave one, and how they arrive at the other.

The store decides which host has a session, by a compare-and-set of its epoch; this module applies the decision. The
host that has lost a session sets a copy aside (table/set_aside.py) and drops it: the next request for it reads the
store, finds another host's session and is refused as `fenced`. The host that has taken one over keeps it hot from
then on, as an orphan to be claimed.
"""

from __future__ import annotations

from collections.abc import Generator

from callstate_client.engine.events import SUPERSEDED
from callstate_client.engine.interfaces import INTERNAL
from callstate_client.engine.reasons import HOST_LOST
from callstate_client.engine.rules.context import Context
from callstate_client.engine.rules.lifecycle import revive
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.store_form import session_in_steps
from callstate_client.engine.sessions.stored import StoredSession


def lose(ctx: Context, session: Session, host: str) -> None:
    """Set aside a hot session that another host has taken over, and report it to its worker by an event.

    Args:
        ctx: the sessions.
        session: its state on this host.
        host: the host that has it now.
    """
    now_us = ctx.now_us()
    ctx.events.note("fenced", now_us, session, reason=SUPERSEDED)
    ctx.lift(session)
    ctx.tx.set_aside(session, host, now_us)
    ctx.liveness.forget(session)


def adopt(ctx: Context, session: Session, owner: str) -> None:
    """Make a session that was taken over from a dead host hot, with a full timeout in which to be claimed.

    Args:
        ctx: the sessions.
        session: as `take_over` returns it. It must not be hot.
        owner: who had it.
    """
    ctx.tx.admit(session)
    ctx.watch(INTERNAL, session)
    ctx.events.note("orphaned", ctx.now_us(), session, reason=HOST_LOST, owner=owner)


def take_over(
    session_id: str, stored: StoredSession, host_id: str, why: str
) -> Generator[None, None, Session | None]:
    """Make a session that the store has reassigned to this host an orphan of this host, read in steps if it is
    long; None for a tombstone.

    One that its former host had reaped lives again, with the status it had.

    Args:
        session_id: its id.
        stored: its state in the store, with the epoch that this host was given.
        host_id: this host.
        why: why it has no owner; ignored if it was an orphan already.

    Raises:
        UnreadableError: its document can't be read.
    """
    session = yield from session_in_steps(session_id, stored, host_id)
    if session is None:
        return None
    session.host = None
    session.suspected = ""
    if session.facts.reaped:
        session.change_facts(**revive(session))
    session.change_facts(owner="", instance="", orphan=session.facts.orphan or why)
    return session
