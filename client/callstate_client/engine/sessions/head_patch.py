"""`session.update`: a merge patch (RFC 7396) applied to a session's head.

Only what the patch names is read: the rest stays byte for byte, as it is valid already or, if a store had it, may
go beyond what clients may send. A head with more members than clients may send can only lose some. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import CallMetrics, Head, joined_members, metrics_of
from callstate_client.engine.sessions.steps import finished
from callstate_client.engine.sessions.validation.heads import HEAD_NAMES, METRICS_BYTES, check_head, check_metrics
from callstate_client.engine.sessions.validation.parts import check_parts, count_parts, parts_in_steps
from callstate_client.engine.sessions.validation.values import HEAD_PARTS, LONG_BYTES, check_json, json_in_steps
from callstate_client.errors import InvalidParamsError, TooLargeError
from callstate_client.model import documents, go_json
from callstate_client.model.merge import merge_in_steps, merge_text

RAW_LEVELS: Final = 2
"""How deep in a patch long values are looked for: in the session, and in its recovery data."""

_UNPATCHABLE: Final = ("id", "history", "updated_at")
_WRITTEN: Final = ("id", "created_at", "provider", "direction", "from", "to")
"""The members of a head that are written even if they are empty, in Go's order."""

_KNOWN: Final = (*_WRITTEN, "call_id", "recovery_data")
_EMPTY: Final = b'""'

_Members = dict[str, bytes]


def checked_patch(patch: Raw, path: str) -> dict[str, Any]:
    """What a patch changes.

    Args:
        patch: the patch.
        path: its path in the message, for errors.

    Raises:
        InvalidParamsError, ParseError: it is not one, or names a member that can't be patched.
    """
    return _checked(check_json(patch, path, 2), path)


def patch_in_steps(patch: Raw, path: str) -> Generator[None, None, dict[str, Any]]:
    """Like `checked_patch`, in steps."""
    changes = _checked((yield from json_in_steps(patch, path, 2)), path)
    return (yield from _with_long_texts(changes, bytes(patch), RAW_LEVELS))


def _checked(changes: Any, path: str) -> dict[str, Any]:
    if not isinstance(changes, dict):
        raise InvalidParamsError(f"Expected object at {path}", path=path, expected="object")
    for name in _UNPATCHABLE:
        if name in changes:
            raise InvalidParamsError(
                f"`{name}` can't be patched at {path}.{name}", path=f"{path}.{name}", expected="nothing"
            )
    documents.refuse_shadows(changes, documents.SESSION_NAMES, path)
    return changes


def _with_long_texts(changes: dict[str, Any], text: bytes, levels: int) -> Generator[None, None, dict[str, Any]]:
    """The changes with long values as the text that they were sent as, which is not encoded again."""
    if len(text) <= LONG_BYTES or not levels:
        return changes
    yield
    members = go_json.raw_members(text)
    for name, value in changes.items():
        if isinstance(value, dict):
            changes[name] = yield from _with_long_texts(value, members[name], levels - 1)
        elif len(members[name]) > LONG_BYTES:
            changes[name] = Raw(members[name])
    return changes


class PatchedFields(NamedTuple):
    """What a patch makes of a head's fields.

    Args:
        before: the fields that it was applied to.
        after: the same object, if nothing changes.
        provider: of the head then.
        call_id: of the head then.
    """

    before: bytes
    after: bytes
    provider: str
    call_id: str


def patched_head(doc: Document, changes: Mapping[str, Any], path: str, ready: PatchedFields | None = None) -> Head:
    """The head of a document with a checked patch applied, validated.

    Args:
        doc: the document.
        changes: the patch.
        path: its path in the message, for errors.
        ready: of `fields_in_steps`, used if it was made from the present fields.

    Raises:
        InvalidParamsError: the result is not valid.
        TooLargeError: it has more members than a head may have, and than it had.
    """
    head = Head("", doc.fields, doc.provider, doc.call_id, doc.status, doc.metrics, None)
    if "status" in changes:
        status = changes["status"]
        given = {} if status is None else {"status": msgspec.json.encode(status)}
        head.status = check_head(go_json.join_members({"id": _EMPTY, **given}), path)[0].status
    if "metrics" in changes:
        head.metrics = _patched_metrics(doc.metrics, changes["metrics"], f"{path}.metrics")
    if not touches_fields(changes):
        return head
    if ready is None or ready.before is not doc.fields:
        others = _of_fields(changes)
        before = go_json.raw_members(b"{%b}" % doc.fields)
        ready = finished(_patched_fields(doc, others, path, before, _merged(before, others)))
    head.fields, head.provider, head.call_id = ready.after, ready.provider, ready.call_id
    return head


