"""The verbs that list: hot sessions of this host, and with `scope: "all"` the store's of all hosts as well.

Hot sessions come first, in the order in which they became hot, then the store's, in the store's own order; one that
is hot here is shown in its state here. A cursor names a place in both orders, so a session that exists throughout
is listed, however long the client takes over the pages, and even if the daemon restarts meanwhile (see cursors.py).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Final, NamedTuple

from callstate_client.engine.interfaces import Caller, Deferred, InSteps, Steps
from callstate_client.engine.rules.context import Context
from callstate_client.engine.rules.param_checks import checked_labels
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.stored import Query, StoreError
from callstate_client.engine.sessions.validation.texts import check_time
from callstate_client.engine.verbs.cursors import not_a_cursor, parse_cursor, to_cursor
from callstate_client.engine.verbs.read import loaded
from callstate_client.errors import InvalidParamsError, StoreUnavailableError
from callstate_client.model.times import format_us, parse_us
from callstate_client.protocol.messages import encode_json
from callstate_client.protocol.params import SESSION_STATES, ListActiveParams, ListParams

DEFAULT_LIMIT: Final = 1000
"""Ids per page, if the request gives no limit."""

HEADS_A_PAGE: Final = 300
"""The most sessions (without their histories) per page: two or three milliseconds, and some 200 kB."""

PAGE_BYTES: Final = 1024 * 1024
"""A page ends with the entry that reaches this size: ids may have 256 bytes, and heads many more."""

LOOKS_A_PAGE: Final = 3000
"""The most hot sessions examined for one page, a millisecond or two, as many may not match. So a page may have
fewer sessions than its limit and still a cursor."""

LOOKS_A_STEP: Final = 200
"""Sessions examined in one step; see InSteps."""

SHOWN_A_STEP: Final = 10
"""Sessions added to a page in one step."""

READS_A_PAGE: Final = 50
"""The most reads of the store for one page: if hardly any session matches, the client still gets pages in time."""

SESSIONS_A_READ: Final = 50
"""Sessions per read of the store."""

READ_BYTES_A_PAGE: Final = 16 * 1024 * 1024
"""A page ends with the session whose document makes what was read for it reach this size."""

_PLACE: Final = re.compile(r"([0-9]{1,19})(?::([0-9]{0,20}):(.*))?")
"""A place as text."""


class _Place(NamedTuple):
    """How far a listing has come."""

    seq: int
    """The number of the last hot session examined."""
    stored: str | None = None
    """The store's cursor; None while the listing is still at hot sessions."""
    after: str = ""
    """The last id listed of those that the store returns for this cursor: it may return more than a page takes."""

    def text(self) -> str:
        """Its form in a cursor."""
        return str(self.seq) if self.stored is None else f"{self.seq}:{self.stored}:{self.after}"


Entry = str | bytes
"""One of a page: an id, or a session's head as JSON."""


class _Stored(NamedTuple):
    """The store's part of a listing."""

    find: Callable[[str], Awaitable[tuple[list[str], str]]]
    """The ids of some sessions at a cursor, and the next cursor."""
    entry: Callable[[str, int, Session | None], Entry | None]
    """The entry of a session; None: it is not to be listed. Gets the id, the number up to which hot sessions have
    been listed, and the session as the store has it."""
    is_read: bool
    """Whether sessions are read for that; else it gets None."""


class _Page:
    """The entries of a page so far.

    Args:
        run: see cursors.py.
        name: of the result's member.
        limit: how many there may be.
    """

    def __init__(self, run: str, name: str, limit: int) -> None:
        self._run = run
        self._name = name
        self._limit = limit
        self._room = PAGE_BYTES
        self._to_read = READ_BYTES_A_PAGE
        self._entries: list[bytes] = []

    @property
    def is_full(self) -> bool:
        """Whether the page ends here."""
        return len(self._entries) == self._limit or self._room <= 0

    @property
    def has_read_enough(self) -> bool:
        """Whether so much has been read for it that it ends here, full or not."""
        return self._to_read <= 0

    def add(self, entry: Entry) -> None:
        """Add an entry."""
        self._entries.append(encode_json(entry) if isinstance(entry, str) else entry)
        self._room -= len(entry)

    def read(self, size: int) -> None:
        """Note that so many bytes were read from the store."""
        self._to_read -= size

    def to_json(self, following: _Place | None) -> bytes:
        """The result, with the cursor of the next page, if there is one."""
        beside = (
            b"" if following is None else b',"next_cursor":%b' % encode_json(to_cursor(self._run, following.text()))
        )
        return b'{"%b":[%b]%b}' % (self._name.encode(), b",".join(self._entries), beside)


