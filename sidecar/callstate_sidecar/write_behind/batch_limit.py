"""How many sessions go in a batch: halved while batches are not answered, until the culprit is alone.

A session may be so large, or a script so slow, that its batch passes the store's timeout. Those of such a batch are
suspects: they are written in smaller and smaller batches until each was answered for or found guilty. Then batches
have their full size again.
"""

from __future__ import annotations

from collections.abc import Iterable


class BatchLimit:
    """The present bound of a batch.

    Args:
        most: sessions in a batch while all is well.

    Attributes:
        sessions: sessions in a batch now.
        suspects: ids of sessions whose batch was not answered.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.suspects: set[str] = set()
        self.sessions = most

    @property
    def is_searching(self) -> bool:
        """Whether there are suspects."""
        return bool(self.suspects)

    def halve(self, session_ids: list[str]) -> None:
        """These were sent together, and the batch was not answered."""
        self.suspects.update(session_ids)
        self.sessions = max(1, len(session_ids) // 2)

    def clear(self, session_ids: Iterable[str]) -> None:
        """These were answered, or need not be looked for any more."""
        before = len(self.suspects)
        self.suspects.difference_update(session_ids)
        if len(self.suspects) == before:
            self.suspects.clear()  # suspects go first, so those left are gone
        if not self.suspects:
            self.sessions = self._most
