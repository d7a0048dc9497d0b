"""Any JSON from clients: how much of it is taken, how deep, and how large its numbers are."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from callstate_client.engine.sessions.steps import finished
from callstate_client.engine.sessions.validation import values
from callstate_client.engine.sessions.validation.heads import check_head, check_metrics
from callstate_client.engine.sessions.validation.turns import check_turn
from callstate_client.engine.sessions.validation.values import HEAD_PARTS, NODES_A_STEP, check_json, json_in_steps
from callstate_client.errors import InvalidParamsError, ParseError, TooLargeError, WireError
from callstate_client.protocol import MAX_DEPTH

PATH = "$.params.turn"
DEEPEST = MAX_DEPTH - 5  # a member's value lies five levels deep: message, params, turns, turn, member


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"9223372036854775808", InvalidParamsError),
        (b"-9223372036854775809", InvalidParamsError),
        (b"1" * 40, InvalidParamsError),
        (b"1e999", InvalidParamsError),
        (b'{"x":[18446744073709551615]}', InvalidParamsError),
        (b'"\\ud800"', ParseError),
        (b'{"\\ud800":1}', ParseError),
        (nested(DEEPEST + 3), ParseError),
        (b'{"x":' * 40 + nested(DEEPEST) + b"}" * 40, ParseError),
        (nested(100_000), ParseError),
    ],
    ids=lambda value: None if isinstance(value, type) else repr(value[:24]),
)
def test_values_that_could_not_be_written_again_are_refused_in_unknown_members_too(
    value: bytes, kind: type[WireError]
) -> None:
    with pytest.raises(kind) as caught:
        check_turn(b'{"zz":%b}' % value, PATH)
    assert caught.value.data["path"].startswith(PATH)
    assert len(caught.value.message) < 400
    with pytest.raises(kind):
        check_head(b'{"id":"a","zz":%b}' % value, "$.params.session")
    with pytest.raises(kind):
        check_metrics(b'{"zz":%b}' % value, "$.params.session.metrics")


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (b"9223372036854775808", ""),
        (b'{"a":1,"b":[0,{"c":[9223372036854775808]}]}', ".b[1].c[0]"),
        (b'[[1,-9223372036854775809],{"a":9223372036854775808}]', "[0][1]"),
        (b"[%b9223372036854775808]" % (b"1," * 3 * NODES_A_STEP), f"[{3 * NODES_A_STEP}]"),
        (b'{"a":[[%b9223372036854775808]]}' % (b"1," * 3 * NODES_A_STEP), f".a[0][{3 * NODES_A_STEP}]"),
    ],
    ids=range(5),
)
def test_the_error_says_which_integer_is_too_long(value: bytes, place: str) -> None:
    for check in (check_json, lambda *args: finished(json_in_steps(*args))):
        with pytest.raises(InvalidParamsError) as caught:
            check(value, PATH, 5, 100_000)
        assert caught.value.path == PATH + place


def test_an_integer_among_long_names_is_found_without_a_path_for_each() -> None:
    name = b"x" * 100_000
    value = b'{"%b":[%b9223372036854775808]}' % (name, b"1," * 2 * NODES_A_STEP)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidParamsError) as caught:
            check_json(value, PATH, 5)
        assert tracemalloc.get_traced_memory()[1] < 100 * len(value)
    finally:
        tracemalloc.stop()
    assert caught.value.path == f"{PATH}.{name.decode()}[{2 * NODES_A_STEP}]"


@pytest.mark.parametrize("value", [b"9223372036854775807", b"-9223372036854775808", b"1e308", nested(DEEPEST)])
def test_the_bounds_themselves_are_taken(value: bytes) -> None:
    check_turn(b'{"zz":%b}' % value, PATH)
    check_json(value, PATH, 5)


def test_bad_utf_8_is_refused_where_bytes_come_by_another_way() -> None:
    with pytest.raises(ParseError):
        check_json(b'"\xff"', PATH, 3)


TOO_MANY = {
    "arrays": b"[" + b",".join([b"[]"] * HEAD_PARTS) + b"]",
    "objects": b"[" + b",".join([b"{}"] * HEAD_PARTS) + b"]",
    "members": b"{%b}" % b",".join(b'"%d":1' % number for number in range(HEAD_PARTS)),
    "numbers": b"[" + b",".join([b"1"] * 11 * HEAD_PARTS) + b"]",
}


@pytest.mark.parametrize("value", TOO_MANY.values(), ids=TOO_MANY)
def test_more_values_than_a_head_may_have_are_refused_before_they_are_decoded(
    value: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "_any", None)
    with pytest.raises(TooLargeError, match=f"more than {HEAD_PARTS} objects, arrays and members at path"):
        check_json(value, "path", 3)


def test_text_is_not_counted() -> None:
    text = b'"%b"' % (b'[{:,\\"' * HEAD_PARTS)
    assert check_json(b'{"a":%b}' % text, "path", 3) == {"a": json.loads(text)}


@pytest.mark.parametrize("width", [1, 100])
def test_nesting_is_counted_wherever_it_is(width: int) -> None:
    """Level by level, among others that are not nested."""

    def within(levels: int) -> bytes:
        return b"[%b,%b]" % (b",".join([b"[]"] * width), nested(levels))

    assert check_json(within(MAX_DEPTH - 4), "path", 3)
    with pytest.raises(ParseError, match="nested deeper"):
        check_json(within(MAX_DEPTH - 3), "path", 3)
