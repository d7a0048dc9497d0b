"""The verbs of quarantine: what the store refuses. Each is headed by a sample of its params."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from msgspec import structs

from callstate_client.engine.interfaces import Caller, Deferred
from callstate_client.engine.long_result import LONG_BYTES, LongResult, Result
from callstate_client.engine.rules.context import Context
from callstate_client.engine.rules.param_checks import checked_id
from callstate_client.engine.sessions.records import SetAsideRecord
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.stored import StoredSession, StoreError
from callstate_client.engine.table.quarantine import Refusal
from callstate_client.engine.verbs.cursors import parse_cursor, to_cursor
from callstate_client.errors import SessionNotFoundError
from callstate_client.protocol.messages import encode_json
from callstate_client.protocol.params import (
    QuarantineDropParams,
    QuarantineListParams,
    QuarantineRetryParams,
    QuarantineShowParams,
)
from callstate_client.protocol.results import (
    InStore,
    Quarantined,
    QuarantineListResult,
    QuarantineRetryResult,
    QuarantineShowResult,
)

ENTRIES_A_PAGE: Final = 300
"""Entries per page at the most: less than a millisecond."""

_PLACE: Final = re.compile(r"(c?)([0-9]{1,19})", re.ASCII)
"""The number of the last refusal listed, or after a `c` that of the last session with copies: they come after all
refusals."""


def list_quarantined(ctx: Context, caller: Caller, p: QuarantineListParams) -> bytes:
    """{"limit":100}"""
    place = None if not p.cursor else parse_cursor(p.cursor, _PLACE, ctx.events.stream)
    is_copies, after = (False, 0) if place is None else (bool(place[1]), int(place[2]))
    limit = min(p.limit or ENTRIES_A_PAGE, ENTRIES_A_PAGE)
    found: list[tuple[str, Quarantined]] = []  # each with the place behind it
    if not is_copies:
        refusals = islice(ctx.table.quarantined.order.behind(after), limit + 1)
        found += [(str(refusal.seq), _entry(ctx, refusal)) for refusal in refusals]
        after = 0
    copies = islice(ctx.table.set_aside.order.behind(after), limit + 1 - len(found))
    found += [(f"c{each.seq}", _copy_entry(ctx, each.newest)) for each in copies]
    result = QuarantineListResult([entry for _, entry in found[:limit]])
    if len(found) > limit:
        result.next_cursor = to_cursor(ctx.events.stream, found[limit - 1][0])
    return encode_json(result)


def show(ctx: Context, caller: Caller, p: QuarantineShowParams) -> Deferred:
    """{"session_id":"c1"}"""
    session = ctx.table.sessions.get(p.session_id)
    _quarantined(ctx, p.session_id)

    def start(done: Callable[[Result | Exception], None]) -> None:
        def arrived(found: StoredSession | Exception | None) -> None:
            try:
                done(_shown(ctx, p.session_id, found))
            except Exception as error:  # noqa: BLE001 - it answers the request
                done(error)

        ctx.host.after(ctx.host.read_stored(p.session_id), arrived)

    return Deferred(start, 0 if session is None else session.doc.size)


def retry(ctx: Context, caller: Caller, p: QuarantineRetryParams) -> bytes:
    """{"session_ids":["c1"]}"""
    if p.session_ids is not None:
        for index, session_id in enumerate(p.session_ids):
            checked_id(session_id, f"$.params.session_ids[{index}]")
    retried = ctx.table.quarantined.hurry(p.session_ids)
    if retried:
        ctx.host.retry_refused()
    return encode_json(QuarantineRetryResult(retried))


def drop(ctx: Context, caller: Caller, p: QuarantineDropParams) -> bytes:
    """{"session_id":"c1"}"""
    found = _quarantined(ctx, p.session_id)
    session = ctx.table.sessions.get(p.session_id)
    if isinstance(found, SetAsideRecord):
        ctx.tx.drop_copies(p.session_id)
    elif session is None:
        ctx.tx.give_up_deletion(p.session_id)
    else:
        ctx.tx.forget(session, session.version)
        ctx.liveness.forget(session)
        ctx.decide_departure(session.id)
    return b"{}"


def _quarantined(ctx: Context, session_id: str) -> Refusal | SetAsideRecord:
    """What is refused of this session, or else its newest copy.

    Raises:
        SessionNotFoundError: there is neither.
    """
    checked_id(session_id, "$.params.session_id")
    refusal = ctx.table.quarantined.get(session_id)
    if refusal is not None:
        return refusal
    copies = ctx.table.set_aside.of(session_id)
    if not copies:
        raise SessionNotFoundError(f"{session_id} is not in quarantine")
    return copies[-1]


def _copy_entry(ctx: Context, copy: SetAsideRecord) -> Quarantined:
    state = copy.state
    return Quarantined(
        session_id=state.session_id, kind="copy", reason=f"host {copy.host} has it",
        since_s=round(max(0.0, (ctx.now_us() - copy.at_us) / 1e6), 3), version=state.version,
        epoch=state.facts.epoch,
    )  # fmt: skip


def _entry(ctx: Context, refusal: Refusal) -> Quarantined:
    session_id, now = refusal.session_id, ctx.clock.mono()
    session = ctx.table.sessions.get(session_id)
    if session is None:
        tombstone = ctx.table.tombstones.pending[session_id]
        kind, version, epoch = "deletion", tombstone.version, tombstone.epoch
    else:
        kind, version, epoch = "session", session.version, session.facts.epoch
    return Quarantined(
        session_id=session_id, kind=kind, reason=refusal.why, since_s=round(max(0.0, now - refusal.since), 3),
        version=version, epoch=epoch, attempts=refusal.attempts, retry_in_s=round(max(0.0, refusal.due - now), 3),
    )  # fmt: skip


def _shown(ctx: Context, session_id: str, found: Any) -> Result:
    """The entry, the document here, and what the store has.

    Raises:
        SessionNotFoundError: it has left quarantine meanwhile.
    """
    kept = _quarantined(ctx, session_id)
    if isinstance(kept, SetAsideRecord):
        session: Session | None = Session.of_record(kept.state, None)
        result = QuarantineShowResult(**structs.asdict(_copy_entry(ctx, kept)))
    else:
        session = ctx.table.sessions.get(session_id)
        result = QuarantineShowResult(**structs.asdict(_entry(ctx, kept)))
    if session is not None:
        result.turn_count = session.doc.turn_count
    if isinstance(found, StoreError):
        result.store_error = str(found)
    elif isinstance(found, Exception):
        raise found
    else:
        result.stored = None if found is None else _in_store(found)
    shown = encode_json(result)
    if session is None:
        return shown
    history = session.doc.chunks if result.kind == "copy" else None
    document = LongResult(session.doc.pieces(session.updated_us, history))
    whole = document.within(b'%b,"session":' % shown[:-1], b"}")
    return whole if len(whole) > LONG_BYTES else whole.joined()


def _in_store(found: StoredSession) -> InStore:
    meta, size = found.meta, len(found.document or b"") or found.unread_bytes
    if meta is None:
        return InStore(document_bytes=size)
    return InStore(
        version=meta.version, epoch=meta.epoch, host=meta.host, owner=meta.owner, deleted=meta.deleted,
        ended_at=meta.ended_at, document_bytes=size,
    )  # fmt: skip
