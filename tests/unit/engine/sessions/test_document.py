"""One session as bytes: what goes in comes out, and what must not go in does not."""

from __future__ import annotations

import json
from collections.abc import Generator
from itertools import count
from typing import Any

import pytest
from msgspec import Raw

from callstate_client.engine.sessions.document import UNCUT_BYTES, Document
from callstate_client.engine.sessions.folding import FOLD_BYTES, FOLD_CHUNKS, MAX_PIECES
from callstate_client.engine.sessions.head import CallMetrics, Head, read_head
from callstate_client.engine.sessions.turn_patch import amended_turn
from callstate_client.engine.sessions.turn_search import find_turn
from callstate_client.engine.sessions.validation.turns import IncomingTurn
from callstate_client.errors import InvalidParamsError
from callstate_client.model import SessionState
from callstate_client.model.merge import merge_patch
from callstate_client.model.times import MAX_US, MIN_US, format_us, parse_us
from support.documents import GO_DOCUMENTS, count_turns, go_document

INT64_MAX = 2**63 - 1
NOW = "2026-01-01T00:00:00Z"


def head_of(data: bytes) -> Head:
    return read_head(data, "$", lambda _: NOW)


def document(data: bytes, updated_us: int = 0) -> Document:
    head = head_of(data)
    doc = Document(head, updated_us or head.updated_us)
    if head.history:
        doc.replace_history(head.history, count_turns(head.history))
    return doc


# -- times ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "at_us"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000001Z", 1),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("2026-01-01T02:00:00+02:00", 1_767_225_600_000_000),
        ("2026-01-01T00:00:00.123456789Z", 1_767_225_600_123_456),
        ("2026-01-01T00:00:00.1Z", 1_767_225_600_100_000),
        ("0001-01-01T00:00:00Z", MIN_US),
        ("9999-12-31T23:59:59.999999Z", MAX_US),
        ("0001-01-01T00:00:00+01:00", MIN_US),
        ("9999-12-31T23:59:59-01:00", MAX_US),
    ],
)
def test_times_are_read_to_the_microsecond(text: str, at_us: int) -> None:
    assert parse_us(text) == at_us
    format_us(at_us)  # whatever was read can be written


def test_times_are_written_as_short_as_go_writes_them() -> None:
    assert format_us(1_767_225_600_000_000) == NOW
    assert format_us(1_767_225_600_000_001) == "2026-01-01T00:00:00.000001Z"
    assert format_us(MIN_US) == "0001-01-01T00:00:00Z"


# -- heads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GO_DOCUMENTS)
def test_documents_by_go_come_back_with_every_value(name: str) -> None:
    data = go_document(name)
    doc = document(data)
    expected, found = json.loads(data), json.loads(doc.to_json(doc.updated_us))
    expected["history"] = expected["history"] or []
    assert parse_us(expected.pop("updated_at")) == parse_us(found.pop("updated_at"))
    assert found == expected
    assert SessionState.from_json(doc.to_json(doc.updated_us)).to_json()


def test_unknown_members_are_kept_at_each_level() -> None:
    doc = document(
        b'{"id":"a","x":{"deep":[1,2.50,"\\u00e9"]},"metrics":{"turn_count":1,"latency":{"p50":3}},'
        b'"history":[{"role":"user","y":null}]}'
    )
    whole = doc.to_json(0)
    assert b'"x":{"deep":[1,2.50,"\\u00e9"]}' in whole
    assert json.loads(whole)["metrics"]["latency"] == {"p50": 3}
    assert b'{"role":"user","y":null}' in whole


def test_turns_are_kept_byte_for_byte() -> None:
    turns = b'{ "role" : "user" ,"timestamp":"2026-01-01T00:00:00.123456789+05:30", "content":"\\u003cb\\u003e" }'
    doc = document(b'{"id":"a","history": [ %b ] }' % turns)
    assert doc.chunks == [turns]
    assert doc.to_json(0).endswith(b'"history":[%b]}' % turns)


