"""Long histories that are written to the log in parts, ahead of the sessions that are about to become hot.

A session that is read from the store is journaled as a whole when it becomes hot. If its history is long, the parts
of it are appended before, in slices of the loop, and what is left for the group that makes it hot is small. Parts
without that record mean nothing: a replay drops them.
"""

from __future__ import annotations

from callstate_client.engine.sessions.parts import LONG_BYTES, in_parts
from callstate_client.engine.sessions.records import PartRecord, StateRecord
from callstate_client.engine.sessions.session import Session
from callstate_sidecar.journal.log import Journal
from callstate_sidecar.slices import Slices


class PartsLog:
    """Writes the parts of sessions that are about to become hot.

    Args:
        journal: gets them.
        slice_s: as of `Slices`.
    """

    def __init__(self, journal: Journal, slice_s: float | None = None) -> None:
        self._journal = journal
        self._slice_s = slice_s
        self._written: dict[str, tuple[Session, StateRecord, int]] = {}
        """By id, until they are taken: sessions, the records that have their parts, and the checkpoints begun."""

    async def write(self, session: Session) -> None:
        """Write the parts of a session, if it is long. It must not change until its record is taken."""
        if session.doc.history_bytes <= LONG_BYTES:
            return
        journal, slices = self._journal, Slices(self._slice_s)
        begun = journal.checkpoints_begun
        for record in in_parts(session, journal.sequence + 1):
            if isinstance(record, PartRecord):
                try:
                    journal.append([record])
                except Exception:  # noqa: BLE001 - as for a group, which will meet the same
                    return
                await slices.give_way()
            else:
                self._written[session.id] = session, record, begun

    def take(self, session: Session) -> StateRecord | None:
        """The record that makes the parts a session, to be written in this turn of the loop; None: it has to be
        written as a whole."""
        written = self._written.pop(session.id, None)
        if written is None or written[0] is not session or written[2] != self._journal.checkpoints_begun:
            return None  # a checkpoint has left the parts behind
        return written[1]
