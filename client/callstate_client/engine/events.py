"""Events: gathered while a group is open, told when it is down, and kept for those who come back.

Pure: no I/O of its own, and the present time is passed in. An event is encoded once, however many listen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol

from msgspec import UNSET, Struct, UnsetType

from callstate_client.engine.sessions.session import Session
from callstate_client.errors import InvalidParamsError, OverloadedError
from callstate_client.model.times import format_us
from callstate_client.protocol.events import GAP, TURN, Cursor, EventType
from callstate_client.protocol.messages import encode_json

EVENT_BYTES: Final = 2048
"""What an event is reckoned with where the ring's size in bytes is bounded: five times the usual. A call id
may be as long as a line, and ten thousand of those would fill the memory."""

CHANGES: Final = frozenset(
    {"created", "ended", "expired", "orphaned", "claimed", "released", "deleted", TURN}
)  # fmt: skip
"""Events that are part of what the group changes: where that is undone they did not happen. The others (a worker
left, a session fell silent, somebody was refused) are so whatever becomes of the group."""

REVIVED: Final = "revived"
"""Why a session that had ended is said to have recovered: that, too, is a change."""

MERGED: Final = "merged"
NEWER: Final = "store_newer"
"""Why a session is said to have recovered that was made one with what the store had: changes as well."""

SUPERSEDED: Final = "superseded"
"""Why a session of this daemon is fenced off from the store: what that has counts."""

CUT_OFF: Final = b'{"jsonrpc":"2.0","id":null,"error":%b}\n' % encode_json(
    OverloadedError("events were not read").to_wire()
)
"""The last line of a subscriber that does not keep up."""


class Subscriber(Protocol):
    """A connection that subscribes to events."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes that it has not read yet."""
        ...

    def send(self, data: bytes, /) -> object:
        """Queue lines behind what is queued already."""
        ...

    def close(self) -> None:
        """Hang up once what is queued has left."""
        ...


class _Noted(NamedTuple):
    """An event of the open group, with the values of that moment: the session may change before the end."""

    type: str
    at_us: int
    session: tuple[str, str, str, dict[str, str], str, int] | None
    reason: str
    evidence: str
    deadline_us: int
    more: dict[str, Any]


class _Kept(NamedTuple):
    seq: int
    type: str
    line: bytes


