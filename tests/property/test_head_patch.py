"""A patch of the parts of a head is what a patch of the whole document would be."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import Head, head_of
from callstate_client.engine.sessions.head_patch import checked_patch, fields_in_steps, patched_head
from callstate_client.engine.sessions.steps import finished
from callstate_client.model import documents
from callstate_client.model.merge import merge_patch
from support.budget import examples

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abé"), inner, max_size=2),
    max_leaves=4,
)
WORDS = st.text(max_size=8)
COUNTS = st.integers(-(2**63), 2**63 - 1)
METRICS = st.dictionaries(st.sampled_from(["turn_count", "first_response_ms"]), COUNTS) | st.dictionaries(
    st.sampled_from(["p50", "p99"]), VALUES.filter(lambda value: value is not None)
)
TIMES = st.sampled_from(["2026-01-01T00:00:00.123456789Z", "0001-01-01T00:00:00Z"])
TEXTS = ("call_id", "provider", "direction", "from", "to", "status")
HEADS = st.fixed_dictionaries(
    {"id": st.just("a"), "created_at": TIMES},
    optional={
        **dict.fromkeys(TEXTS, WORDS),
        "metrics": METRICS,
        "recovery_data": st.dictionaries(st.sampled_from("abé"), VALUES, max_size=3),
        "x": VALUES,
        "ÿ": VALUES,
    },
)
PATCHES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(TEXTS, st.none() | WORDS),
        "created_at": TIMES,
        "metrics": st.none()
        | st.dictionaries(st.sampled_from(["turn_count", "first_response_ms"]), st.none() | COUNTS)
        | st.dictionaries(st.sampled_from(["p50", "p99"]), VALUES),
        "recovery_data": st.none() | st.dictionaries(st.sampled_from("abé"), VALUES, max_size=3),
        "x": VALUES,
        "ÿ": VALUES,
    },
)


def patched(doc: Document, patch: Raw, path: str) -> Head:
    """By the patch at once, and in steps, which has to be the same."""
    changes = checked_patch(patch, path)
    head = patched_head(doc, changes, path)
    assert patched_head(doc, changes, path, finished(fields_in_steps(doc, changes, path))) == head
    return head


def head_json(document: dict[str, Any]) -> dict[str, Any]:
    """A document as it is after a read of the store."""
    return json.loads(Document(head_of(documents.read(json.dumps(document).encode())), 0).head_json(0))


@given(HEADS, PATCHES)
@settings(max_examples=examples(200))
def test_a_patched_head_is_that_of_the_patched_document(head: dict[str, Any], patch: dict[str, Any]) -> None:
    doc = Document(head_of(documents.read(json.dumps(head).encode())), 0)
    doc.take_head(patched(doc, Raw(json.dumps(patch).encode()), "$"), 0)
    expected = merge_patch(head, patch)
    if patch.get("status", "") is None:
        expected["status"] = "pending"  # not empty, as for a save
    assert json.loads(doc.head_json(0)) == head_json(expected)
    assert (doc.provider, doc.call_id) == (expected.get("provider", ""), expected.get("call_id", ""))
