"""The events of a MemoryStore: numbered, kept for those who come back, handed to those who listen. Pure."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final
from weakref import WeakSet

from callstate_client.engine_kept import Kept
from callstate_client.errors import InvalidParamsError
from callstate_client.protocol.events import (
    DEFAULT_TYPES,
    GAP,
    TURN,
    TYPES,
    Cursor,
    Event,
    EventType,
)
from callstate_client.protocol.validation import wrong

EVENTS: Final = 10_000
"""`limits.events` of a daemon, by default: so many are kept, and so many may wait for who takes them."""


def checked_types(types: Sequence[str] | None) -> frozenset[str]:
    """Which events are meant; None: all but `turn`.

    Raises:
        InvalidParamsError: there is no such type.
    """
    if types is None:
        return DEFAULT_TYPES
    for index, name in enumerate(types):
        if name not in TYPES and name != GAP:
            raise wrong(f"$.params.types[{index}]", f"one of {', '.join(sorted(TYPES))}")
    return frozenset(types)


class Subscription:
    """Who listens: what it has not taken yet, up to a bound. The oldest goes first, and is told as a gap.

    Args:
        types: which events it gets.
        cursor: behind which it gets them.
        backlog: those of them that there are already.
        limit: how many may wait.
        wake: called when there may be something new.
    """

    def __init__(
        self,
        types: frozenset[str],
        cursor: Cursor,
        backlog: Sequence[Event],
        limit: int,
        wake: Callable[[], None],
    ) -> None:
        self.types = types
        self.cursor = cursor
        """Of the last event taken, or the place from which on they come."""
        self.wake = wake
        self._limit = limit
        self._waiting = deque(backlog)
        self._gap: Event | None = None

    def offer(self, event: Event) -> None:
        """Something happened."""
        if event.type not in self.types:
            return
        if len(self._waiting) >= self._limit:
            missed = self._waiting.popleft()
            self._gap = Event(cursor=missed.cursor, type=GAP, at=event.at, reason="overrun")
        self._waiting.append(event)

    def take(self) -> Event | None:
        """The next event; None: there is none yet."""
        event, self._gap = self._gap, None
        if event is None and self._waiting:
            event = self._waiting.popleft()
        if event is not None:
            self.cursor = event.cursor
        return event


class Events:
    """All that happened to the sessions and workers of one store.

    Args:
        limit: how many events are kept.
    """

    def __init__(self, limit: int) -> None:
        self.stream = secrets.token_hex(8)
        """Names this store's events among others'."""
        self.seq = 0
        """Of the last event."""
        self._limit = limit
        self._ring: deque[Event] = deque()
        self._lost_seq = 0
        """Of the last event that was kept and is not any more."""
        self._subscriptions: WeakSet[Subscription] = WeakSet()

    def note(self, type_: EventType, at: datetime, kept: Kept | None = None, **more: Any) -> None:
        """Something happened.

        Args:
            type_: what.
            at: when.
            kept: the session it happened to, as it is now.
            more: further members of the event, or others in place of the session's.
        """
        if type_ == TURN and not self._wants_turns():
            return
        self.seq += 1
        members: dict[str, Any] = {} if kept is None else _members(kept)
        members |= {name: None if value == "" else value for name, value in more.items()}
        event = Event(cursor=Cursor(self.stream, self.seq), type=type_, at=at, **members)
        if type_ != TURN:
            self._ring.append(event)
            if len(self._ring) > self._limit:
                self._lost_seq = self._ring.popleft().cursor.seq
        for subscription in [*self._subscriptions]:
            subscription.offer(event)
        self.stir()

    def _wants_turns(self) -> bool:
        return any(TURN in subscription.types for subscription in self._subscriptions)

    def stir(self) -> None:
        """Let everybody who listens look again: at what there is, and when something is due."""
        for subscription in [*self._subscriptions]:
            subscription.wake()

    def place(self, since: Cursor | None) -> tuple[Cursor, str]:
        """From where on one is told who comes back with `since`, and why something is missing before that.

        Raises:
            InvalidParamsError: there is no such place yet.
        """
        seq, gap = self.seq, ""
        if since is not None and since.stream != self.stream:
            gap = "restart"
        elif since is not None and since.seq > seq:
            raise InvalidParamsError(
                f"an event that has not happened yet at $.params.since.seq: expected at most {seq}",
                path="$.params.since.seq",
                expected=f"at most {seq}",
            )
        elif since is not None and since.seq < self._lost_seq:
            seq, gap = self._lost_seq, "overrun"
        elif since is not None:
            seq = since.seq
        return Cursor(self.stream, seq), gap

    def subscribe(
        self, types: frozenset[str], since: Cursor | None, at: datetime, wake: Callable[[], None]
    ) -> Subscription:
        """Listen for as long as the subscription is kept.

        Args:
            types: which events.
            since: the last event one has; what is kept behind it comes first.
            at: the present time.
            wake: called when there may be something new.

        Raises:
            InvalidParamsError: there is no such place yet.
        """
        cursor, gap = self.place(since)
        backlog = [event for event in self._ring if event.cursor.seq > cursor.seq and event.type in types]
        if gap:
            backlog.insert(0, Event(cursor=cursor, type=GAP, at=at, reason=gap))
        subscription = Subscription(types, cursor, backlog, self._limit, wake)
        self._subscriptions.add(subscription)
        return subscription


def _members(kept: Kept) -> dict[str, Any]:
    state = kept.state
    return {
        "session_id": state.id,
        "provider": state.provider or None,
        "call_id": state.call_id or None,
        "labels": dict(kept.labels),
        "owner": kept.owner or None,
        "epoch": kept.epoch,
    }
