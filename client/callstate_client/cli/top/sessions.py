"""The calls of one daemon as far as they are known here: listed page by page, kept up to date by events. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from callstate_client.model.state import Status
from callstate_client.protocol.events import GAP, TURN, Event
from callstate_client.store import Record

MAX_CALLS: Final = 10_000
"""The most calls kept here; of a daemon with more the view shows these, and says so."""

LIVE, SUSPECT, ORPHAN, ENDED = "live", "suspect", "orphan", "ended"

NOT_ENDED: Final = (LIVE, SUSPECT, ORPHAN)

_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Call:
    """One call, as a line of the list shows it."""

    id: str
    state: str = LIVE
    """LIVE, SUSPECT, ORPHAN or ENDED."""
    status: str = ""
    """Empty while only an event has told of it."""
    reason: str = ""
    """Why it is suspected or has ended."""
    provider: str = ""
    call_id: str = ""
    owner: str = ""
    from_: str = ""
    to: str = ""
    turns: int = 0
    created_at: datetime = _BEGINNING
    updated_at: datetime = _BEGINNING
    labels: Mapping[str, str] = field(default_factory=dict)
    restored: bool = False
    read_at_s: float = 0.0
    """When the daemon was last asked about it, monotonic seconds; 0: not yet."""
    seen_at_s: float = 0.0
    """When the daemon last said anything of it, by an event as well."""

    def words(self) -> str:
        """What a filter is compared with."""
        labels = (f"{name}={value}" for name, value in self.labels.items())
        return " ".join(
            (self.id, self.call_id, self.provider, self.owner, self.status, self.state, *labels)
        ).lower()


Key = Callable[[Call], Any]
SORTS: Final[Mapping[str, Key]] = {
    "age": lambda call: call.created_at,
    "last sign": lambda call: call.updated_at,
    "turns": lambda call: -call.turns,
    "state": lambda call: ((SUSPECT, ORPHAN, LIVE, ENDED).index(call.state), call.created_at),
    "id": lambda call: call.id,
    "provider": lambda call: (call.provider, call.created_at),
    "owner": lambda call: (call.owner, call.created_at),
}
"""By name; the first one is the default. The ids of equal calls decide, so that lines don't jump."""


class Calls:
    """The calls known here, by id."""

    def __init__(self) -> None:
        self.calls: dict[str, Call] = {}
        self.full = False
        """Whether there are more than MAX_CALLS."""
        self._scan_began_s = 0.0

    # -- listings ---------------------------------------------------------------------------------------------

    def begin_scan(self, at_s: float) -> None:
        """A listing begins, at this time, monotonic seconds."""
        self._scan_began_s = at_s
        self.full = len(self.calls) >= MAX_CALLS

    def listed(self, record: Record, at_s: float, state: str | None = None) -> None:
        """Take one session of a listing, or of a request for it alone.

        Args:
            record: the session.
            at_s: now, monotonic seconds.
            state: the state that it is in unless it has ended; None: as it was.
        """
        document = record.state
        call = self._call(document.id)
        if call is None:
            return
        if document.status == Status.ENDED:
            state = ENDED
        elif state is None:
            state = LIVE if call.state == ENDED else call.state
        if state != call.state or state == ENDED:
            call.reason = record.ended_reason or ""
        call.state, call.status, call.owner = state, document.status, record.owner or ""
        call.provider, call.call_id, call.labels = document.provider, document.call_id, record.labels
        call.from_, call.to, call.turns = document.from_, document.to, record.turn_count
        call.created_at, call.updated_at, call.restored = document.created_at, document.updated_at, record.restored
        call.read_at_s = call.seen_at_s = at_s

    def end_scan(self, states: Collection[str]) -> None:
        """The listing of calls in these states is complete: those that it did not show are gone.

        Ended ones are dropped unless they are listed, as nothing will tell when the daemon drops them.
        """
        unlisted = () if ENDED in states else (ENDED,)
        gone = [
            call.id
            for call in self.calls.values()
            if call.state in unlisted or (call.state in states and call.seen_at_s < self._scan_began_s)
        ]
        for session_id in gone:
            del self.calls[session_id]

    def drop(self, session_id: str) -> None:
        """The daemon says that there is no such session."""
        self.calls.pop(session_id, None)

    def clear(self) -> None:
        """Another daemon answers."""
        self.calls.clear()
        self.full = False

    def _call(self, session_id: str) -> Call | None:
        call = self.calls.get(session_id)
        if call is None and len(self.calls) < MAX_CALLS:
            call = self.calls[session_id] = Call(session_id)
        elif call is None:
            self.full = True
        return call

    # -- events -----------------------------------------------------------------------------------------------

    def apply(self, event: Event, at_s: float) -> bool:
        """Take an event that came at this time, monotonic seconds.

        Returns:
            whether events were missed, so that all calls have to be listed again.
        """
        if event.type == GAP:
            return True
        if event.session_id is None:
            return False
        if event.type == "deleted":
            self.drop(event.session_id)
            return False
        state = _STATE_AFTER.get(event.type)
        if event.type == TURN or state is not None:
            self._changed(event, event.session_id, state, at_s)
        return False

    def _changed(self, event: Event, session_id: str, state: str | None, at_s: float) -> None:
        known = session_id in self.calls
        call = self._call(session_id)
        if call is None:
            return
        if not known:
            call.created_at = event.at
        call.seen_at_s = at_s
        call.updated_at = max(call.updated_at, event.at) if state != SUSPECT else call.updated_at
        call.provider, call.call_id = event.provider or call.provider, event.call_id or call.call_id
        call.labels = event.labels or call.labels
        if event.turn_count is not None:
            call.turns = event.turn_count
        if state is not None:
            call.state = state
            call.owner = "" if state == ORPHAN else event.owner or call.owner
            call.reason = (event.reason or "") if state in (SUSPECT, ENDED) else ""
            call.status = Status.ENDED if state == ENDED else "" if call.status == Status.ENDED else call.status

    # -- what is shown ----------------------------------------------------------------------------------------

    def select(self, *, states: Collection[str], text: str, sort: str, reverse: bool) -> list[Call]:
        """The calls in these states that have all words of a text, in order."""
        words = text.lower().split()
        found = [call for call in self.calls.values() if call.state in states]
        if words:
            found = [call for call in found if (said := call.words()) and all(word in said for word in words)]
        found.sort(key=lambda call: call.id)
        found.sort(key=SORTS[sort], reverse=reverse)
        return found

    def by(self, member: Callable[[Call], str]) -> list[tuple[str, int]]:
        """How many calls that have not ended there are by provider or owner, the most first."""
        counts = Counter(member(call) for call in self.calls.values() if call.state != ENDED)
        return sorted(counts.items(), key=lambda each: (-each[1], each[0]))


_STATE_AFTER: Final[Mapping[str, str]] = {
    "created": LIVE,
    "claimed": LIVE,
    "recovered": LIVE,
    "suspect": SUSPECT,
    "orphaned": ORPHAN,
    "released": ORPHAN,
    "ended": ENDED,
    "expired": ENDED,
}