def _place(ctx: Context, cursor: str | None, *, everywhere: bool) -> _Place:
    """Parse a cursor.

    Raises:
        InvalidParamsError: it is not one of this verb and scope.
    """
    place = None if cursor is None else parse_cursor(cursor, _PLACE, ctx.events.stream)
    if place is None:
        return _Place(0)
    if place[2] is not None and not everywhere:
        raise not_a_cursor()
    return _Place(int(place[1]), place[2], place[3] or "")


def _is_everywhere(scope: str) -> bool:
    if scope not in ("host", "all"):
        raise InvalidParamsError(
            "expected 'host' or 'all' at $.params.scope", path="$.params.scope", expected="'host' or 'all'"
        )
    return scope == "all"


# -- hot sessions ---------------------------------------------------------------------------------------------


def _add_hot(
    ctx: Context,
    page: _Page,
    place: _Place,
    wanted: Callable[[Session], bool],
    show: Callable[[Session], Entry],
) -> Generator[None, None, _Place | None]:
    """Add hot sessions after a place to a page, in steps. Returns where the next page begins; None if there are no
    more."""
    last, looked = place.seq, 0
    more = True
    while more:
        more, shown = False, 0
        for session in ctx.table.order.behind(last):
            found = wanted(session)
            if looked == LOOKS_A_PAGE or (found and page.is_full):
                return _Place(last)
            last = session.seq
            looked += 1
            if found:
                page.add(show(session))
                shown += 1
            if looked % LOOKS_A_STEP == 0 or shown == SHOWN_A_STEP:
                more = True
                break
        if more:
            yield
    return None


async def _everywhere(ctx: Context, page: _Page, place: _Place, stored: _Stored) -> bytes:
    """A page of the store's sessions, after those of the hot ones in it."""
    if place.stored is None:
        place = _Place(ctx.table.order.last, "")

    def show(session_id: str, session: Session | None, size: int) -> bool:
        nonlocal place
        page.read(size)
        entry = stored.entry(session_id, place.seq, session)
        if entry is not None:
            if page.is_full:
                return False
            page.add(entry)
        place = place._replace(after=session_id)
        return not page.has_read_enough

    for _ in range(READS_A_PAGE):
        found, cursor = await stored.find(place.stored or "")
        ids = sorted({session_id for session_id in found if session_id > place.after})
        await (ctx.host.show_stored if stored.is_read else ctx.host.show_ids)(ids, show)
        if ids and place.after != ids[-1]:
            return page.to_json(place)
        if not cursor:
            return page.to_json(None)
        place = _Place(place.seq, cursor)
        if page.has_read_enough:
            break
    return page.to_json(place)


def _listed(
    ctx: Context,
    page: _Page,
    place: _Place,
    wanted: Callable[[Session], bool],
    show: Callable[[Session], Entry],
    stored: _Stored | None,
) -> Steps:
    """A page of hot sessions, and after them, if `stored` is given, of the store's."""
    if place.stored is None:
        following = yield from _add_hot(ctx, page, place, wanted, show)
        if following is not None or stored is None:
            return page.to_json(following)
    assert stored is not None  # noqa: S101 - a place in the store is one of `scope: "all"`
    return _deferred(ctx, _everywhere(ctx, page, place, stored))


def _deferred(ctx: Context, work: Awaitable[bytes]) -> Deferred:
    def start(done: Callable[[bytes | Exception], None]) -> None:
        def arrived(result: bytes | Exception) -> None:
            down = isinstance(result, StoreError)
            done(StoreUnavailableError(str(result)) if down else result)

        ctx.host.after(work, arrived)

    return Deferred(start, PAGE_BYTES)


# -- the verbs ------------------------------------------------------------------------------------------------


def list_active(ctx: Context, caller: Caller, p: ListActiveParams) -> InSteps:
    """{"limit":1000,"scope":"host"}"""
    shown = ctx.shown_to(caller)
    page = _Page(ctx.events.stream, "session_ids", p.limit or DEFAULT_LIMIT)
    everywhere = _is_everywhere(p.scope)
    place = _place(ctx, p.cursor, everywhere=everywhere)

    def is_active(session: Session) -> bool:
        return not session.ended and (shown is None or shown(session))

    def find(cursor: str) -> Awaitable[tuple[list[str], str]]:
        if shown is None:
            return ctx.host.stored_active_ids(cursor)
        return ctx.host.find(Query(), cursor, SESSIONS_A_READ)  # ids alone don't say whose they are

    def entry(session_id: str, seq: int, session: Session | None) -> Entry | None:
        if shown is not None and (session is None or not is_active(session)):
            return None
        return session_id if _is_new(ctx, session_id, seq) else None

    stored = _Stored(find, entry, is_read=shown is not None) if everywhere else None
    return InSteps(_listed(ctx, page, place, is_active, lambda session: session.id, stored))


