"""Sessions still to be read from the store: users take turns, and so do the processes of each user.

Thousands may wait after the store has stood still for a moment. Whoever asks for one then does not wait for all
that others have asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable


class Wanted:
    """A queue of session ids."""

    def __init__(self) -> None:
        self._users: dict[Hashable, dict[Hashable, deque[str]]] = {}
        """The users in turn: the first one is next, and of its processes the first one."""
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, session_id: str, user: Hashable, process: Hashable) -> None:
        """Queue a session that this process of this user asks for."""
        self._users.setdefault(user, {}).setdefault(process, deque()).append(session_id)
        self._size += 1

    def take(self, most: int) -> list[str]:
        """Remove and return up to this many."""
        some: list[str] = []
        users = self._users
        while users and len(some) < most:
            user = next(iter(users))
            processes = users.pop(user)
            process = next(iter(processes))
            ids = processes.pop(process)
            some.append(ids.popleft())
            if ids:
                processes[process] = ids
            if processes:
                users[user] = processes
        self._size -= len(some)
        return some
