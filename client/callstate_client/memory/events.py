"""Events of a MemoryStore as they come: a subscriber of the engine's that is read by `async for`."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType

from callstate_client.memory.sessions import Sessions
from callstate_client.memory.views import View
from callstate_client.protocol.events import GAP, Cursor, Event, decode_event
from callstate_client.protocol.messages import decode_incoming, decode_subscribe, encode_request
from callstate_client.protocol.params import SubscribeParams

__all__ = ["MemoryEvents"]


class _Subscriber:
    """A connection that is there for events alone (Caller).

    It keeps those that were not taken yet, up to a bound. Beyond it the oldest is dropped, and a gap tells of that.

    Args:
        limit: how many may wait to be taken.
        wake: called when there is something new.
    """

    worker = ""
    instance = ""
    told_timeout_s = 0.0
    unsent_bytes = 0

    def __init__(self, limit: int, wake: Callable[[], None]) -> None:
        self._limit = limit
        self._wake = wake
        self._waiting: deque[Event] = deque()
        self._gap: Event | None = None

    def send(self, data: bytes, /) -> None:
        """Take lines of events."""
        for line in data.splitlines():
            event = decode_event(decode_incoming(line).params or b"{}")
            if event.type == GAP:
                self._gap = event
                continue
            if len(self._waiting) >= self._limit:
                missed = self._waiting.popleft()
                self._gap = Event(cursor=missed.cursor, type=GAP, at=event.at, reason="overrun")
            self._waiting.append(event)
        self._wake()

    def close(self) -> None:
        """The engine closes nobody who reads at once."""

    def take(self) -> Event | None:
        """The next event, if there is one."""
        event, self._gap = self._gap, None
        if event is None and self._waiting:
            event = self._waiting.popleft()
        return event


class MemoryEvents:
    """Events as they come: `async for event in stream`. For one task at a time.

    Nothing is missed from its creation on. A task that waits for an event is woken by what others do and by what
    becomes due: with a clock that runs, in time; with one that stands still, when that is moved. Iteration ends
    once the stream, or the view it is of, is closed.

    Args:
        sessions: whose events.
        types: which; none: all but `turn`.
        since: the last event one has; what came after it and is still kept comes first.
        view: the one it is of.

    Raises:
        InvalidParamsError: there is no such type, or `since` is a place that is yet to come.
    """

    def __init__(self, sessions: Sessions, types: Sequence[str], since: Cursor | None, view: View) -> None:
        self._sessions = sessions
        self._view = view
        self._closed = False
        self._news = asyncio.Event()
        self._subscriber = _Subscriber(sessions.engine.ctx.limits.events, self._news.set)
        params = SubscribeParams(types=[*types] or None, since=None if since is None else since.since())
        subscribed = decode_subscribe(
            sessions.answer(self._subscriber, encode_request(0, "events.subscribe", params))
        )
        self._cursor = Cursor(subscribed.stream, subscribed.seq)
        sessions.waiting.add(self._news)
        # a stream that nobody has any more listens no more
        self._unsubscribe = weakref.finalize(self, sessions.engine.events.unsubscribe, self._subscriber)
        self._unsubscribe.atexit = False

    @property
    def closed(self) -> bool:
        """Whether it, or its view, was closed."""
        return self._closed or self._view.closed

    @property
    def cursor(self) -> Cursor:
        """The last event taken, or the place from which on they come."""
        return self._cursor

    def close(self) -> None:
        """End the stream, also for a task that waits. May be called twice."""
        self._closed = True
        self._unsubscribe()
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
                async with asyncio.timeout(self._sessions.due_in_s()):
                    await self._news.wait()
        raise StopAsyncIteration

    def take(self) -> Event | None:
        """The next event, if it has come already."""
        self._sessions.catch_up()
        event = None if self.closed else self._subscriber.take()
        if event is not None:
            self._cursor = event.cursor
        return event
