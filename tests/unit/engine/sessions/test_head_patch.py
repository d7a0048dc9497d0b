"""Merge patches of a session's head: what they change, what they may not touch, and how much it may become."""

from __future__ import annotations

import json
import re

import pytest
from msgspec import Raw

from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import Head, head_of, read_head
from callstate_client.engine.sessions.head_patch import checked_patch, fields_in_steps, patched_head
from callstate_client.engine.sessions.steps import finished
from callstate_client.engine.sessions.validation.heads import HEAD_NAMES, METRICS_BYTES
from callstate_client.engine.sessions.validation.values import HEAD_PARTS
from callstate_client.errors import InvalidParamsError, ParseError, TooLargeError
from callstate_client.model import documents
from callstate_client.model.merge import MEMBERS_A_STEP
from support.documents import count_turns

TURN = b'{"role":"user","content":"0"}'


def document(data: bytes) -> Document:
    head = read_head(data, "$", lambda _: "2026-01-01T00:00:00Z")
    doc = Document(head, head.updated_us)
    if head.history:
        doc.replace_history(head.history, count_turns(head.history))
    return doc


def stored(**members: object) -> Document:
    """A document that a store had: it may have more than clients may send."""
    return Document(head_of(documents.read(json.dumps({"id": "a", **members}).encode())), 0)


def patched(doc: Document, patch: Raw, path: str) -> Head:
    changes = checked_patch(patch, path)
    try:
        fields = finished(fields_in_steps(doc, changes, path))
    except Exception as error:
        with pytest.raises(type(error), match=re.escape(str(error))):
            patched_head(doc, changes, path)
        raise
    head = patched_head(doc, changes, path)
    assert patched_head(doc, changes, path, fields) == head
    return head


def patch(doc: Document, **members: object) -> None:
    doc.take_head(patched(doc, Raw(json.dumps(members).encode()), "$.params.set"), 0)


def test_a_patch_changes_what_it_names() -> None:
    doc = document(
        b'{"id":"a","created_at":"2020-02-02T00:00:00.123456789Z","provider":"sip","campaign":"x","status":"active",'
        b'"metrics":{"turn_count":3,"p50":1},"recovery_data":{"node":"menu","try":1},"history":[%b]}' % TURN
    )
    head = patched(
        doc,
        Raw(b'{"status":"on_hold","campaign":null,"recovery_data":{"try":2},"metrics":{"first_response_ms":9}}'),
        "$",
    )
    doc.take_head(head, 0)
    assert json.loads(doc.to_json(0)) == {
        "id": "a",
        "created_at": "2020-02-02T00:00:00.123456789Z",
        "provider": "sip",
        "direction": "",
        "from": "",
        "to": "",
        "status": "on_hold",
        "updated_at": "1970-01-01T00:00:00Z",
        "recovery_data": {"node": "menu", "try": 2},
        "metrics": {
            "turn_count": 3, "interruption_count": 0, "user_speech_duration_ms": 0,
            "agent_speech_duration_ms": 0, "first_response_ms": 9, "p50": 1,
        },
        "history": [{"role": "user", "content": "0"}],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["id", "history", "updated_at"])
@pytest.mark.parametrize("value", ['"x"', "null"])
def test_members_that_no_patch_may_touch(name: str, value: str) -> None:
    with pytest.raises(InvalidParamsError) as caught:
        patched(document(b'{"id":"a"}'), Raw(f'{{"{name}":{value}}}'.encode()), "$.params.set")
    assert caught.value.path == f"$.params.set.{name}"


@pytest.mark.parametrize(
    ("patch", "path"),
    [
        (b"[]", "$.set"),
        (b"null", "$.set"),
        (b'{"status":5}', "$.set.status"),
        (b'{"status":"%b"}' % (b"x" * 65), "$.set.status"),
        (b'{"created_at":"soon"}', "$.set.created_at"),
        (b'{"metrics":{"turn_count":"many"}}', "$.set.metrics.turn_count"),
    ],
)
def test_a_patch_that_makes_no_session_is_refused(patch: bytes, path: str) -> None:
    with pytest.raises(InvalidParamsError) as caught:
        patched(document(b'{"id":"a"}'), Raw(patch), "$.set")
    assert caught.value.path == path


def test_a_patch_that_is_not_json_is_refused() -> None:
    with pytest.raises(ParseError):
        patched(document(b'{"id":"a"}'), Raw(b'{"x":"\\ud800"}'), "$.set")


def test_removing_the_beginning_leaves_it() -> None:
    doc = document(b'{"id":"a","created_at":"2020-02-02T00:00:00Z"}')
    doc.take_head(patched(doc, Raw(b'{"created_at":null}'), "$"), 0)
    assert doc.created_at == "2020-02-02T00:00:00Z"


def test_a_patch_that_changes_no_field_keeps_their_bytes() -> None:
    doc = document(b'{"id":"a","provider":"sip","recovery_data":{"x":1},"y":[]}')
    for members in ({"status": "held"}, {"metrics": {"turn_count": 3, "p50": 1}}, {"provider": "sip"}, {}):
        assert patched(doc, Raw(json.dumps(members).encode()), "$").fields is doc.fields


