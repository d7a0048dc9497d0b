"""How often a call has changed hands in a row without staying anywhere, and whether it kills who holds it."""

from __future__ import annotations

from typing import Final

from callstate_client.engine.sessions.session import Entry

SHORT_US: Final = 60_000_000
"""A claimer that holds a call for a minute has got over its start: whatever ends it then, the call is not to blame,
and counting begins anew."""


def hold_ended(entry: Entry, now_us: int, *, crashed: bool = False) -> None:
    """Whoever claimed it holds it no more: counted once a claim, and not for who created it.

    It becomes part of the journal with the next change. After a restart the same is found again.

    Args:
        entry: the session.
        now_us: when, microseconds since 1970.
        crashed: the process of the claimer has exited.
    """
    if not entry.claimed_us:
        return
    if _is_short(entry, now_us):
        entry.handovers += 1
        entry.crashes += crashed
    else:
        entry.handovers = entry.crashes = 0
    entry.claimed_us = 0


def is_poison(entry: Entry, now_us: int, max_handovers: int) -> bool:
    """Whether it has killed too many, the holder that has just died included. 0: there is no limit."""
    crashes = entry.crashes
    if entry.claimed_us:
        crashes = crashes + 1 if _is_short(entry, now_us) else 0
    return 0 < max_handovers <= crashes


def _is_short(entry: Entry, now_us: int) -> bool:
    """Whether the present hold has lasted for less than a minute."""
    # who is found dead after a restart may have been so since its last sign of life
    until_us = entry.updated_us if entry.restored else now_us
    return until_us - entry.claimed_us < SHORT_US
