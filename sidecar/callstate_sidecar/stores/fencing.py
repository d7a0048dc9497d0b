"""The fencing rule: which write may replace what a store holds.

Every write carries a stamp, the host, epoch and version of the session it came from, and the store compares it with
the stamp that it holds, in the same transaction or script as the write itself. So a host that has lost a session to
another can't overwrite what the new owner wrote, however late its write arrives.

`redis/scripts.py` has both rules again in Lua, because Redis has to apply them; one table of cases tests both.
"""

from __future__ import annotations

from typing import NamedTuple


class Stamp(NamedTuple):
    """Who wrote a session, and how far it had come."""

    host: str
    epoch: int
    version: int


def takes(held: Stamp | None, new: Stamp) -> bool:
    """Whether a write replaces what is held.

    A higher epoch does. So does the same epoch and host with a version at least as high: an equal version is the
    same write repeated after its reply was lost. A document without a stamp was not written by a daemon and is
    replaced.
    """
    if held is None or new.epoch > held.epoch:
        return True
    return new.epoch == held.epoch and new.host == held.host and new.version >= held.version


def unseen(held: Stamp | None, new: Stamp, seen: int | None, *, there: bool) -> bool:
    """Whether the store holds something that the session to be written does not take into account.

    Args:
        held: the stamp that the store holds; None for none.
        new: the write's stamp.
        seen: `Write.seen`, the version that the session is based on; 0: none; None: not to be checked.
        there: whether the store has a document, stamped or not.
    """
    if seen is None:
        return False
    if seen == 0:
        return there or held is not None
    return held is not None and held.host == new.host and held.version > seen and held.version != new.version


def superseded_by(held: Stamp) -> str:
    """Describe what a refused write ran into."""
    return f"the store has epoch {held.epoch}, version {held.version} of host {held.host or '(none)'}"
