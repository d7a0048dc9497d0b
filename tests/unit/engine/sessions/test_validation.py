"""What is taken, what is refused, and that the quick look and the slow one judge alike."""

from __future__ import annotations

import json

import pytest

from callstate_client.engine.sessions import validation
from callstate_client.engine.sessions.validation import (
    HEAD_PARTS,
    check_head,
    check_json,
    check_metrics,
    check_turn,
    check_turns,
    completed,
    is_whole,
)
from callstate_client.errors import InvalidParamsError, ParseError, TooLargeError, WireError
from callstate_client.protocol import MAX_DEPTH

PATH = "$.params.turn"
DEEPEST = MAX_DEPTH - 5  # a member's value lies five levels deep: message, params, turns, turn, member


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


TAKEN = {
    "nothing": b"{}",
    "all": b'{"role":"user","content":"hi","timestamp":"2026-01-01T00:00:00Z","duration_ms":900}',
    "nanoseconds": b'{"timestamp":"2026-01-01T00:00:00.123456789Z"}',
    "one digit": b'{"timestamp":"2026-01-01T00:00:00.1Z"}',
    "offset": b'{"timestamp":"2026-01-01T00:00:00+05:30"}',
    "zero time": b'{"timestamp":"0001-01-01T00:00:00Z"}',
    "escapes": b'{"content":"\\u003cb\\u003e \\"timestamp\\":\\"never\\" \\ud83d\\ude00 \\u0000"}',
    "unicode": '{"content":"héllo \U0001f600","role":"é"}'.encode(),
    "longest role": b'{"role":"%b"}' % (b"x" * 64),
    "widest role": '{{"role":"{}"}}'.format("é" * 32).encode(),
    "widest role, escaped": b'{"role":"%b"}' % (b"\\u00e9" * 32),
    "bounds": b'{"duration_ms":-9223372036854775808}',
    "upper bound": b'{"duration_ms":9223372036854775807}',
    "spaces": b' { "role" : "user" , "duration_ms" : 1 } ',
    "twice": b'{"role":"user","role":"agent"}',
    "a name in a text": b'{"content":"\\"timestamp\\": \\"noon\\""}',
}