def fields_in_steps(
    doc: Document, changes: Mapping[str, Any], path: str
) -> Generator[None, None, PatchedFields | None]:
    """What `patched_head` makes of long fields, in steps, for it to be given that; None if they stay."""
    if not touches_fields(changes):
        return None
    others = _of_fields(changes)
    before_text = doc.fields
    before = go_json.raw_members(b"{%b}" % before_text)
    yield
    after = yield from _merged_in_steps(before, others)
    yield
    if doc.fields is not before_text:
        return None
    return (yield from _patched_fields(doc, others, path, before, after))


def touches_fields(changes: Mapping[str, Any]) -> bool:
    """Whether a patch changes more than the status and the counters."""
    return len(changes) > ("status" in changes) + ("metrics" in changes)


def _of_fields(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if name not in ("status", "metrics")}


def _patched_fields(
    doc: Document, changes: Mapping[str, Any], path: str, before: _Members, after: _Members
) -> Generator[None, None, PatchedFields]:
    """The fields with all members patched, validated, in steps if they are long."""
    fields_before, provider, call_id = doc.fields, doc.provider, doc.call_id
    touched = {name: after[name] for name in changes if name in documents.HEAD_NAMES and name in after}
    typed, _ = check_head(go_json.join_members({"id": _EMPTY, **touched}), path)
    _drop_empty(after, path)
    _check_unknown(before, after, path)
    # the members before are in order already
    fields = go_json.join_members(after)[1:-1] if after.keys() == before.keys() else _fields(after)
    if fields == fields_before:
        return PatchedFields(fields_before, fields_before, provider, call_id)
    try:
        yield from parts_in_steps(fields, path, HEAD_PARTS)
    except TooLargeError:
        if _parts_of(after, changes) > _parts_of(before, changes):
            raise
    return PatchedFields(
        fields_before,
        fields,
        typed.provider if "provider" in changes else provider,
        typed.call_id if "call_id" in changes else call_id,
    )


def _merged_in_steps(members: _Members, changes: Mapping[str, Any]) -> Generator[None, None, _Members]:
    """Like `_merged`, in steps."""
    after = dict(members)
    for name, value in changes.items():
        if value is not None:
            after[name] = yield from merge_in_steps(after.get(name, b"null"), value)
        elif name != "created_at":
            after.pop(name, None)
    return after


def _merged(members: _Members, changes: Mapping[str, Any]) -> _Members:
    after = dict(members)
    for name, value in changes.items():
        if value is not None:
            after[name] = merge_text(after.get(name, b"null"), value)
        elif name != "created_at":  # each session has one
            after.pop(name, None)
    return after


def _drop_empty(members: _Members, path: str) -> None:
    """Drop an empty call id and empty recovery data, which Go omits.

    Raises:
        InvalidParamsError: the recovery data is not an object.
    """
    if members.get("call_id") == _EMPTY:
        del members["call_id"]
    value = members.get("recovery_data")
    if value is None:
        return
    if value[:1] != b"{":
        raise documents.not_object(f"{path}.recovery_data")
    if not value[1:-1].strip():
        del members["recovery_data"]


def _check_unknown(before: _Members, after: _Members, path: str) -> None:
    """Refuse more unknown members than a save may have, unless there were as many before."""
    if len(after) <= HEAD_NAMES:
        return
    unknown, had = (sum(name not in _KNOWN for name in members) for members in (after, before))
    if unknown > max(HEAD_NAMES, had):
        raise TooLargeError(f"more than {HEAD_NAMES} unknown members at {path}", path=path)


def _fields(members: _Members) -> bytes:
    """The members as `Head.fields` has them: the known ones in Go's order, then the others."""
    known = {name: members.get(name, _EMPTY) for name in _WRITTEN}
    known |= {name: members[name] for name in ("call_id", "recovery_data") if name in members}
    others = {name: value for name, value in members.items() if name not in _KNOWN}
    return go_json.join_members(known | others)[1:-1]


def _patched_metrics(metrics: CallMetrics, patch: Any, path: str) -> CallMetrics:
    if patch is None:
        return CallMetrics()
    if not isinstance(patch, dict):
        raise documents.not_object(path)
    documents.refuse_shadows(patch, documents.METRICS_NAMES, path)
    members = go_json.raw_members(merge_text(metrics.to_json(), patch))
    known = {name: members.pop(name) for name in documents.METRICS_NAMES if name in members}
    counters, _ = check_metrics(Raw(go_json.join_members(known)), path)
    patched = metrics_of(counters, joined_members(members))
    _check_unknown(metrics.unknown_members(), members, path)
    if len(patched.extra) > max(METRICS_BYTES, len(metrics.extra)):
        raise TooLargeError(f"more than {METRICS_BYTES} bytes of unknown members at {path}", path=path)
    if len(patched.extra) > len(metrics.extra):
        check_parts(patched.extra, path, HEAD_PARTS)
    return patched


def _parts_of(members: Mapping[str, bytes], names: Iterable[str]) -> int:
    return sum(count_parts(members.get(name, b"")) for name in names)
