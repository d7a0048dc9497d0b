"""Events: collected while a group is open, published once it is journaled, and kept for reconnecting subscribers.

Pure: no I/O of its own; the current time is passed in. An event is encoded once for all subscribers.

A subscriber that has come back is sent what it has missed some at a time, in later turns of the loop if that is
much or if many come back at once. It stays behind until then: new events reach it in their order, from the ring, or
from its own queue those that are not kept there. What the ring drops before it was sent is a gap, as if it had been
dropped before the subscriber came.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final, NamedTuple, Protocol

from callstate_client.engine.event_line import NotedEvent, event_line
from callstate_client.engine.event_ring import EventRing, Kept
from callstate_client.engine.hot_bytes import HotBytes
from callstate_client.engine.missed_events import MissedEvents
from callstate_client.engine.reasons import HOST_LOST
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.user import UNKNOWN, User
from callstate_client.errors import InvalidParamsError, OverloadedError
from callstate_client.protocol.events import GAP, TURN, Cursor, EventType
from callstate_client.protocol.messages import encode_json

EVENTS_A_TURN: Final = 500
"""Kept events looked at in one go for all that have missed some: about half a millisecond. More are sent later."""

BYTES_A_TURN: Final = 256 * 1024
"""Bytes of them that are sent in one go: their lines are copied twice, and into the socket."""

CHANGES: Final = frozenset(
    {"created", "ended", "expired", "orphaned", "claimed", "released", "deleted", TURN}
)  # fmt: skip
"""Events that report changes made by the group: a rollback drops them. The others (a worker left, a session fell
silent, a caller was refused) survive it."""

REVIVED: Final = "revived"
"""Reason of `recovered` for a session that had ended: also a change, so a rollback drops it."""

MERGED: Final = "merged"
NEWER: Final = "store_newer"
FOREIGN: Final = "foreign_write"
"""Reasons of `recovered` for a session merged with the store's state: also changes."""

SET_ASIDE: Final = "foreign_set_aside"
"""Reason of `recovered` for a session that was written over a change of other software, which was set aside."""

SUPERSEDED: Final = "superseded"
"""Reason of `fenced` for a session of this daemon that another host has taken over: the store's state wins."""

CUT_OFF: Final = b'{"jsonrpc":"2.0","id":null,"error":%b}\n' % encode_json(
    OverloadedError("events were not read").to_wire()
)
"""The last line sent to a subscriber that does not keep up."""


class Subscriber(Protocol):
    """A connection that subscribes to events."""

    @property
    def user(self) -> User:
        """Who connected."""
        ...

    @property
    def unsent_bytes(self) -> int:
        """Bytes queued and not yet read."""
        ...

    def send(self, data: bytes, /) -> object:
        """Append lines to the send queue."""
        ...

    def close(self) -> None:
        """Close the connection once the queue is sent."""
        ...


class _Interest(NamedTuple):
    """What a subscriber wants to be told of.

    Args:
        types: of events.
        worker: of what workers do with their own sessions, only what this one does; empty: all.
    """

    types: frozenset[str]
    worker: str

    def wants(self, kept: Kept) -> bool:
        """Whether it wants this event."""
        return kept.type in self.types and (not self.worker or kept.own in ("", self.worker))


class Audience(Protocol):
    """Who is told of which sessions (interfaces.Access)."""

    def sees_all(self, user: User, /) -> bool:
        """Whether every session is shown to this user."""
        ...

    def sees(self, user: User, uid: int, gid: int, /) -> bool:
        """Whether a session of this creator is shown to this user."""
        ...