@pytest.mark.parametrize("history", [b"", b',"history":null', b',"history":[]', b',"history":[ ]'])
def test_no_turns_are_an_empty_list(history: bytes) -> None:
    head = head_of(b'{"id":"a"%b}' % history)
    assert head.history is (None if not history else head.history)
    assert not head.history
    assert document(b'{"id":"a"%b}' % history).to_json(0).endswith(b'"history":[]}')


@pytest.mark.parametrize("history", [b"{}", b'"x"', b"1", b"true"])
def test_a_history_that_is_not_a_list_is_refused(history: bytes) -> None:
    with pytest.raises(InvalidParamsError) as caught:
        read_head(b'{"id":"a","history":%b}' % history, "$.params.session", lambda _: NOW)
    assert caught.value.path == "$.params.session.history"
    assert caught.value.expected == "array or null"


@pytest.mark.parametrize("empty", [b"null", b"{}", b"{ }", b"{\r\n\t}"])
def test_empty_members_are_left_out_as_go_leaves_them_out(empty: bytes) -> None:
    whole = document(b'{"id":"a","call_id":"","recovery_data":%b}' % empty).to_json(0)
    assert b"recovery_data" not in whole
    assert b"call_id" not in whole
    assert b"first_response_ms" not in whole


def test_a_session_without_a_beginning_gets_one() -> None:
    assert document(b'{"id":"a"}').created_at == NOW
    assert document(b'{"id":"a","created_at":"2020-02-02T00:00:00Z"}').created_at == "2020-02-02T00:00:00Z"


# -- metrics --------------------------------------------------------------------------------------------------


def test_turns_and_interruptions_are_counted() -> None:
    turns = [
        IncomingTurn("user", duration_ms=5),
        IncomingTurn("agent", duration_ms=7),
        IncomingTurn("tool", duration_ms=100),
    ]
    metrics = CallMetrics(turn_count=1, extra=b',"x":1').with_turns(turns).with_interruption()
    assert metrics == CallMetrics(4, 1, 5, 7, extra=b',"x":1')
    assert json.loads(metrics.to_json()) == {
        "turn_count": 4, "interruption_count": 1, "user_speech_duration_ms": 5, "agent_speech_duration_ms": 7,
        "x": 1,
    }  # fmt: skip


def test_a_counter_stays_where_go_can_read_it() -> None:
    full = CallMetrics(INT64_MAX, INT64_MAX, INT64_MAX, -INT64_MAX)
    after = full.with_turns(
        [IncomingTurn("user", duration_ms=1), IncomingTurn("agent", duration_ms=-5)]
    ).with_interruption()
    assert after == CallMetrics(INT64_MAX, INT64_MAX, INT64_MAX, -INT64_MAX), "no speech takes less than no time"


# -- history --------------------------------------------------------------------------------------------------


def turn(number: int, size: int = 0) -> bytes:
    return b'{"role":"user","content":"%d%b"}' % (number, b"x" * size)


def test_a_history_is_folded_into_few_chunks() -> None:
    doc = document(b'{"id":"a"}')
    for number in range(2000):
        doc.append(turn(number), 1)
    assert len(doc.chunks) <= 2 * FOLD_CHUNKS
    assert b",".join(doc.chunks) == b",".join(turn(number) for number in range(2000))


def test_folding_a_long_history_copies_little() -> None:
    """However long it is: what is copied over 2,000 turns is a few times what they have, not turns times size."""
    doc = document(b'{"id":"a"}')
    copied, before = 0, set()
    for number in range(2000):
        doc.append(turn(number, 3000), 1)
        copied += sum(len(chunk) for chunk in doc.chunks if id(chunk) not in before)
        before = {id(chunk) for chunk in doc.chunks}
    assert sum(map(len, doc.chunks)) > 2000 * 3000
    assert copied < 8 * 2000 * 3000
    assert len(doc.chunks) < FOLD_CHUNKS + 4 * 2000 * 3000 // FOLD_BYTES


