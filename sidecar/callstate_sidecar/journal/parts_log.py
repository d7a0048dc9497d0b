"""Long histories that are written to the log in parts, ahead of the sessions that are about to have them.

A session is journaled as a whole when it becomes hot, by a read of the store or by a change, and when it gets the
history that the store has. If that is long, the parts of it are appended before, in slices of the loop, and what is
left for the group is small. Parts without it mean nothing: a replay drops them.
"""

from __future__ import annotations

from callstate_client.engine.sessions.parts import LONG_BYTES, parts_of
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.written_parts import WrittenParts
from callstate_sidecar.journal.log import Journal
from callstate_sidecar.slices import Slices


class PartsLog:
    """Writes the histories of sessions that are about to be journaled as a whole.

    Args:
        journal: gets them.
        slice_s: length of a slice; see `Slices`.
    """

    def __init__(self, journal: Journal, slice_s: float | None = None) -> None:
        self._journal = journal
        self._slice_s = slice_s

    async def write(self, session: Session) -> None:
        """Write the history of a session that is not hot, if it is long, and note in it what has been written."""
        if session.doc.history_bytes <= LONG_BYTES:
            return
        while session.written is None or not session.written.still_count():  # else a checkpoint has left it behind
            session.written = await self._written(session)

    async def _written(self, session: Session) -> WrittenParts:
        journal, slices = self._journal, Slices(self._slice_s)
        begun, key = journal.checkpoints_begun, journal.sequence + 1

        def still_count() -> bool:
            return journal.checkpoints_begun == begun

        parts = parts_of(session.doc)
        for number, part in enumerate(parts):
            try:
                journal.append([part.record(session.id, key, number)])
            except Exception:  # noqa: BLE001 - the group with the session will meet the same
                return WrittenParts(key, [], still_count)
            await slices.give_way()
        return WrittenParts(key, [part.chunks for part in parts], still_count)
