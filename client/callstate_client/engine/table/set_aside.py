"""Copies of sessions that another host has taken over, as they were here when this host learned it.

What was acknowledged here before that is in the copy, and may not be in the store. Nothing is done with a copy: it
is kept in memory and journal, for a person to look at, until somebody drops it. The same session may be lost more
than once, each time with another version.
"""

from __future__ import annotations

from collections.abc import Iterator

from callstate_client.engine.sessions.records import SetAsideRecord


class SetAside:
    """The copies, by session id."""

    def __init__(self) -> None:
        self._copies: dict[str, dict[int, SetAsideRecord]] = {}

    def __len__(self) -> int:
        return len(self._copies)

    def __iter__(self) -> Iterator[str]:
        return iter(self._copies)

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._copies

    def of(self, session_id: str) -> list[SetAsideRecord]:
        """The copies of one session, oldest first."""
        return [*self._copies.get(session_id, {}).values()]

    def add(self, copy: SetAsideRecord) -> None:
        """Keep a copy; one of the same version is the same."""
        self._copies.setdefault(copy.state.session_id, {})[copy.state.version] = copy

    def drop(self, session_id: str, version: int) -> None:
        """Drop a copy, if there is one of this version."""
        copies = self._copies.get(session_id, {})
        copies.pop(version, None)
        if not copies:
            self._copies.pop(session_id, None)
