"""The verbs that read. Each is headed by a sample of its params."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import orjson

from callstate_client.errors import InvalidParamsError, StoreUnavailableError
from callstate_client.protocol import (
    SESSION_STATES,
    FlushParams,
    ListActiveParams,
    ListParams,
    LoadParams,
    NoParams,
)
from callstate_sidecar.commands.checks import checked_labels
from callstate_sidecar.commands.context import Context
from callstate_sidecar.commands.interfaces import Later
from callstate_sidecar.door import check_time
from callstate_sidecar.entry import Entry
from callstate_sidecar.instants import parse_us

DEFAULT_LIMIT: Final = 1000
"""Sessions a page, where the request does not say: about a megabyte of heads."""

LOOKS_A_PAGE: Final = 10_000
"""Sessions looked at for one page of a listing, some milliseconds: of those that are not wanted there may be many.
Whoever wants more follows the cursor."""

MAX_CURSOR_DIGITS: Final = 19


def load(ctx: Context, p: LoadParams) -> bytes:
    """{"session_id":"c1","history":20}"""
    checked_history(p.history)
    return load_entry(ctx.find(p.session_id), p.history)


def checked_history(history: str | int) -> None:
    """What is asked for of a history.

    Raises:
        InvalidParamsError: no such part.
    """
    if isinstance(history, str) and history not in ("all", "none"):
        raise InvalidParamsError(
            "expected 'all', 'none' or a number at $.params.history",
            path="$.params.history", expected="'all', 'none' or a number",
        )  # fmt: skip


def load_entry(entry: Entry, history: str | int, *, for_worker: bool = False) -> bytes:
    """The result of a load or (`for_worker`) a claim, with as much of the history as was asked for."""
    doc = entry.doc
    if history == "none":
        return loaded(entry, doc.head_json(entry.updated_us), 0, for_worker=for_worker)
    if history == "all" or history >= doc.turn_count:  # type: ignore[operator]  # not a str: checked above
        return loaded(entry, doc.to_json(entry.updated_us), 0, for_worker=for_worker)
    count = int(history)
    document = doc.to_json(entry.updated_us, doc.last_turns(count))
    return loaded(entry, document, doc.turn_count - count, for_worker=for_worker)


def loaded(
    entry: Entry,
    session: bytes,
    history_from: int,
    *,
    for_worker: bool = False,
    default_timeout_s: float | None = None,
) -> bytes:
    """The result of a load: the document spliced in, and what is known beside it.

    Args:
        entry: the session.
        session: its document, as far as it was asked for.
        history_from: the first turn in it.
        for_worker: also what one needs to know who takes it over.
        default_timeout_s: a timeout that goes without saying, in a listing that of the daemon.
    """
    beside: dict[str, Any] = {"labels": entry.labels}
    if entry.owner:
        beside["owner"] = entry.owner
    if for_worker and entry.heartbeat_timeout_s not in (None, default_timeout_s):
        beside["heartbeat_timeout_s"] = entry.heartbeat_timeout_s
    if for_worker and entry.max_duration_s is not None:
        beside["max_duration_s"] = entry.max_duration_s
    if for_worker and entry.restored:
        beside["restored"] = True
    if entry.handovers:
        beside["handovers"] = entry.handovers
    if entry.ended:
        beside["ended_reason"] = entry.ended_reason
        if entry.ended_detail:
            beside["ended_detail"] = orjson.Fragment(entry.ended_detail)
    return b'{"session":%b,"history_from":%d,"turn_count":%d,"version":%d,"epoch":%d,%b' % (
        session,
        history_from,
        entry.doc.turn_count,
        entry.version,
        entry.epoch,
        orjson.dumps(beside)[1:],
    )


def list_active(ctx: Context, p: ListActiveParams) -> bytes | Later:
    """{"limit":1000,"scope":"host"}"""
    limit = p.limit or DEFAULT_LIMIT
    if p.scope == "host":
        page = _page(ctx, p.cursor, limit, lambda entry: not entry.ended)
        return orjson.dumps(_paged("session_ids", [entry.id for entry in page.entries], page))
    if p.scope != "all":
        raise InvalidParamsError(
            "expected 'host' or 'all' at $.params.scope", path="$.params.scope", expected="'host' or 'all'"
        )

    def start(done: Callable[[bytes | Exception], None]) -> None:
        def arrived(stored: list[str] | Exception) -> None:
            if isinstance(stored, Exception):
                done(StoreUnavailableError(str(stored)))
                return
            mine = ctx.cache.entries
            ids = {i for i in stored if i not in mine and i not in ctx.cache.graves}
            ids.update(e.id for e in mine.values() if not e.ended)
            after = sorted(i for i in ids if p.cursor is None or i > p.cursor)
            result: dict[str, Any] = {"session_ids": after[:limit]}
            if len(after) > limit:
                result["next_cursor"] = after[limit - 1]
            done(orjson.dumps(result))

        ctx.services.after(ctx.services.stored_active_ids(), arrived)

    return Later(start)


def list_sessions(ctx: Context, p: ListParams) -> bytes:
    """{"status":"active","labels":{"app":"sales"},"limit":100}"""
    limit = p.limit or DEFAULT_LIMIT
    check_time(p.ended_since, "$.params.ended_since")
    ended_since = None if p.ended_since is None else parse_us(p.ended_since)
    labels = checked_labels(p.labels or {}).items()

    in_state = _state(p.state)

    def wanted(e: Entry) -> bool:
        return (
            in_state(e)
            and (p.status is None or e.doc.status == p.status)
            and (p.provider is None or e.doc.provider == p.provider)
            and (p.owner is None or e.owner == p.owner)
            and (p.call_id is None or e.doc.call_id == p.call_id)
            and (ended_since is None or (e.ended and e.ended_us >= ended_since))
            and labels <= e.labels.items()
        )

    page = _page(ctx, p.cursor, min(limit, DEFAULT_LIMIT), wanted)
    default_s = ctx.liveness.timeout_s
    sessions = [
        orjson.Fragment(loaded(e, e.doc.head_json(e.updated_us), 0, for_worker=True, default_timeout_s=default_s))
        for e in page.entries
    ]
    return orjson.dumps(_paged("sessions", sessions, page))


_STATES: Final[Mapping[str, Callable[[Entry], bool]]] = {
    "live": lambda e: not (e.ended or e.suspected or e.orphan),
    "suspect": lambda e: not e.ended and bool(e.suspected),
    "orphan": lambda e: not e.ended and bool(e.orphan),
    "restored": lambda e: not e.ended and e.restored,
}


def _state(name: str | None) -> Callable[[Entry], bool]:
    if name is None:
        return lambda _: True
    if name not in SESSION_STATES:
        expected = f"one of {', '.join(SESSION_STATES)}"
        raise InvalidParamsError(f"expected {expected} at $.params.state", path="$.params.state", expected=expected)
    return _STATES[name]


class _Page(NamedTuple):
    """A part of a listing."""

    entries: list[Entry]
    cursor: int | None
    """Behind which the next one begins; None: this is the last."""


def _page(ctx: Context, cursor: str | None, limit: int, wanted: Callable[[Entry], bool]) -> _Page:
    """Hot sessions in the order in which they became hot, behind the cursor, as many as one turn may look at."""
    if cursor is None:
        cursor = "0"
    elif not (cursor.isascii() and cursor.isdigit() and len(cursor) <= MAX_CURSOR_DIGITS):
        raise InvalidParamsError(
            "not a cursor of this verb at $.params.cursor", path="$.params.cursor", expected="a next_cursor"
        )
    entries: list[Entry] = []
    last = int(cursor)
    for looked, entry in enumerate(ctx.cache.roll.behind(last)):
        found = wanted(entry)
        if looked == LOOKS_A_PAGE or (found and len(entries) == limit):
            return _Page(entries, last)
        last = entry.seq
        if found:
            entries.append(entry)
    return _Page(entries, None)


def _paged(name: str, values: list[Any], page: _Page) -> dict[str, Any]:
    result: dict[str, Any] = {name: values}
    if page.cursor is not None:
        result["next_cursor"] = str(page.cursor)
    return result


def ping(ctx: Context, p: NoParams) -> bytes:
    """{}"""
    return b"{}"


def info(ctx: Context, p: NoParams) -> bytes:
    """{}"""
    ctx.caller.told_timeout_s = ctx.liveness.timeout_s
    return orjson.dumps(ctx.services.info())


def stats(ctx: Context, p: NoParams) -> bytes:
    """{}"""
    return orjson.dumps(ctx.services.stats())


def flush(ctx: Context, p: FlushParams) -> Later:
    """{"session_ids":["c1"],"timeout_s":5}"""

    def start(done: Callable[[bytes | Exception], None]) -> None:
        def flushed(result: dict[str, int] | Exception) -> None:
            done(result if isinstance(result, Exception) else orjson.dumps(result))

        ctx.services.after(ctx.services.flush(p.session_ids, p.timeout_s), flushed)

    return Later(start)