def _is_new(ctx: Context, session_id: str, seq: int) -> bool:
    """Whether an active session of the store is to be listed: not if it was deleted or has ended here, or was hot
    when the hot ones were listed."""
    session = ctx.table.sessions.get(session_id)
    if session is None:
        return session_id not in ctx.table.tombstones.pending
    return session.seq > seq and not session.ended


def list_sessions(ctx: Context, caller: Caller, p: ListParams) -> InSteps:
    """{"status":"active","labels":{"app":"sales"},"limit":100}"""
    limit = min(p.limit or DEFAULT_LIMIT, HEADS_A_PAGE)
    page = _Page(ctx.events.stream, "sessions", limit)
    everywhere = _is_everywhere(p.scope)
    place = _place(ctx, p.cursor, everywhere=everywhere)
    wanted = _wanted(p, ctx.shown_to(caller))

    def show(session: Session) -> bytes:
        head = session.doc.head_json(session.updated_us)
        timeout_s = ctx.liveness.timeout_s
        state = next((name for name in TOLD_STATES if _STATES[name](session)), "")
        return loaded(session, head, 0, for_worker=True, default_timeout_s=timeout_s, state=state, users=p.users)

    def find(cursor: str) -> Awaitable[tuple[list[str], str]]:
        return ctx.host.find(_query(p), cursor, min(limit, SESSIONS_A_READ))

    def entry(_: str, seq: int, found: Session | None) -> Entry | None:
        session = None if found is None else _as_it_is(ctx, found, seq)
        return None if session is None or not wanted(session) else show(session)

    stored = _Stored(find, entry, is_read=True) if everywhere else None
    return InSteps(_listed(ctx, page, place, wanted, show, stored))


def _as_it_is(ctx: Context, stored: Session, seq: int) -> Session | None:
    """The session of the store, or its hot state here; None if it was listed already or is deleted here."""
    session = ctx.table.sessions.get(stored.id)
    if session is None:
        return None if stored.id in ctx.table.tombstones.pending else stored
    return session if session.seq > seq else None


def _query(p: ListParams) -> Query:
    """The query for the store, whose result may contain sessions that don't match."""
    since = None if p.ended_since is None else format_us(parse_us(p.ended_since))[: len("2026-01-01T00:00:00")]
    return Query(p.call_id, p.owner, p.status, p.labels or {}, since)


def _wanted(p: ListParams, shown: Callable[[Session], bool] | None) -> Callable[[Session], bool]:
    check_time(p.ended_since, "$.params.ended_since")
    ended_since = None if p.ended_since is None else parse_us(p.ended_since)
    labels = checked_labels(p.labels or {}).items()
    in_state = _state(p.state)

    def wanted(e: Session) -> bool:
        return (
            in_state(e)
            and (shown is None or shown(e))
            and (p.status is None or e.doc.status == p.status)
            and (p.provider is None or e.doc.provider == p.provider)
            and (p.owner is None or e.facts.owner == p.owner)
            and (p.call_id is None or e.doc.call_id == p.call_id)
            and (ended_since is None or (e.ended and e.ended_us >= ended_since))
            and labels <= e.facts.labels.items()
        )

    return wanted


_STATES: Final[Mapping[str, Callable[[Session], bool]]] = {
    "live": lambda e: not (e.ended or e.suspected or e.facts.orphan),
    "suspect": lambda e: not e.ended and bool(e.suspected),
    "orphan": lambda e: not e.ended and bool(e.facts.orphan),
    "restored": lambda e: not e.ended and e.restored,
}
"""A host knows this of its own sessions only; of another's it knows only whether it has ended."""

TOLD_STATES: Final = ("suspect", "orphan")
"""The states that a listing names, the more urgent one first: a session can be in both."""


def _state(name: str | None) -> Callable[[Session], bool]:
    if name is None:
        return lambda _: True
    if name not in SESSION_STATES:
        expected = f"one of {', '.join(SESSION_STATES)}"
        raise InvalidParamsError(f"expected {expected} at $.params.state", path="$.params.state", expected=expected)
    return _STATES[name]
