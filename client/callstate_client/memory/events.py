"""Events of a MemoryStore: a subscriber of the engine that is read by `async for`."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType

from callstate_client.engine.user import NOBODY
from callstate_client.memory.sessions import Sessions
from callstate_client.memory.views import View
from callstate_client.protocol.events import GAP, Cursor, Event, decode_event
from callstate_client.protocol.messages import decode_incoming, decode_subscribe, encode_request
from callstate_client.protocol.params import SubscribeParams

__all__ = ["MemoryEvents"]


class _Subscriber:
    """A connection for events only (Caller).

    It keeps events that were not taken yet, up to a limit. Beyond it the oldest is dropped, and reported by a gap.

    Args:
        limit: how many may be kept.
        wake: called when there are new events.
    """

    worker = ""
    instance = ""
    told_timeout_s = 0.0
    user = NOBODY
    unsent_bytes = 0

    def __init__(self, limit: int, wake: Callable[[], None]) -> None:
        self._limit = limit
        self._wake = wake
        self._waiting: deque[Event] = deque()
        self._gap: Event | None = None

    def send(self, data: bytes, /) -> None:
        """Receive lines of events."""
        for line in data.splitlines():
            event = decode_event(decode_incoming(line).params or b"{}")
            if len(self._waiting) >= self._limit:
                missed = self._waiting.popleft()
                self._gap = Event(cursor=missed.cursor, type=GAP, at=event.at, reason="overrun")
            self._waiting.append(event)
        self._wake()

    def close(self) -> None:
        """Never called: the engine closes only slow readers, and this one reads at once."""

    def take(self) -> Event | None:
        """The next event, if there is one."""
        event, self._gap = self._gap, None
        if event is None and self._waiting:
            event = self._waiting.popleft()
        return event


class MemoryEvents:
    """Events as they arrive: `async for event in stream`. For one task at a time.

    No event is missed from its creation on. A task that waits for an event is woken by other tasks' changes and by
    deadlines: in time if the clock runs, else when it is advanced. Iteration ends once the stream or its view is
    closed.

    Args:
        sessions: whose events.
        types: which; none: all but `turn`.
        since: the last event seen; later ones that are still kept come first.
        worker_id: leave out what workers other than this one do with their own sessions; None: leave out nothing.
        view: the view of the worker.

    Raises:
        InvalidParamsError: there is no such type, or `since` is beyond the last event.
    """

    def __init__(
        self, sessions: Sessions, types: Sequence[str], since: Cursor | None, worker_id: str | None, view: View
    ) -> None:
        self._sessions = sessions
        self._view = view
        self._closed = False
        self._news = asyncio.Event()
        self._subscriber = _Subscriber(sessions.engine.ctx.limits.events, self._news.set)
        place = None if since is None else since.since()
        params = SubscribeParams(types=[*types] or None, since=place, worker_id=worker_id)
        subscribed = decode_subscribe(
            sessions.answer(self._subscriber, encode_request(0, "events.subscribe", params))
        )
        self._cursor = Cursor(subscribed.stream, subscribed.seq)
        sessions.waiting.add(self._news)
        # a stream that is garbage-collected is unsubscribed
        self._unsubscribe = weakref.finalize(self, sessions.engine.events.unsubscribe, self._subscriber)
        self._unsubscribe.atexit = False

    @property
    def closed(self) -> bool:
        """Whether it or its view was closed."""
        return self._closed or self._view.closed

    @property
    def cursor(self) -> Cursor:
        """The last event taken, or the position that events are read from."""
        return self._cursor

    def close(self) -> None:
        """End the stream, and the wait of a task. May be called twice."""
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
            self._news.clear()  # before checking: what arrives after that sets it again
            event = self.take()
            if event is not None:
                return event
            if self._sessions.engine.events.is_behind(self._subscriber):
                self._sessions.engine.events.catch_up()
                await asyncio.sleep(0)  # what was missed may be much: others run in between
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self._sessions.due_in_s()):
                    await self._news.wait()
        raise StopAsyncIteration

    def take(self) -> Event | None:
        """The next event, if it has arrived."""
        self._sessions.catch_up()
        event = None if self.closed else self._subscriber.take()
        if event is not None:
            self._cursor = event.cursor
        return event