def test_a_turn_larger_than_a_fold_is_left_alone() -> None:
    doc = document(b'{"id":"a"}')
    for number in range(FOLD_CHUNKS - 1):
        doc.append(turn(number), 1)
    doc.append(turn(99, 2 * FOLD_BYTES), 1)
    doc.append(turn(100), 1)
    assert all(doc.chunks)
    assert count_turns(b",".join(doc.chunks)) == FOLD_CHUNKS + 1


@pytest.mark.parametrize(
    ("kept", "history", "rest"),
    [
        ([], b"", b""),
        ([], b'{"a":1}', b'{"a":1}'),
        ([b'{"a":1}'], b'{"a":1}', b""),
        ([b'{"a":1}'], b'{"a":1} ', b""),
        ([b'{"a":1}'], b'{"a":1},{"b":2}', b'{"b":2}'),
        ([b'{"a":1}'], b'{"a":1} ,\n{"b":2}', b'{"b":2}'),
        ([b'{"a":1}', b'{"b":2}'], b'{"a":1},{"b":2},{"c":3}', b'{"c":3}'),
        ([b'{"a":1}'], b"", None),
        ([b'{"a":1}'], b'{"a":2}', None),
        ([b'{"a":1}'], b' {"a":1}', None),
        ([b'{"a":1}', b'{"b":2}'], b'{"a":1}', None),
        ([b'{"a":1}', b'{"b":2}'], b'{"a":1}, {"b":2}', None),
        ([b'{"a":1}', b'{"b":2}'], b'{"a":1},{"b":3}', None),
    ],
)
def test_the_rest_of_a_history_behind_the_kept_turns(kept: list[bytes], history: bytes, rest: bytes | None) -> None:
    doc = document(b'{"id":"a"}')
    for chunk in kept:
        doc.append(chunk, 1)
    assert doc.extension(history) == rest


def test_last_turns_come_from_the_chunks_that_hold_them() -> None:
    doc = document(b'{"id":"a"}')
    doc.append(b",".join(map(turn, range(3))), 3)
    doc.append(turn(3), 1)
    assert [doc.last_turns(count).count(b"role") for count in (0, 1, 2, 4, 9)] == [0, 1, 2, 4, 4]
    assert doc.last_turns(2) == turn(2) + b"," + turn(3)


def test_amending_changes_the_last_turn_alone() -> None:
    doc = document(
        b'{"id":"a","history":[%b,{"role":"agent","content":"all of it","z":1,"duration_ms":9}]}' % turn(0)
    )
    place = find_turn(doc, None)
    amended = amended_turn(place.text, Raw(b'{"content":"all","z":null,"interrupted":true}'), "$.set")
    assert json.loads(amended) == {"role": "agent", "content": "all", "duration_ms": 9, "interrupted": True}
    doc.replace_turn(place, amended)
    assert doc.last_turns(2) == turn(0) + b"," + amended
    assert doc.turn_count == 2


@pytest.mark.parametrize("index", range(-6, 6))
def test_any_turn_can_be_replaced_wherever_its_chunk_lies(index: int) -> None:
    doc = document(b'{"id":"a"}')
    doc.append(b",".join(map(turn, range(3))), 3)
    doc.append(turn(3), 1)
    doc.append(turn(4) + b"," + turn(5), 2)
    place = find_turn(doc, index)
    assert place.index == index % 6
    doc.replace_turn(place, b'{"content":"other"}')
    expected = [*map(turn, range(6))]
    expected[index] = b'{"content":"other"}'
    assert b",".join(doc.chunks) == b",".join(expected)
    assert doc.history_bytes == len(b",".join(expected))
    assert doc.turn_count == 6


