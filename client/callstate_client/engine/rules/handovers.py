"""Handovers of a call, and poison: a call that kills the workers which claim it.

A hold that ends within a minute of its claim counts as a handover, and also as a crash if the claimer's process has
exited. Consecutive ones are counted: a longer hold resets both counts. A call whose claimers have crashed
`max_handovers` times is ended as `poisoned` instead of being offered to another worker.
"""

from __future__ import annotations

from typing import Any, Final

from callstate_client.engine.sessions.session import Session

SHORT_US: Final = 60_000_000
"""A claimer that has held a call for a minute has survived the handover: the call is not to blame for what ends the
hold later."""


def counted_hold(session: Session, now_us: int, *, crashed: bool = False) -> dict[str, Any]:
    """Count a claimer's hold that ends, once per claim; the hold of the worker that created it never counts.

    Args:
        session: the session, as it was held.
        now_us: the present time, microseconds since 1970.
        crashed: the claimer's process has exited.

    Returns:
        the changed facts, for `Session.change_facts`.
    """
    facts = session.facts
    if not facts.claimed_us:
        return {}
    handovers = crashes = 0
    if _is_short(session, now_us):
        handovers, crashes = facts.handovers + 1, facts.crashes + crashed
    return {"claimed_us": 0, "handovers": handovers, "crashes": crashes}


def is_poison(session: Session, now_us: int, max_handovers: int) -> bool:
    """Whether too many claimers have crashed, including the present one, which has just died; never with 0."""
    crashes = session.facts.crashes
    if session.facts.claimed_us:
        crashes = crashes + 1 if _is_short(session, now_us) else 0
    return 0 < max_handovers <= crashes


def _is_short(session: Session, now_us: int) -> bool:
    """Whether the present hold has lasted for less than a minute."""
    # an owner found dead after a restart may have died right after its last sign of life
    until_us = session.updated_us if session.restored else now_us
    return until_us - session.facts.claimed_us < SHORT_US