REFUSED: dict[str, tuple[bytes, type[WireError], str, str | None]] = {
    "not an object": (b'"x"', InvalidParamsError, PATH, "object"),
    "null": (b"null", InvalidParamsError, PATH, "object"),
    "a list": (b"[]", InvalidParamsError, PATH, "object"),
    "role": (b'{"role":5}', InvalidParamsError, f"{PATH}.role", "str"),
    "null role": (b'{"role":null}', InvalidParamsError, f"{PATH}.role", "str"),
    "long role": (b'{"role":"%b"}' % (b"x" * 65), InvalidParamsError, f"{PATH}.role", "str of length <= 64"),
    "wide role": (
        '{{"role":"{}"}}'.format("é" * 33).encode(), InvalidParamsError, f"{PATH}.role", "at most 64 bytes"
    ),
    "wide role, escaped": (
        b'{"role":"%b"}' % (b"\\u00e9" * 33), InvalidParamsError, f"{PATH}.role", "at most 64 bytes"
    ),
    "content": (b'{"content":["x"]}', InvalidParamsError, f"{PATH}.content", "str"),
    "half a millisecond": (b'{"duration_ms":0.5}', InvalidParamsError, f"{PATH}.duration_ms", "int"),
    "too long": (
        b'{"duration_ms":9223372036854775808}', InvalidParamsError, f"{PATH}.duration_ms",
        "int <= 9223372036854775807",
    ),
    "too short": (
        b'{"duration_ms":-9223372036854775809}', InvalidParamsError, f"{PATH}.duration_ms",
        "int >= -9223372036854775808",
    ),
    "no time": (b'{"timestamp":"noon"}', InvalidParamsError, f"{PATH}.timestamp", "RFC 3339 time"),
    "no zone": (b'{"timestamp":"2026-01-01T00:00:00"}', InvalidParamsError, f"{PATH}.timestamp", None),
    "space": (b'{"timestamp":"2026-01-01 00:00:00Z"}', InvalidParamsError, f"{PATH}.timestamp", "RFC 3339 time"),
    "small z": (b'{"timestamp":"2026-01-01T00:00:00z"}', InvalidParamsError, f"{PATH}.timestamp", "RFC 3339 time"),
    "offset": (
        b'{"timestamp":"2026-01-01T00:00:00+0530"}', InvalidParamsError, f"{PATH}.timestamp", "RFC 3339 time"
    ),
    "month": (b'{"timestamp":"2026-13-01T00:00:00Z"}', InvalidParamsError, f"{PATH}.timestamp", "RFC 3339 time"),
    "ten digits": (
        b'{"timestamp":"2026-01-01T00:00:00.0123456789Z"}', InvalidParamsError, f"{PATH}.timestamp", "RFC 3339 time"
    ),
    "behind an escape": (
        b'{"\\u0074imestamp":"2026-01-01 00:00:00Z"}', InvalidParamsError, f"{PATH}.timestamp", "RFC 3339 time"
    ),
    "two digits of a zone": (
        b'{"timestamp":"2026-01-01T00:00:00+05"}', InvalidParamsError, f"{PATH}.timestamp", "RFC 3339 time"
    ),
    "the second of two times": (
        b'{"timestamp":"2026-01-01T00:00:00Z","timestamp":"2026-01-01 00:00:00Z"}', InvalidParamsError,
        f"{PATH}.timestamp", "RFC 3339 time",
    ),
    "no end of a time": (b'{"timestamp":"2026-01-01T00:00:00Z}', ParseError, PATH, None),
    "null time": (b'{"timestamp":null}', InvalidParamsError, f"{PATH}.timestamp", None),
    "surrogate": (b'{"content":"\\ud800"}', ParseError, PATH, None),
    "surrogate name": (b'{"\\udc00":1}', ParseError, PATH, None),
}  # fmt: skip


@pytest.mark.parametrize("data", TAKEN.values(), ids=TAKEN)
def test_taken(data: bytes) -> None:
    check_turn(data, PATH)


@pytest.mark.parametrize(("data", "kind", "path", "expected"), REFUSED.values(), ids=REFUSED)
def test_refused(data: bytes, kind: type[WireError], path: str, expected: str | None) -> None:
    with pytest.raises(kind) as caught:
        check_turn(data, PATH)
    assert caught.value.data["path"] == path
    assert path in caught.value.message
    if expected is not None:
        assert caught.value.data["expected"] == expected


@pytest.mark.parametrize("zone", ["Z", "+00:00", "-11:59", "+0530", "+05", "z", "", " Z"])
@pytest.mark.parametrize("digits", range(12))
def test_a_turn_by_itself_is_judged_as_one_of_many(digits: int, zone: str) -> None:
    fraction = "." + "123456789123"[:digits] if digits else ""
    turn = f'{{"timestamp":"2026-09-18T07:45:36{fraction}{zone}"}}'.encode()
    judged: list[object] = []
    for look in (lambda: check_turn(turn, PATH), lambda: check_turns(b"[%b,%b]" % (turn, turn), PATH)[1]):
        try:
            judged.append(look())
        except (InvalidParamsError, ParseError) as error:
            judged.append(type(error))
    assert judged[0] == judged[1]
    assert (judged[0] is InvalidParamsError) == (digits > 9 or zone not in ("Z", "+00:00", "-11:59"))


@pytest.mark.parametrize("data", TAKEN.values(), ids=TAKEN)
def test_a_member_more_changes_no_judgement(data: bytes) -> None:
    """A turn with a member that we don't know takes the slow way."""
    inside = data.strip()[1:-1].strip()
    plain = check_turn(data, PATH)
    more = check_turn(b'{%b%b"zz":[1]}' % (inside, b"," if inside else b""), PATH)
    for name in ("role", "content", "timestamp", "duration_ms"):
        assert getattr(more, name) == getattr(plain, name)