@pytest.mark.parametrize(
    ("patch", "path"),
    [
        (b'{"role":5}', "$.set.role"),
        (b'{"duration_ms":9223372036854775808}', "$.set.duration_ms"),
        (b'{"timestamp":"yesterday"}', "$.set.timestamp"),
        (b"5", "$.set"),
    ],
)
def test_an_amendment_is_checked(patch: bytes, path: str) -> None:
    doc = document(b'{"id":"a","history":[{"role":"user"}]}')
    with pytest.raises(InvalidParamsError) as caught:
        amended_turn(find_turn(doc, None).text, Raw(patch), "$.set")
    assert caught.value.path == path
    assert doc.last_turns(1) == b'{"role":"user"}'


# -- merge patches --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_the_cases_of_rfc_7396_appendix_a(target: object, patch: object, result: object) -> None:
    assert merge_patch(target, patch) == result


def done(steps: Generator[None, None, Any]) -> tuple[int, Any]:
    """Do all steps; how many there were, and the result."""
    for number in count():
        try:
            next(steps)
        except StopIteration as end:
            return number, end.value
    raise AssertionError


def at_once(turns: int) -> Document:
    """A history that was added at once, as a replay does it."""
    doc = document(b'{"id":"a"}')
    doc.replace_history(b",".join(turn(number) for number in range(turns)), turns)
    return doc


def test_a_history_added_at_once_is_cut_in_steps_and_stays_the_same() -> None:
    doc = at_once(20_000)
    history, lineage, size = doc.chunks[0], doc.lineage, doc.history_bytes
    at = doc.uncut_last(1)
    assert at == doc.uncut(10_000) == doc.uncut(None) == 0
    steps, _ = done(doc.cut_at(0))
    assert steps >= len(history) // FOLD_BYTES - 1
    assert b",".join(doc.chunks) == history
    assert (doc.lineage, doc.history_bytes, sum(doc.counts)) == (lineage, size, 20_000), "the store has it still"
    assert max(map(len, doc.chunks)) <= UNCUT_BYTES
    assert doc.uncut_last(1) is doc.uncut(10_000) is None
    assert doc.last_turns(3) == b",".join(turn(number) for number in (19_997, 19_998, 19_999))
    for index in (0, 1, 9_999, 19_999):
        place = find_turn(doc, index)
        assert place.text == turn(index)
        assert len(place.parts) < 2000, "one chunk is parsed, not the history"


def test_a_history_that_grows_or_is_replaced_while_it_is_cut_is_right() -> None:
    doc = at_once(20_000)
    steps = doc.cut_at(0)
    next(steps)
    doc.append(turn(20_000), 1)
    done(steps)
    assert doc.last_turns(2) == turn(19_999) + b"," + turn(20_000)
    assert len(doc.chunks) > 10
    doc = at_once(20_000)
    steps = doc.cut_at(0)
    next(steps)
    doc.replace_history(turn(7), 1)
    done(steps)
    assert doc.chunks == [turn(7)]


def test_a_rollback_while_it_is_cut_is_right() -> None:
    doc = at_once(20_000)
    before = b",".join(doc.chunks)
    mark = doc.mark()
    doc.append(turn(20_000), 1)
    done(doc.cut_at(0))
    doc.append(turn(20_001), 1)
    doc.restore(mark)
    assert b",".join(doc.chunks) == before
    assert sum(doc.counts) == doc.turn_count == 20_000


def test_a_history_amended_in_many_places_stays_in_few_chunks() -> None:
    doc = at_once(3000)
    history = [turn(number) for number in range(3000)]
    for index in range(0, 3000, 2):
        history[index] = b'{"role":"user","content":"amended %d"}' % index
        doc.replace_turn(find_turn(doc, index), history[index])
    assert b",".join(doc.chunks) == b",".join(history)
    assert len(doc.chunks) == len(doc.counts) <= MAX_PIECES + 4 * doc.history_bytes // FOLD_BYTES
    assert sum(doc.counts) == 3000