class Events:
    """The events of one engine, and its subscribers.

    Args:
        limit: how many are kept; may be set anew.
        stream: names the stream; another one at each start.
    """

    def __init__(self, limit: int, stream: str) -> None:
        self.limit = limit
        self.stream = stream
        self.seq = 0
        """Of the last event published."""
        self.wants_turns = False
        """Whether anybody subscribes to `turn`; else those events are not noted."""
        self._open: list[_Noted] = []
        self._ring: deque[_Kept] = deque()
        self._ring_bytes = 0
        self._lost_seq = 0
        """Of the last event that has left the ring."""
        self._subscribers: dict[Subscriber, frozenset[str]] = {}
        self._fresh: dict[Subscriber, tuple[int, bytes]] = {}
        """Subscribers that have come back: the place from which kept events are sent to them, and the lines before
        those."""

    @property
    def subscribers(self) -> int:
        """How many there are."""
        return len(self._subscribers)

    # -- noting --------------------------------------------------------------------------------------------

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
        **more: str | int | bool,
    ) -> None:
        """Something happened; told when the open group is down.

        Args:
            type_: what.
            now_us: when, microseconds since 1970.
            session: the session it happened to, as it is now.
            reason: why.
            evidence: what a suspicion rests on.
            deadline_us: when a suspect is given up, microseconds since 1970.
            owner: in place of the session's own, which it has just lost.
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
        self._open.append(_Noted(type_, now_us, about, reason, evidence, deadline_us, more))

    def drop_undone(self, fenced: Mapping[str, int]) -> None:
        """The group is undone, and with it what it changed.

        Args:
            fenced: the last epoch in which somebody was fenced off, of the sessions that are as they were before.
                In another one nobody was, or will be told to have been when the request is answered again.
        """
        self._open = [noted for noted in self._open if not _is_undone(noted, fenced)]

    # -- publishing -----------------------------------------------------------------------------------------

    def publish(self, max_unsent_bytes: int) -> int:
        """The group is down: number what was gathered, keep it and tell it. To be called at each turn's end,
        also where there was no group: not all that happens is a change, and who came back waits for its events.

        Args:
            max_unsent_bytes: who has more than this still to read is cut off.

        Returns:
            how many were cut off.
        """
        cut_off = self._cut_off(max_unsent_bytes) if self._open else 0
        fresh, self._fresh = self._fresh, {}
        for subscriber, (seq, before) in fresh.items():
            replayed = before + self._kept_behind(seq, self._subscribers[subscriber])
            if replayed:
                subscriber.send(replayed)
        if self._open:
            self._tell(self._numbered())
        return cut_off

    def _cut_off(self, max_unsent_bytes: int) -> int:
        # asked before anything is queued: who has read all so far may be given a lot at once
        slow = [subscriber for subscriber in self._subscribers if subscriber.unsent_bytes > max_unsent_bytes]
        for subscriber in slow:
            self.unsubscribe(subscriber)
            subscriber.send(CUT_OFF)
            subscriber.close()
        return len(slow)

    def _numbered(self) -> list[_Kept]:
        noted, self._open = self._open, []
        batch = []
        for each in noted:
            self.seq += 1
            batch.append(_Kept(self.seq, each.type, _line(self.stream, self.seq, each)))
        for kept in batch:
            if kept.type != TURN:
                self._ring.append(kept)
                self._ring_bytes += len(kept.line)
        while len(self._ring) > self.limit or (self._ring_bytes > self.limit * EVENT_BYTES and len(self._ring) > 1):
            lost = self._ring.popleft()
            self._ring_bytes -= len(lost.line)
            self._lost_seq = lost.seq
        return batch

    def _tell(self, batch: list[_Kept]) -> None:
        lines: dict[frozenset[str], bytes] = {}
        for subscriber, types in self._subscribers.items():
            data = lines.get(types)
            if data is None:
                data = lines[types] = b"".join([kept.line for kept in batch if kept.type in types])
            if data:
                subscriber.send(data)

    def _kept_behind(self, seq: int, types: frozenset[str]) -> bytes:
        lines: list[bytes] = []
        for kept in reversed(self._ring):
            if kept.seq <= seq:
                break
            if kept.type in types:
                lines.append(kept.line)
        lines.reverse()
        return b"".join(lines)

    # -- subscribing ----------------------------------------------------------------------------------------

    def subscribe(self, subscriber: Subscriber, types: frozenset[str], since: Cursor | None, now_us: int) -> int:
        """Tell this one from now on, or from a place on; what it subscribed to before is forgotten.

        What it missed is sent by the next `publish`, behind the reply and all else that is queued by then, and
        once however often the request is run again until then.

        Args:
            subscriber: whom.
            types: which; GAP is sent whether named or not.
            since: the last event it has; what is kept behind that is sent, after a GAP where some is missing.
            now_us: the present time, microseconds since 1970.

        Returns:
            the place from which on it will be told.

        Raises:
            InvalidParamsError: there is no such place yet.
        """
        seq, gap = self.seq, ""
        if since is not None and since.stream != self.stream:
            gap = "restart"
        elif since is not None and since.seq > seq:
            expected = f"at most {seq}"
            raise InvalidParamsError(
                f"an event that has not happened yet at $.params.since.seq: expected {expected}",
                path="$.params.since.seq", expected=expected,
            )  # fmt: skip
        elif since is not None and since.seq < self._lost_seq:
            seq, gap = self._lost_seq, "overrun"
        elif since is not None:
            seq = since.seq
        self.unsubscribe(subscriber)
        self._subscribers[subscriber] = types
        self.wants_turns = self.wants_turns or TURN in types
        if since is not None:
            noted = _Noted(GAP, now_us, None, gap, "", 0, {})
            self._fresh[subscriber] = (seq, _line(self.stream, seq, noted) if gap else b"")
        return seq

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Tell this one nothing any more; it may never have listened."""
        self._fresh.pop(subscriber, None)
        if TURN in self._subscribers.pop(subscriber, ()):
            self.wants_turns = any(TURN in types for types in self._subscribers.values())


def _is_undone(noted: _Noted, fenced: Mapping[str, int]) -> bool:
    if noted.type == "fenced" and noted.session is not None:
        session_id, epoch = noted.session[0], noted.session[-1]
        return fenced.get(session_id, epoch) != epoch
    return noted.type in CHANGES or noted.reason in (REVIVED, MERGED, NEWER)


_NO_SESSION: Final = (UNSET, "", "", UNSET, "", UNSET)


class _Params(Struct, omit_defaults=True, gc=False):
    """What the notification says of an event; members that say nothing are left out."""

    stream: str
    seq: int
    type: str
    at: str
    session_id: str | UnsetType = UNSET
    provider: str = ""
    call_id: str = ""
    labels: dict[str, str] | UnsetType = UNSET
    owner: str = ""
    epoch: int | UnsetType = UNSET
    reason: str = ""
    evidence: str = ""
    deadline: str = ""
    worker_id: str = ""
    error: str = ""
    drain: bool | UnsetType = UNSET
    turn_count: int | UnsetType = UNSET


def _line(stream: str, seq: int, noted: _Noted) -> bytes:
    """An event as its notification."""
    type_, at_us, session, reason, evidence, deadline_us, more = noted
    session_id, provider, call_id, labels, owner, epoch = session or _NO_SESSION
    params = _Params(  # by position: when thousands expire, each comes through here
        stream, seq, type_, format_us(at_us), session_id, provider, call_id, labels or UNSET, owner, epoch,
        reason, evidence, format_us(deadline_us) if deadline_us else "",
    )  # fmt: skip
    for name, value in more.items():
        setattr(params, name, value)
    return b'{"jsonrpc":"2.0","method":"event","params":%b}\n' % encode_json(params)
