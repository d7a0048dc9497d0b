"""Events of a MemoryStore as they come: the counterpart of the daemon's subscribers, without a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType

from callstate_client.engine_events import checked_types
from callstate_client.protocol.events import Cursor, Event
from callstate_client.shelf import Shelf

__all__ = ["MemoryEvents"]


class MemoryEvents:
    """Events as they come: `async for event in stream`. For one task at a time.

    Nothing is missed from its making on. While somebody waits for an event, a clock that runs by itself wakes him
    when something is due; one that stands still does when it is moved. It ends when it, or its view, is closed.

    Args:
        shelf: whose events.
        types: which; none: all but `turn`.
        since: the last event one has; what came behind it and is kept comes first.
        view_closed: whether the view it was made by is closed.

    Raises:
        InvalidParamsError: there is no such type, or `since` is a place that is yet to come.
    """

    def __init__(
        self, shelf: Shelf, types: Sequence[str], since: Cursor | None, view_closed: Callable[[], bool]
    ) -> None:
        self._shelf = shelf
        self._view_closed = view_closed
        self._closed = False
        self._news = asyncio.Event()
        wanted = checked_types(types or None)
        shelf.catch_up()
        self._subscription = shelf.events.subscribe(wanted, since, shelf.clock.now(), self._news.set)

    @property
    def closed(self) -> bool:
        """Whether it, or its view, was closed."""
        return self._closed or self._view_closed()

    @property
    def cursor(self) -> Cursor:
        """The last event taken, or the place from which on they come."""
        return self._subscription.cursor

    def close(self) -> None:
        """Whoever waits for an event gets no more. May be called twice."""
        self._closed = True
        self._news.set()

    async def aclose(self) -> None:
        """As `close()`; for `contextlib.aclosing`."""
        self.close()

    async def __aenter__(self) -> MemoryEvents:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> MemoryEvents:
        return self

    async def __anext__(self) -> Event:
        """The next event, however long it takes.

        Raises:
            StopAsyncIteration: it is closed.
        """
        while not self.closed:
            self._news.clear()  # before looking: what comes after that sets it again
            event = self.take()
            if event is not None:
                return event
            with suppress(TimeoutError):
                async with asyncio.timeout(self._shelf.due_in_s()):
                    await self._news.wait()
        raise StopAsyncIteration

    def take(self) -> Event | None:
        """The next event, if it has come already."""
        self._shelf.catch_up()
        return None if self.closed else self._subscription.take()
