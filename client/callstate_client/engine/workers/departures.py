"""Sessions whose worker has left, until each has become a suspect or an orphan.

A worker may own ten thousand sessions, and requests must not wait until all of those are processed. So a departure
takes two steps, both in slices: the worker's sessions are listed as `pending`, each with the reason why it loses
its owner, and `Expiry.depart` processes some of the pending ones at a time.

While a session is pending, its owner is still recorded but no longer counts: any worker may claim the session. A
claim, release, end or deletion settles the departure as well (`Context.decide_departure`). A departure ends only
when the group that settled it is committed; after a rollback it is pending again.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Final

from callstate_client.engine.growing_dict import GrowingDict
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.table.session_table import SessionTable

LISTED_AT_ONCE: Final = 1000
"""Sessions of a worker that are listed at a time: about a millisecond."""


class Departures:
    """The sessions of workers that have left.

    Args:
        table: the sessions.
    """

    def __init__(self, table: SessionTable) -> None:
        self._table = table
        self.pending: GrowingDict[str] = GrowingDict()
        """Why each session loses its owner, by session id: EXITED or DISCONNECTED."""
        self._unlisted: dict[str, tuple[str, Iterator[list[Session]]]] = {}
        """By id of a worker that has left: the reason, and its sessions still to be listed."""

    def __bool__(self) -> bool:
        """Whether any session is still to be listed or processed."""
        return bool(self.pending or self._unlisted)

    @property
    def listing(self) -> bool:
        """Whether any session is still to be listed."""
        return bool(self._unlisted)

    def worker_left(self, worker_id: str, why: str) -> None:
        """A worker has left: its sessions lose their owner."""
        owned = self._table.index.owned.get(worker_id)
        if owned:
            self._unlisted[worker_id] = (why, owned.chunks(LISTED_AT_ONCE))
            self._list(worker_id)

    def list_all(self, worker_id: str) -> Generator[None]:
        """List all sessions of a worker that has left, in steps: before a successor of it owns any under its id."""
        while worker_id in self._unlisted:
            yield
            if worker_id in self._unlisted:
                self._list(worker_id)

    def list_some(self) -> None:
        """List more sessions of one worker that has left."""
        if self._unlisted:
            self._list(next(iter(self._unlisted)))

    def _list(self, worker_id: str) -> None:
        why, chunks = self._unlisted[worker_id]
        sessions = next(chunks, [])
        for session in sessions:
            if session.facts.owner == worker_id and not session.ended:
                self.pending[session.id] = why
        if len(sessions) < LISTED_AT_ONCE:
            del self._unlisted[worker_id]
