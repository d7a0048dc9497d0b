"""session.update: changes members of a session's head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from callstate_client.engine.interfaces import Caller, Deferred, InSteps, Steps, in_steps
from callstate_client.engine.long_result import Result
from callstate_client.engine.rules.authority import holder_of
from callstate_client.engine.rules.context import Context
from callstate_client.engine.rules.refusals import ended_error, version_conflict
from callstate_client.engine.sessions.head_patch import (
    PatchedFields,
    checked_patch,
    fields_in_steps,
    patch_in_steps,
    patched_head,
    touches_fields,
)
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.validation.values import LONG_BYTES
from callstate_client.engine.sessions.weight import head_growth
from callstate_client.engine.verbs.changing import changeable, complete_head
from callstate_client.protocol.params import UpdateParams

UPDATE_TRIES: Final = 4
"""How often a long update is prepared, if the session is updated meanwhile; then it is done in one go."""


def update(ctx: Context, caller: Caller, p: UpdateParams) -> Result | Deferred | InSteps:
    """{"session_id":"c1","set":{"status":"on_hold","recovery_data":{"node":"menu"},"campaign":null}}"""
    session, done = changeable(ctx, caller, p)
    if done is not None:
        return done
    if len(p.set) > LONG_BYTES:
        return in_steps(_update_long(ctx, caller, p))
    changes = checked_patch(p.set, "$.params.set")
    if len(session.doc.fields) > LONG_BYTES and touches_fields(changes):
        return in_steps(_update_long(ctx, caller, p, changes))
    return _update(ctx, caller, session, p, changes)


def _update_long(ctx: Context, caller: Caller, p: UpdateParams, changes: Mapping[str, Any] | None = None) -> Steps:
    """Update by a patch that takes long to check or to apply. `changes`: the patch, if it was checked."""
    yield
    if changes is None:
        changes = yield from patch_in_steps(p.set, "$.params.set")
        yield
    fields, tries = None, 0
    while True:
        session, done = changeable(ctx, caller, p)
        if done is not None:
            return done
        if tries == UPDATE_TRIES or (fields is not None and fields.before is session.doc.fields):
            return _update(ctx, caller, session, p, changes, fields)
        fields = yield from fields_in_steps(session.doc, changes, "$.params.set")
        tries += 1
        yield


def _update(
    ctx: Context,
    caller: Caller,
    session: Session,
    p: UpdateParams,
    changes: Mapping[str, Any],
    fields: PatchedFields | None = None,
) -> bytes:
    """Update by a checked patch. `fields`: what it makes of the fields, if they were not changed meanwhile."""
    if p.if_version is not None and p.if_version != session.version:
        raise version_conflict(session, p.if_version)
    head = patched_head(session.doc, changes, "$.params.set", fields)
    if session.ended and head.status != "ended":
        raise ended_error(session)  # a late update does not start a new call: only a save or a claim revives
    ctx.check_head(head.size, session.doc.head_size)
    ctx.check_size(head.size + session.doc.history_bytes)
    ctx.check_share(session, head_growth(session, head), ends=head.status == "ended")
    now_us = ctx.now_us()
    was_ended = session.ended
    ctx.tx.change(session)
    session.doc.take_head(head, now_us)
    result = complete_head(ctx, caller, session, was_ended, now_us, p.op, p.epoch)
    if session.ended and not was_ended:
        ctx.events.note("ended", now_us, session, reason=session.facts.ended_reason, own=holder_of(caller, session))
    return result
