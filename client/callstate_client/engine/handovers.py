"""How often a call has changed hands in a row without staying anywhere, and whether it kills who holds it."""

from __future__ import annotations

from typing import Final

from callstate_client.engine.sessions.session import Session

SHORT_US: Final = 60_000_000
"""A claimer that holds a call for a minute has got over its start: whatever ends it then, the call is not to blame,
and counting begins anew."""


def hold_ended(session: Session, now_us: int, *, crashed: bool = False) -> None:
    """Whoever claimed it holds it no more: counted once a claim, and not for who created it.

    It becomes part of the journal with the next change. After a restart the same is found again.

    Args:
        session: the session.
        now_us: when, microseconds since 1970.
        crashed: the process of the claimer has exited.
    """
    facts = session.facts
    if not facts.claimed_us:
        return
    handovers = crashes = 0
    if _is_short(session, now_us):
        handovers, crashes = facts.handovers + 1, facts.crashes + crashed
    session.change_facts(claimed_us=0, handovers=handovers, crashes=crashes)


def is_poison(session: Session, now_us: int, max_handovers: int) -> bool:
    """Whether it has killed too many, the holder that has just died included. 0: there is no limit."""
    crashes = session.facts.crashes
    if session.facts.claimed_us:
        crashes = crashes + 1 if _is_short(session, now_us) else 0
    return 0 < max_handovers <= crashes


def _is_short(session: Session, now_us: int) -> bool:
    """Whether the present hold has lasted for less than a minute."""
    # who is found dead after a restart may have been so since its last sign of life
    until_us = session.updated_us if session.restored else now_us
    return until_us - session.facts.claimed_us < SHORT_US
