"""Turns from clients: what is taken, what is refused, and that the quick look and the slow one judge alike."""

from __future__ import annotations

import pytest

from callstate_client.engine.sessions.validation.turns import (
    check_turn,
    check_turns,
    completed,
    is_whole,
    usual_turns,
)
from callstate_client.errors import InvalidParamsError, ParseError, WireError

PATH = "$.params.turn"


TAKEN = {
    "nothing": b"{}",
    "all": b'{"role":"user","content":"hi","timestamp":"2026-01-01T00:00:00Z","duration_ms":900}',
    "nanoseconds": b'{"timestamp":"2026-01-01T00:00:00.123456789Z"}',
    "picoseconds": b'{"timestamp":"2026-01-01T00:00:00.123456789012Z"}',
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
    "the first of two times": (
        b'{"timestamp":"2026-01-01 00:00:00Z","timestamp":"2026-01-01T00:00:00Z"}', InvalidParamsError,
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
    assert (judged[0] is InvalidParamsError) == (zone not in ("Z", "+00:00", "-11:59"))


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


UNUSUAL = {"picoseconds", "escapes", "unicode", "widest role", "widest role, escaped", "spaces", "a name in a text"}
"""Valid, and left to the slow look for their escapes, roles, spaces or times."""


@pytest.mark.parametrize("name", TAKEN)
def test_usual_turns_are_those_that_the_slow_look_takes(name: str) -> None:
    usual = usual_turns(b"[%b]" % TAKEN[name])
    assert usual == check_turns(b"[%b]" % TAKEN[name], PATH) or (usual is None and name in UNUSUAL)


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_invalid_is_a_usual_turn(name: str) -> None:
    assert usual_turns(b"[%b]" % REFUSED[name][0]) is None
