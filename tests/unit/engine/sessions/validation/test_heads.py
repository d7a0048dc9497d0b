"""Sessions from clients without their histories: what is taken, and what is refused."""

from __future__ import annotations

import pytest

from callstate_client.engine.sessions.validation.heads import check_head, check_metrics
from callstate_client.engine.sessions.validation.values import HEAD_PARTS
from callstate_client.errors import InvalidParamsError, TooLargeError

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


@pytest.mark.parametrize("head", [b'{"id":"c","recovery_data":{"a":%b}}', b'{"id":"c","own":%b,"history":[]}'])
def test_a_head_with_too_many_values_is_refused(head: bytes) -> None:
    with pytest.raises(TooLargeError):
        check_head(head % (b"[%b]" % b",".join([b"[]"] * HEAD_PARTS)), "path")
    many = b'{"id":"c",%b}' % b",".join(b'"m%d":1' % number for number in range(HEAD_PARTS))
    with pytest.raises(TooLargeError):
        check_head(many, "path")


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
