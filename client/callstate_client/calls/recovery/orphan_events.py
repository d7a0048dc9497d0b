"""Which sessions may be claimable, according to events, so that a recoverer sends no claims that can't succeed.

Of many recoverers that are notified of an orphan, one gets it. The next event tells the others, mostly before they
have sent a claim, since each first waits a random time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from callstate_client.calls.handle import CallHandle
from callstate_client.calls.recovery.retries import Retries
from callstate_client.protocol.events import GAP, Event
from callstate_client.requester import EventSource

__all__ = ["TYPES", "OrphanEvents"]

CLAIMABLE: Final = ("suspect", "orphaned", "released")
"""Events after which a session may be claimed."""

OVER: Final = ("ended", "expired", "deleted")
"""Events after which it can't be claimed."""

TAKEN: Final = ("claimed", "recovered", *OVER)
"""Events after which it need not be claimed."""

TYPES: Final = (*CLAIMABLE, *TAKEN)
"""Events to subscribe to."""

ANY: Final = ""
"""In place of an id: there may be sessions to claim, but it is not known which."""


class OrphanEvents:
    """The sessions that may be claimable; at first, any may be.

    Args:
        events: the subscription, to TYPES.
        labels: only sessions that have all of these; None for all sessions.
        retries: knows the sessions that were abandoned, and forgets those that are over.
    """

    def __init__(self, events: EventSource, labels: Mapping[str, str] | None, retries: Retries[CallHandle]) -> None:
        self._events = events
        self._labels = labels or {}
        self._retries = retries
        self._candidates = {ANY}
        self._next: asyncio.Task[Event] | None = None

    def __bool__(self) -> bool:
        """Whether there may be a session to claim."""
        return bool(self._candidates)

    def add_any(self) -> None:
        """Note that there may be more sessions."""
        self._candidates.add(ANY)

    def clear(self) -> None:
        """Forget the candidates: the next claim finds those of them that others have not claimed."""
        self._candidates.clear()

    async def wait(self, timeout_s: float | None) -> bool:
        """Wait for the next event; False if the subscription has ended.

        Args:
            timeout_s: return after this time, seconds; None: no limit.
        """
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._events))
        done, _ = await asyncio.wait((self._next,), timeout=timeout_s)
        if not done:
            return True
        event, self._next = self._next, None
        try:
            self._note(event.result())
        except StopAsyncIteration:
            return False
        return True

    def note_arrived(self) -> None:
        """Process the events that have arrived, without waiting."""
        if self._next is not None and self._next.done() and self._next.exception() is None:
            self._note(self._next.result())
            self._next = None
        if self._next is None:
            while (event := self._events.take()) is not None:
                self._note(event)

    def close(self) -> None:
        """Stop waiting for events."""
        if self._next is not None and not self._next.cancel() and not self._next.cancelled():
            self._next.exception()  # retrieved, so that asyncio does not log it

    def _note(self, event: Event) -> None:
        if event.type == GAP:
            self._candidates.add(ANY)
        elif event.session_id is None:
            return
        elif self._retries.is_abandoned(event.session_id):
            if event.type in OVER:
                self._retries.forget(event.session_id)
        elif event.type in TAKEN:
            self._candidates.discard(event.session_id)
        elif self._labels.items() <= event.labels.items():
            self._candidates.add(event.session_id)