@pytest.mark.parametrize(
    ("data", "kind", "path", "expected"),
    [case for case in REFUSED.values() if case[0].startswith(b"{")],
    ids=[name for name, case in REFUSED.items() if case[0].startswith(b"{")],
)
def test_a_member_more_excuses_nothing(data: bytes, kind: type[WireError], path: str, expected: str | None) -> None:
    for more in (b'{"zz":[1],%b', b'{"zz":{"timestamp":"noon"},%b'):
        test_refused(more % data[1:], kind, path, expected)


@pytest.mark.parametrize(
    "value", [b'{"timestamp":"noon"}', b'[{"timestamp":""}]', b'"timestamp"', b'{"a":{"timestamp":"12:00"}}']
)
def test_foreign_members_are_not_judged(value: bytes) -> None:
    check_turn(b'{"role":"tool","result":%b}' % value, PATH)


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


@pytest.mark.parametrize("value", [b"9223372036854775807", b"-9223372036854775808", b"1e308", nested(DEEPEST)])
def test_the_bounds_themselves_are_taken(value: bytes) -> None:
    check_turn(b'{"zz":%b}' % value, PATH)
    check_json(value, PATH, 5)


def test_bad_utf_8_is_refused_where_bytes_come_by_another_way() -> None:
    with pytest.raises(ParseError):
        check_json(b'"\xff"', PATH, 3)


def test_errors_of_a_list_name_the_turn() -> None:
    with pytest.raises(InvalidParamsError) as caught:
        check_turns(b'[{},{"role":5}]', "$.params.turns")
    assert caught.value.path == "$.params.turns[1].role"
    with pytest.raises(InvalidParamsError) as caught:
        check_turns(b'[{},{"timestamp":"2026-01-01 00:00:00Z"}]', "$.params.turns")
    assert caught.value.path == "$.params.turns[1].timestamp"


def test_turns_are_completed() -> None:
    turns = b'{"role":"user"} , {} , { "timestamp":"2020-01-01T00:00:00Z", "x":{"role":"nested"}}'
    assert completed(turns, "NOW") == (
        b'{"role":"user","content":"","duration_ms":0,"timestamp":"NOW"},'
        b'{"role":"","content":"","duration_ms":0,"timestamp":"NOW"},'
        b'{"timestamp":"2020-01-01T00:00:00Z", "x":{"role":"nested"},"role":"","content":"","duration_ms":0}'
    )
    whole = b'{ "role":"","content":"", "timestamp":"2020-01-01T00:00:00Z","duration_ms":0 }'
    assert completed(whole, "NOW") == whole
    assert not any(map(is_whole, check_turns(b"[%b]" % turns, PATH)))
    said = b'[{"role":"user","content":"hi","timestamp":"2020-01-01T00:00:00Z","duration_ms":5}]'
    assert all(map(is_whole, check_turns(said, PATH)))


HEADS: dict[str, tuple[bytes, str, str]] = {
    "no id": (b"{}", "$.params.session.id", "this member"),
    "id": (b'{"id":5}', "$.params.session.id", "str"),
    "not an object": (b"[]", "$.params.session", "object"),
    "status": (b'{"id":"a","status":null}', "$.params.session.status", "str"),
    "long status": (b'{"id":"a","status":"%b"}' % (b"x" * 65), "$.params.session.status", "str of length <= 64"),
    "wide provider": (
        '{{"id":"a","provider":"{}"}}'.format("é" * 33).encode(), "$.params.session.provider", "at most 64 bytes"
    ),
    "wide direction": (
        b'{"id":"a","direction":"%b"}' % (b"\\u00e9" * 33), "$.params.session.direction", "at most 64 bytes"
    ),
    "time": (b'{"id":"a","created_at":"2026-01-01"}', "$.params.session.created_at", "RFC 3339 time"),
    "other time": (b'{"id":"a","updated_at":""}', "$.params.session.updated_at", "RFC 3339 time"),
    "year 0": (b'{"id":"a","updated_at":"0000-01-01T00:00:00Z"}', "$.params.session.updated_at", "RFC 3339 time"),
    "from": (b'{"id":"a","from":1}', "$.params.session.from", "str"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "path", "expected"), HEADS.values(), ids=HEADS)