class Events:
    """The events of one engine, and its subscribers.

    Args:
        limit: how many events are kept; `ring.limit` may be changed later.
        stream: the name of the stream, new at each start.
        hot: counts the bytes of kept events.
    """

    def __init__(self, limit: int, stream: str, hot: HotBytes | None = None) -> None:
        self.ring = EventRing(limit, HotBytes() if hot is None else hot)
        self.most_a_turn = EVENTS_A_TURN
        """Kept events looked at in one go."""
        self.stream = stream
        self.seq = 0
        """The last published event's number."""
        self.guard: Audience | None = None
        """Decides who is told of what; None: everybody of everything."""
        self.wants_turns = False
        """Whether there is a subscriber to `turn`; otherwise those events are not recorded."""
        self._open: list[NotedEvent] = []
        self._subscribers: dict[Subscriber, _Interest] = {}
        self._behind: dict[Subscriber, MissedEvents] = {}
        """Those that have missed events, the one first that waits for some for longest."""
        self._fresh = False
        """Whether there are some that have not been sent any."""

    @property
    def subscribers(self) -> int:
        """The number of subscribers."""
        return len(self._subscribers)

    def is_subscribed(self, caller: Subscriber) -> bool:
        """Whether it is a subscriber."""
        return caller in self._subscribers

    # -- recording -----------------------------------------------------------------------------------------

    def note(
        self,
        type_: EventType,
        now_us: int,
        session: Session | None = None,
        *,
        reason: str = "",
        evidence: str = "",
        deadline_us: int = 0,
        owner: str = "",
        own: str = "",
        **more: str | int | bool,
    ) -> None:
        """Record an event, to be published once the open group is journaled.

        Args:
            type_: the event's type.
            now_us: when, microseconds since 1970.
            session: the session it happened to, as it is now.
            reason: why.
            evidence: what a suspicion is based on.
            deadline_us: when a suspect is reaped, microseconds since 1970.
            owner: overrides the session's owner, which it has just lost.
            own: the worker that did this to its own session, or to one that was nobody's; empty for all else.
            more: further members: `worker_id`, `error`, `drain`, `turn_count`.
        """
        if type_ == TURN and not self.wants_turns:
            return
        about = None
        if session is not None:
            doc = session.doc  # its labels are replaced, never changed, so they need no copy
            about = (
                session.id,
                doc.provider,
                doc.call_id,
                session.facts.labels,
                owner or session.facts.owner,
                session.facts.epoch,
            )
        uid, gid = (UNKNOWN, UNKNOWN) if session is None else (session.facts.uid, session.facts.gid)
        self._open.append(NotedEvent(type_, now_us, about, reason, evidence, deadline_us, more, uid, gid, own))

    def drop_undone(self, fenced: Mapping[str, int]) -> None:
        """Drop the events of the changes that a rollback undid.

        Args:
            fenced: the last epoch in which a caller was fenced off, by restored session. A `fenced` event of
                another epoch is dropped: it no longer holds, or is recorded again when the request is rerun.
        """
        self._open = [noted for noted in self._open if not _is_undone(noted, fenced)]

    # -- publishing -----------------------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """Whether somebody may have to be sent something: in nearly every turn there is nothing."""
        return bool(self._open or self._fresh or self._behind)

    def publish(self, max_unsent_bytes: int) -> int:
        """Number, keep and send the events collected. Call it at the end of each turn, even without a group: some
        events are not changes, and resumed subscribers wait for their replay.

        Args:
            max_unsent_bytes: subscribers with more than this unread are disconnected.

        Returns:
            how many were disconnected.
        """
        cut_off = self._cut_off(max_unsent_bytes) if self._open else 0
        if self._fresh:
            self._fresh = False
            self.catch_up()
        if self._open:
            self._tell(self._numbered())
        return cut_off

    def _cut_off(self, max_unsent_bytes: int) -> int:
        # checked before queueing: a subscriber that has kept up may get a large batch
        slow = [subscriber for subscriber in self._subscribers if subscriber.unsent_bytes > max_unsent_bytes]
        for subscriber in slow:
            self.unsubscribe(subscriber)
            subscriber.send(CUT_OFF)
            subscriber.close()
        return len(slow)

    def _numbered(self) -> list[Kept]:
        noted, self._open = self._open, []
        batch = []
        for each in noted:
            self.seq += 1
            line = event_line(self.stream, self.seq, each)
            kept = Kept(self.seq, each.type, line, each.uid, each.gid, each.own)
            batch.append(kept)
            if kept.type != TURN:
                self.ring.append(kept, each.at_us)
        return batch

    def _tell(self, batch: list[Kept]) -> None:
        lines: dict[tuple[_Interest, User | None], bytes] = {}
        for subscriber, interest in self._subscribers.items():
            user = self._audience(subscriber)
            if self._behind and subscriber in self._behind:
                turns = [kept for kept in batch if kept.type == TURN and self._tells(interest, user, kept)]
                self._behind[subscriber].add(turns)
                continue
            data = lines.get((interest, user))
            if data is None:
                told = [kept.line for kept in batch if self._tells(interest, user, kept)]
                data = lines[interest, user] = b"".join(told)
            if data:
                subscriber.send(data)

    def _audience(self, subscriber: Subscriber) -> User | None:
        """The user whose sessions alone a subscriber is told of; None: it is told of all."""
        if self.guard is None or self.guard.sees_all(subscriber.user):
            return None
        return subscriber.user

    def _tells(self, interest: _Interest, user: User | None, kept: Kept) -> bool:
        """Whether a subscriber with this interest is told of an event; `user`: its `_audience`."""
        return interest.wants(kept) and (
            user is None or self.guard is None or self.guard.sees(user, kept.uid, kept.gid)
        )

    # -- what was missed --------------------------------------------------------------------------------------

    @property
    def behind(self) -> int:
        """How many subscribers have missed events that they have yet to be sent."""
        return len(self._behind)

    def is_behind(self, subscriber: Subscriber) -> bool:
        """Whether this is one of them."""
        return subscriber in self._behind

    def catch_up(self) -> None:
        """Send some of what was missed, to each of those that are behind in turn."""
        left, left_bytes = self.most_a_turn, BYTES_A_TURN
        while self._behind and left > 0 and left_bytes > 0:
            subscriber = next(iter(self._behind))
            missed = self._behind.pop(subscriber)
            interest, user = self._subscribers[subscriber], self._audience(subscriber)
            is_told = partial(self._tells, interest, user)
            lines, looked = missed.some(self.ring, self.stream, self.seq, left, is_told)
            if missed.place < self.ring.end:
                self._behind[subscriber] = missed
            data = b"".join(lines)
            left, left_bytes = left - looked, left_bytes - len(data)
            if data:
                subscriber.send(data)

    # -- subscribing ----------------------------------------------------------------------------------------

    def subscribe(
        self, subscriber: Subscriber, types: frozenset[str], since: Cursor | None, now_us: int, worker: str = ""
    ) -> int:
        """Subscribe from now on, or from a cursor on; replaces any earlier subscription.

        Missed events are sent from the next `publish` on, after the reply and anything else queued by then, and
        only once however often the request is rerun before that. As long as a subscriber is `behind`, `catch_up`
        has to be called.

        Args:
            subscriber: the connection.
            types: which types; GAP is always sent.
            since: the last event it has; later kept events are sent, after a GAP if some are missing.
            now_us: the current time, microseconds since 1970.
            worker: leave out what workers other than this one do with their own sessions; empty: leave out nothing.

        Returns:
            the number after which its events start.

        Raises:
            InvalidParamsError: `since` lies in the future.
        """
        seq, gap = self.seq, ""
        if since is not None and since.stream != self.stream:
            gap = "restart"
        elif since is not None and since.seq > seq:
            expected = f"at most {seq}"
            raise InvalidParamsError(
                f"an event in the future at $.params.since.seq: expected {expected}",
                path="$.params.since.seq", expected=expected,
            )  # fmt: skip
        elif since is not None and since.seq < self.ring.lost_seq:
            seq, gap = self.ring.lost_seq, "overrun"
        elif since is not None:
            seq = since.seq
        self.unsubscribe(subscriber)
        self._subscribers[subscriber] = _Interest(types, worker)
        self.wants_turns = self.wants_turns or TURN in types
        if since is not None:
            noted = NotedEvent(GAP, now_us, None, gap, "", 0, {})
            before = event_line(self.stream, seq, noted) if gap else b""
            self._behind[subscriber] = MissedEvents(self.ring.behind(seq), before)
            self._fresh = True
        return seq

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Remove a subscriber, if it is one."""
        self._behind.pop(subscriber, None)
        left = self._subscribers.pop(subscriber, None)
        if left is not None and TURN in left.types:
            self.wants_turns = any(TURN in interest.types for interest in self._subscribers.values())


def _is_undone(noted: NotedEvent, fenced: Mapping[str, int]) -> bool:
    if noted.type == "fenced" and noted.session is not None:
        session_id, epoch = noted.session[0], noted.session[-1]
        return fenced.get(session_id, epoch) != epoch
    if noted.type == "orphaned" and noted.reason == HOST_LOST:
        return False  # it was taken over in the store, and stays in memory
    return noted.type in CHANGES or noted.reason in (REVIVED, MERGED, NEWER, FOREIGN)