def test_patches_together_can_not_exceed_what_a_save_may_have() -> None:
    doc = document(b'{"id":"a"}')
    names = {f"x{number}": 0 for number in range(HEAD_NAMES)}
    patch(doc, **names)
    for members in ({"y": 0}, {"y": {}, "x1": 1}):
        with pytest.raises(TooLargeError, match=f"more than {HEAD_NAMES} unknown members at \\$.params.set"):
            patch(doc, **members)
    patch(doc, y=0, x1=None)
    patch(doc, **dict.fromkeys(names), y=None)
    many = HEAD_PARTS // 4
    for start in range(3):
        patch(doc, recovery_data={f"x{start}": [[]] * many})
    with pytest.raises(TooLargeError, match=f"more than {HEAD_PARTS} objects"):
        patch(doc, recovery_data={"x3": [[]] * many})
    with pytest.raises(TooLargeError, match=f"more than {HEAD_PARTS} objects"):
        patch(doc, other=[[]] * many)
    patch(doc, recovery_data={"x2": None}, other=[[]] * many)


def test_patches_together_can_not_exceed_what_metrics_may_have() -> None:
    doc = document(b'{"id":"a"}')
    patch(doc, metrics={f"x{number}": 0 for number in range(HEAD_NAMES)})
    with pytest.raises(TooLargeError, match=f"more than {HEAD_NAMES} unknown members at \\$.params.set.metrics"):
        patch(doc, metrics={"y": 0})
    patch(doc, metrics=None)
    patch(doc, metrics={"x": "x" * (METRICS_BYTES - 100)})
    with pytest.raises(TooLargeError, match=f"more than {METRICS_BYTES} bytes"):
        patch(doc, metrics={"y": "y" * 100})
    patch(doc, metrics={"x": None, "y": "y" * 100})
    with pytest.raises(TooLargeError, match=f"more than {METRICS_BYTES} bytes"):
        document(b'{"id":"a","metrics":{"x":"%b"}}' % (b"x" * METRICS_BYTES))


def test_a_head_of_a_store_that_has_more_can_lose_some() -> None:
    much = {"x": [[]] * 2 * HEAD_PARTS}
    doc = stored(recovery_data=much, metrics={f"m{number}": 0 for number in range(HEAD_NAMES + 2)})
    patch(doc, status="held", to="+1", metrics={"turn_count": 1})
    with pytest.raises(TooLargeError):
        patch(doc, recovery_data={"y": [[]]})
    with pytest.raises(TooLargeError):
        patch(doc, metrics={"y": 0})
    patch(doc, metrics={"m0": None})
    patch(doc, recovery_data={"x": [[]]})


def test_texts_of_a_store_that_are_too_long_for_a_client_stay_until_they_are_patched() -> None:
    doc = stored(call_id="x" * 2000, status="y" * 100)
    patch(doc, to="+1")
    assert (doc.call_id, doc.status) == ("x" * 2000, "y" * 100)
    with pytest.raises(InvalidParamsError) as caught:
        patch(doc, call_id="z" * 2000)
    assert caught.value.path == "$.params.set.call_id"


def test_a_long_head_is_not_read_by_a_patch_of_other_members() -> None:
    doc = document(b'{"id":"a","recovery_data":{"x":1}}')
    doc.fields = doc.fields.replace(b'{"x":1}', b"broken")
    patch(doc, status="held", metrics={"x": 1})
    assert doc.status == "held"


def test_what_was_prepared_for_other_fields_is_not_used() -> None:
    doc = document(b'{"id":"a","provider":"sip","x":1}')
    changes = checked_patch(Raw(b'{"x":2,"status":"on_hold"}'), "$")
    fields = finished(fields_in_steps(doc, changes, "$"))
    patch(doc, provider="twilio", y=3)
    head = patched_head(doc, changes, "$", fields)
    assert (head.provider, head.status) == ("twilio", "on_hold")
    assert b'"x":2,"y":3' in head.fields


def test_fields_that_change_between_the_steps_are_left_to_the_end() -> None:
    doc = document(b'{"id":"a","provider":"sip","x":1}')
    steps = fields_in_steps(doc, {"x": 2}, "$")
    next(steps)
    patch(doc, provider="twilio")
    assert finished(steps) is None
    assert finished(fields_in_steps(doc, {"status": "on_hold"}, "$")) is None


def test_long_patches_are_merged_in_small_steps() -> None:
    doc = document(b'{"id":"a"}')
    members = {f"k{number}": {"x": number} for number in range(4 * MEMBERS_A_STEP)}
    for _ in range(2):
        changes = {"recovery_data": {**members, "flat": {**dict.fromkeys(members, 1)}}}
        assert len([*fields_in_steps(doc, changes, "$")]) > 40
        patch(doc, **changes)