def test_heads_refused(data: bytes, path: str, expected: str) -> None:
    with pytest.raises(InvalidParamsError) as caught:
        check_head(data, "$.params.session")
    assert caught.value.path == path
    assert caught.value.expected == expected


def test_heads_taken() -> None:
    head, extra = check_head(b'{"id":"a","from":"+1","history":[{}],"x":1,"y":{"z":[]},"created_at":null}', "$")
    assert (head.id, head.from_, head.status, head.created_at) == ("a", "+1", "pending", None)
    assert {name: bytes(value) for name, value in extra.items()} == {"x": b"1", "y": b'{"z":[]}'}


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b'{"turn_count":"3"}', "$.m.turn_count"),
        (b'{"turn_count":9223372036854775808}', "$.m.turn_count"),
        (b'{"average_response_ms":null}', "$.m.average_response_ms"),
        (b"[]", "$.m"),
    ],
)
def test_metrics_refused(data: bytes, path: str) -> None:
    with pytest.raises(InvalidParamsError) as caught:
        check_metrics(data, "$.m")
    assert caught.value.path == path


def test_metrics_taken() -> None:
    assert check_metrics(b"null", "$.m")[0].turn_count == 0
    metrics, extra = check_metrics(b'{"turn_count":-1,"p50":{"ms":3}}', "$.m")
    assert metrics.turn_count == -1
    assert bytes(extra["p50"]) == b'{"ms":3}'


# -- the number of values -----------------------------------------------------------------------------------------

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
    monkeypatch.setattr(validation, "_any", None)
    with pytest.raises(TooLargeError, match=f"more than {HEAD_PARTS} objects, arrays and members at path"):
        check_json(value, "path", 3)


@pytest.mark.parametrize("head", [b'{"id":"c","recovery_data":{"a":%b}}', b'{"id":"c","own":%b,"history":[]}'])
def test_a_head_with_too_many_values_is_refused(head: bytes) -> None:
    with pytest.raises(TooLargeError):
        check_head(head % TOO_MANY["arrays"], "path")
    many = b'{"id":"c",%b}' % b",".join(b'"m%d":1' % number for number in range(HEAD_PARTS))
    with pytest.raises(TooLargeError):
        check_head(many, "path")


def test_text_is_not_counted() -> None:
    text = b'"%b"' % (b'[{:,\\"' * HEAD_PARTS)
    assert check_json(b'{"a":%b}' % text, "path", 3) == {"a": json.loads(text)}


def test_turns_are_not_counted_as_values_of_the_head() -> None:
    turns = b"[" + b",".join([b"{}"] * 2 * HEAD_PARTS) + b"]"
    head, extra = check_head(b'{"id":"c","own":1,"history":%b}' % turns, "path")
    assert bytes(head.history) == turns  # type: ignore[arg-type]
    assert extra.keys() == {"own"}


def test_of_many_members_the_wrong_one_is_named() -> None:
    members = b",".join(b'"m%d":%b' % (number, b"1" * (20 if number == 700 else 1)) for number in range(1000))
    with pytest.raises(InvalidParamsError) as refused:
        check_head(b'{"id":"c",%b}' % members, "path")
    assert refused.value.data["path"] == "path.m700"


@pytest.mark.parametrize("width", [1, 100])
def test_nesting_is_counted_wherever_it_is(width: int) -> None:
    """Level by level, among others that are not nested."""

    def within(levels: int) -> bytes:
        return b"[%b,%b]" % (b",".join([b"[]"] * width), nested(levels))

    assert check_json(within(MAX_DEPTH - 4), "path", 3)
    with pytest.raises(ParseError, match="nested deeper"):
        check_json(within(MAX_DEPTH - 3), "path", 3)
