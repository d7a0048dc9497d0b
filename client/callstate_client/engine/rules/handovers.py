"""Handovers of a call, and poison: a call that kills the workers which claim it.

A hold that ends within a minute of its claim is a handover, and a crash where the claimer's process has exited.
Both are counted in a row: a hold that lasts longer begins the count anew. A call whose claimers crashed
`max_handovers` times is ended as `poisoned` instead of being offered to yet another worker.
"""

from __future__ import annotations

from typing import Final

from callstate_client.engine.sessions.session import Session

SHORT_US: Final = 60_000_000
"""A claimer that has held a call for a minute has survived taking it over: what ends its hold later is not the
call's fault."""


def hold_ended(session: Session, now_us: int, *, crashed: bool = False) -> None:
    """The hold of a claimer has ended: count it, once for each claim. The hold of the worker that created it isn't.

    The counts become part of the journal with the next change. After a restart the same is found again.

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
    """Whether it has killed too many, including the present holder, which has just died. With 0 it never is."""
    crashes = session.facts.crashes
    if session.facts.claimed_us:
        crashes = crashes + 1 if _is_short(session, now_us) else 0
    return 0 < max_handovers <= crashes


def _is_short(session: Session, now_us: int) -> bool:
    """Whether the present hold has lasted for less than a minute."""
    # a holder found dead after a restart may have died right after its last sign of life
    until_us = session.updated_us if session.restored else now_us
    return until_us - session.facts.claimed_us < SHORT_US
