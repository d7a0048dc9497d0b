"""Requests with far too many strings are refused as if all of them were decoded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callstate_client.engine.many_strings import CROPPED_BYTES, MANY_QUOTES, cropped
from callstate_client.engine.request import BadRequest, read_long_request, read_request
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.errors import InvalidParamsError, WireError
from callstate_client.protocol.bounds import MAX_HEARTBEAT_IDS
from support.core import Core

IDS = [f"s{number}" for number in range(110_000)]
LABELS = {f"k{number}": 'a "value"' for number in range(30_000)}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "heartbeat": ("session.heartbeat", {"session_ids": IDS}),
    "flush": ("server.flush", {"session_ids": IDS}),
    "retry": ("quarantine.retry", {"session_ids": IDS}),
    "types": ("events.subscribe", {"types": IDS}),
    "quoted": ("session.heartbeat", {"session_ids": ['"\\"'] * 40_000}),
    "twice": ("session.heartbeat", {"session_ids": IDS[:40_000], "x": IDS[:40_000]}),
    "not strings": ("session.heartbeat", {"session_ids": [{"a": each} for each in IDS[:50_000]]}),
}


def line(method: str, params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


def error_of(text: bytes, *, long: bool) -> WireError:
    with pytest.raises(BadRequest) as caught:
        read_long_request(text, SessionTable()) if long else read_request(text)
    return caught.value.error


@pytest.mark.parametrize("name", REFUSED)
def test_the_error_is_the_same(name: str) -> None:
    text = line(*REFUSED[name])
    assert len(cropped(text)) < max(len(text) // 2, 400_000)
    short, whole = error_of(text, long=True), error_of(text, long=False)
    assert type(short) is type(whole)
    if name not in ("twice", "not strings"):  # of several errors, another one may be found first
        assert (short.message, short.data) == (whole.message, whole.data)


def test_names_may_be_spelled_with_escapes() -> None:
    text = line("session.heartbeat", {"session_ids": IDS}).replace(b"session_ids", b"session\\u005fids")
    assert len(cropped(text)) < 100_000
    assert "length <= 10000" in error_of(text, long=True).message


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("session.claim_next", {"worker_id": "w", "labels": LABELS}),
        ("session.list", {"labels": LABELS}),
        ("session.list", {"labels": LABELS, "scope": "all"}),
        ("session.save", {"session": {"id": "a"}, "labels": LABELS}),
        ("session.save", {"session": {"id": "a", "recovery_data": {"labels": LABELS}}, "labels": LABELS}),
    ],
)
async def test_labels_are_refused_by_the_verb(method: str, params: dict[str, Any]) -> None:
    core = Core()
    text = cropped(line(method, params))
    assert len(text) < 20_000
    with pytest.raises(InvalidParamsError, match="labels at"):
        await core.call(method, **json.loads(text)["params"])
    assert not core.table.sessions


@pytest.mark.parametrize(
    "text",
    [
        line("session.heartbeat", {"session_ids": IDS[:MAX_HEARTBEAT_IDS], "x": IDS[:5000]}),
        line("server.flush", {"session_ids": IDS[:20_000]}),
        line("session.heartbeat", {"session_ids": ['"' * 50_000]}),
        line("session.save", {"session": {"id": "a", "recovery_data": {"labels": LABELS, "types": IDS[:20_000]}}}),
        line("session.heartbeat", {"session_ids": IDS})[:-2],
        b"[" * 50_000 + b'"' * 50_000,
        line("session.heartbeat", IDS[:30_000]),
    ],
)
def test_what_is_not_too_much_stays(text: bytes) -> None:
    assert len(text) > CROPPED_BYTES
    assert text.count(b'"') > MANY_QUOTES or b"\\" in text
    assert cropped(text) is text


@given(st.lists(st.text(st.sampled_from('a"\\é,:[]{}'), max_size=5), max_size=30))
def test_no_list_is_taken_for_a_longer_one(strings: list[str]) -> None:
    ids = [*strings, *["x"] * (1000 - len(strings))]
    text = line("quarantine.retry", {"session_ids": ids, "y": '" ' * MANY_QUOTES})
    assert cropped(text) is text
