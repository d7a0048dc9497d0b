"""Hostile and broken input: each line gets its documented error and costs nothing but itself."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from callstate_client.protocol import LINE_BYTES, MAX_DEPTH
from support.daemon import Daemon
from support.documents import GO_DOCUMENTS, go_document
from support.wire import Refused, Wire, request

MIB = 1024 * 1024
STORED = [f"kept-{number}" for number in range(len(GO_DOCUMENTS))]
SESSION = "c1"

ID_RULE = "1 to 256 bytes of printable ASCII, no space, no braces, not starting with '@', not 'active'"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """A daemon with sessions in it that nothing in here may harm."""
    with Daemon() as running:
        with Wire(running.socket) as wire:
            for session_id, name in zip(STORED, GO_DOCUMENTS, strict=True):
                document = json.loads(go_document(name, session_id.encode()))
                wire.call("session.save", session=document, labels={"kept": name})
        yield running


@pytest.fixture
def wire(daemon: Daemon) -> Iterator[Wire]:
    """A connection; afterwards the same connection is still served, and nothing stored has changed."""
    with Wire(daemon.socket) as connection:
        before = [connection.document(session_id) for session_id in STORED]
        connection.call("session.save", session={"id": SESSION, "history": []})
        yield connection
        assert connection.call("server.ping") == {}
        assert [connection.document(session_id) for session_id in STORED] == before
        connection.call("session.delete", session_id=SESSION)
    assert daemon.process is not None
    assert daemon.process.poll() is None


def line_of(method: str, params: str, request_id: str = "7") -> bytes:
    """A request whose params are text, for what no JSON writer would write."""
    return f'{{"jsonrpc":"2.0","id":{request_id},"method":"{method}","params":{params}}}'.encode()


def refused(wire: Wire, line: bytes, kind: str, *, request_id: Any = 7) -> dict[str, Any]:
    """Asserts that a line gets this error, once, and that the next line is served."""
    error = wire.refusal(line)
    assert (error["data"]["kind"], error["id"]) == (kind, request_id), f"{line[:200]!r}: {error}"
    assert error["data"]["retryable"] is False
    assert wire.ask(line_of("server.ping", "{}", '"next"'))["id"] == "next"
    data: dict[str, Any] = error["data"]
    return data


# -- the line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"hello",
        b"{",
        b'{"jsonrpc":"2.0","id":7,"method":"server.ping"',
        b'{"jsonrpc":"2.0","id":7,"method":"server.ping"}}',
        b'{"jsonrpc":"2.0","id":7,"method":"server.ping"} {"jsonrpc":"2.0","id":8,"method":"server.ping"}',
        b"{'jsonrpc':'2.0','id':7,'method':'server.ping'}",
        b'{"jsonrpc":"2.0","id":7,"method":"server.ping",}',
        b'{"jsonrpc":"2.0","id":007,"method":"server.ping"}',
        b'{"jsonrpc":"2.0","id":7,"method":"server.ping","params":{"x":NaN}}',
        b'\xef\xbb\xbf{"jsonrpc":"2.0","id":7,"method":"server.ping"}',
        b'{"jsonrpc":"2.0","id":7,"method":"server.p\x01ng"}',
        b"\x00" * 64,
        b"\x80\x81",
        b"GET / HTTP/1.1",
        # what it begins with is no request either, but it is no JSON
        b'[{"jsonrpc":"2.0","method":"server.ping","params":{},"id":"1"},{"jsonrpc":"2.0","method"',
        b"[1,",
        b"[}",
        b"7x",
        b'{"jsonrpc":"2.0","id":7,"method":5',
        b'{"jsonrpc":"2.0","id":7,"method":5} 8',
        b'{"jsonrpc":"2.0","id":{},"method":NaN}',
        b"*1",
    ],
)
def test_invalid_json_is_a_parse_error(wire: Wire, line: bytes) -> None:
    refused(wire, line, "parse_error", request_id=None)


@pytest.mark.parametrize("line", [b"1", b'"server.ping"', b"null", b"true", b"[]", b"{}"])
def test_json_that_is_not_a_request_is_an_invalid_request(wire: Wire, line: bytes) -> None:
    refused(wire, line, "invalid_request", request_id=None)


def test_a_batch_is_refused_and_nothing_in_it_is_done(wire: Wire) -> None:
    batch = b"[%b]" % request(7, "session.delete", {"session_id": SESSION}).strip()
    refused(wire, batch, "invalid_request", request_id=None)
    assert wire.call("session.load", session_id=SESSION)["session"]["id"] == SESSION


@pytest.mark.parametrize(
    ("line", "request_id"),
    [
        (b'{"id":7,"method":"server.ping"}', 7),
        (b'{"jsonrpc":"1.0","id":7,"method":"server.ping"}', 7),
        (b'{"jsonrpc":2.0,"id":7,"method":"server.ping"}', 7),
        (b'{"jsonrpc":"2.0","id":7}', 7),
        (b'{"jsonrpc":"2.0","id":"seven","method":null}', "seven"),
        (b'{"jsonrpc":"2.0","id":true,"method":"server.ping"}', None),
        (b'{"jsonrpc":"2.0","id":[7],"method":"server.ping"}', None),
        (b'{"jsonrpc":"2.0","id":{},"method":"server.ping"}', None),
        (b'{"jsonrpc":"2.0","id":1e400,"method":"server.ping"}', None),
        (b'{"jsonrpc":"2.0","id":7,"method":"server.ping","parms":{}}', 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"server.ping","params":{},"trace":"x"}', 7),
        (b'{"jsonrpc":"2.0","Id":7,"method":"server.ping"}', None),
        # no id, but no notification either: nobody can tell what it was meant to be
        (b'{"jsonrpc":"2.0"}', None),
    ],
)
def test_a_bad_envelope_is_an_invalid_request(wire: Wire, line: bytes, request_id: Any) -> None:
    refused(wire, line, "invalid_request", request_id=request_id)


@pytest.mark.parametrize("method", ["", "session", "session.saved", "Session.save", "rpc.discover", "x" * 1000])
def test_an_unknown_method_is_method_not_found(wire: Wire, method: str) -> None:
    refused(wire, line_of(method, '{"anything":[1]}'), "method_not_found")


@pytest.mark.parametrize("request_id", ["0", "-1", "9223372036854775807", "1.5", '""', '"é\\n"', "null"])
def test_any_valid_id_is_returned_unchanged(wire: Wire, request_id: str) -> None:
    assert wire.ask(line_of("server.ping", "{}", request_id))["id"] == json.loads(request_id)


# -- params ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "params", "path"),
    [
        ("server.ping", "[]", "$.params"),
        ("server.ping", "null", "$.params"),
        ("server.ping", '{"x":1}', "$.params.x"),
        ("session.load", "{}", "$.params.session_id"),
        ("session.load", '{"session_id":5}', "$.params.session_id"),
        ("session.load", '{"session_id":"kept-0","history":"some"}', "$.params.history"),
        ("session.load", '{"session_id":"kept-0","history":-1}', "$.params.history"),
        ("session.load", '{"session_id":"kept-0","history":1.5}', "$.params.history"),
        ("session.load", '{"session_id":"kept-0","history":null}', "$.params.history"),
        ("session.save", "{}", "$.params.session"),
        ("session.save", '{"session":null}', "$.params.session"),
        ("session.save", '{"session":[]}', "$.params.session"),
        ("session.save", '{"session":{}}', "$.params.session.id"),
        ("session.save", '{"session":{"id":"c1"},"if_verson":1}', "$.params.if_verson"),
        ("session.save", '{"session":{"id":"c1"},"if_version":-1}', "$.params.if_version"),
        ("session.save", '{"session":{"id":"c1"},"if_version":"1"}', "$.params.if_version"),
        ("session.save", '{"session":{"id":"c1"},"heartbeat_timeout_s":0}', "$.params.heartbeat_timeout_s"),
        ("session.save", '{"session":{"id":"c1"},"max_duration_s":-5}', "$.params.max_duration_s"),
        ("session.save", '{"session":{"id":"c1"},"op":""}', "$.params.op"),
        ("session.save", '{"session":{"id":"c1"},"labels":{"a":1}}', "$.params.labels.a"),
        ("session.save", '{"session":{"id":"c1","from":5}}', "$.params.session.from"),
        ("session.save", '{"session":{"id":"c1","status":null}}', "$.params.session.status"),
        ("session.save", '{"session":{"id":"c1","created_at":"today"}}', "$.params.session.created_at"),
        ("session.save", '{"session":{"id":"c1","history":{}}}', "$.params.session.history"),
        ("session.save", '{"session":{"id":"c1","history":[{},5]}}', "$.params.session.history[1]"),
        ("session.save", '{"session":{"id":"c1","history":[{"role":1}]}}', "$.params.session.history[0].role"),
        ("session.save", '{"session":{"id":"c1","metrics":[]}}', "$.params.session.metrics"),
        (
            "session.save",
            '{"session":{"id":"c1","metrics":{"turn_count":1.5}}}',
            "$.params.session.metrics.turn_count",
        ),
        ("session.add_turn", '{"session_id":"c1"}', "$.params"),
        ("session.add_turn", '{"session_id":"c1","turn":{},"turns":[]}', "$.params"),
        ("session.add_turn", '{"session_id":"c1","turn":null}', "$.params.turn"),
        ("session.add_turn", '{"session_id":"c1","turn":{"content":5}}', "$.params.turn.content"),
        ("session.add_turn", '{"session_id":"c1","turns":{}}', "$.params.turns"),
        ("session.add_turn", '{"session_id":"c1","turns":[{},[]]}', "$.params.turns[1]"),
        (
            "session.add_turn",
            '{"session_id":"c1","turns":[{},{"timestamp":"2026-05-01 12:00:00Z"}]}',
            "$.params.turns[1].timestamp",
        ),
        ("session.add_turn", '{"session_id":"c1","turn":{"timestamp":"2026-05-01"}}', "$.params.turn.timestamp"),
        (
            # the name written so that no search for it finds it
            "session.add_turn",
            '{"session_id":"c1","turn":{"\\u0074imestamp":"2026-05-01 12:00:00Z"}}',
            "$.params.turn.timestamp",
        ),
        ("session.update", '{"session_id":"c1"}', "$.params.set"),
        ("session.update", '{"session_id":"c1","set":[]}', "$.params.set"),
        ("session.update", '{"session_id":"c1","set":{"from":5}}', "$.params.set.from"),
        ("session.end", '{"session_id":"c1","reason":5}', "$.params.reason"),
        ("session.heartbeat", "{}", "$.params"),
        ("session.heartbeat", '{"session_id":"c1","session_ids":[]}', "$.params"),
        ("session.heartbeat", '{"session_ids":"c1"}', "$.params.session_ids"),
        ("session.heartbeat", '{"session_ids":[1]}', "$.params.session_ids[0]"),
        ("session.list", '{"limit":0}', "$.params.limit"),
        ("session.list", '{"limit":10001}', "$.params.limit"),
        ("session.list", '{"cursor":"yesterday"}', "$.params.cursor"),
        ("session.list", '{"ended_since":1}', "$.params.ended_since"),
        ("session.list", '{"ended_since":"yesterday"}', "$.params.ended_since"),
        ("session.list_active", '{"scope":"world"}', "$.params.scope"),
        ("server.flush", '{"timeout_s":0}', "$.params.timeout_s"),
    ],
)
def test_wrong_params_are_named_by_their_place(wire: Wire, method: str, params: str, path: str) -> None:
    before = wire.document(SESSION)
    data = refused(wire, line_of(method, params), "invalid_params")
    assert data["path"] == path
    assert data["expected"]
    assert wire.document(SESSION) == before


BAD_IDS = {
    "empty": "",
    "too long": "x" * 257,
    "a space": "a b",
    "a newline": "a\nb",
    "not printable": "a\x7f",
    "not ASCII": "é",
    "a brace": "a{b",
    "the other brace": "a}b",
    "an at sign first": "@heartbeats",
    "the active set": "active",
}


@pytest.mark.parametrize("name", BAD_IDS)
def test_a_bad_session_id_is_refused_by_every_method(wire: Wire, name: str) -> None:
    bad = BAD_IDS[name]
    for method, more in {
        "session.load": {},
        "session.delete": {},
        "session.heartbeat": {},
        "session.add_turn": {"turn": {}},
        "session.amend_turn": {"set": {}},
        "session.record_interruption": {},
        "session.update": {"set": {}},
        "session.end": {},
    }.items():
        line = request(7, method, {"session_id": bad, **more}).strip()
        assert refused(wire, line, "invalid_params")["path"] == "$.params.session_id"
    data = refused(wire, request(7, "session.save", {"session": {"id": bad}}).strip(), "invalid_params")
    assert (data["path"], data["expected"]) == ("$.params.session.id", ID_RULE)
    # where many are named, a bad one is one that does not exist
    assert wire.call("session.heartbeat", session_ids=[bad, SESSION])["missing"] == [bad]


@pytest.mark.parametrize("good", ["x" * 256, "!", "~", "a@b", "actives", "Active", '"', "\\", "a/b:c#d"])
def test_every_id_that_the_rule_allows_is_accepted(wire: Wire, good: str) -> None:
    wire.call("session.save", session={"id": good})
    assert wire.call("session.load", session_id=good)["session"]["id"] == good
    wire.call("session.delete", session_id=good)


# -- what is passed through: each place where a client may put any JSON -----------------------------------------

PLACES = {
    "recovery_data": ("session.save", '{"session":{"id":"c1","recovery_data":{"x":%s}}}', 4),
    "session extra": ("session.save", '{"session":{"id":"c1","x":%s}}', 3),
    "metrics extra": ("session.save", '{"session":{"id":"c1","metrics":{"x":%s}}}', 4),
    "turn extra in a save": ("session.save", '{"session":{"id":"c1","history":[{"x":%s}]}}', 5),
    # counted as in a save of the document it becomes part of
    "turn extra": ("session.add_turn", '{"session_id":"c1","turn":{"x":%s}}', 5),
    "turns extra": ("session.add_turn", '{"session_id":"c1","turns":[{},{"x":%s}]}', 5),
    "amended": ("session.amend_turn", '{"session_id":"c1","set":{"x":%s}}', 5),
    "updated": ("session.update", '{"session_id":"c1","set":{"recovery_data":{"x":%s}}}', 4),
    "detail": ("session.end", '{"session_id":"c1","detail":%s}', 2),
}
"""How to put a value there, and how many containers it then lies in."""


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, wire: Wire) -> tuple[str, str, int]:
    wire.call("session.add_turn", session_id=SESSION, turn={"role": "agent", "content": "to be amended"})
    return PLACES[request.param]


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + closing * depth


def untouched(wire: Wire, line: bytes, kind: str, *, request_id: Any = 7) -> None:
    """Asserts that a line is refused and that the session is as it was."""
    before = wire.document(SESSION)
    refused(wire, line, kind, request_id=request_id)
    assert wire.document(SESSION) == before


def test_nesting_up_to_the_limit_is_taken_and_one_more_is_not(wire: Wire, place: tuple[str, str, int]) -> None:
    method, params, around = place
    most = MAX_DEPTH - around
    untouched(wire, line_of(method, params % nested(most + 1)), "parse_error")
    untouched(wire, line_of(method, params % nested(most + 1, '{"a":', "}").replace(":}", ":1}")), "parse_error")
    assert "result" in wire.ask(line_of(method, params % nested(most)))
    loaded = wire.call("session.load", session_id=SESSION)["session"]
    if method != "session.end":
        wire.call("session.save", session=loaded)  # what was taken can be said again


@pytest.mark.parametrize("depth", [65, 500, *range(975, 1000), 1024, 5000, 400_000])
def test_nesting_far_beyond_the_limit_is_a_parse_error_at_any_depth(wire: Wire, depth: int) -> None:
    """Decoders give up at a depth that depends on the stack below them: no gap may open between two of them."""
    wire.call("session.add_turn", session_id=SESSION, turn={})
    for name, (method, params, _) in PLACES.items():
        line = line_of(method, params % nested(depth))
        error = wire.refusal(line)
        # a detail has a bound on its bytes, which comes first
        kinds = {"parse_error", "invalid_params"} if name == "detail" else {"parse_error"}
        assert error["data"]["kind"] in kinds, f"{name}: {error}"
    assert wire.refusal(line_of("server.ping", nested(depth)))["data"]["kind"] in ("parse_error", "invalid_params")


@pytest.mark.parametrize(
    "number", ["9223372036854775808", "-9223372036854775809", "18446744073709551616", "1" + "0" * 400]
)
def test_integers_beyond_64_bits_are_refused(wire: Wire, place: tuple[str, str, int], number: str) -> None:
    method, params, _ = place
    untouched(wire, line_of(method, params % f'{{"a":[{number}]}}'), "invalid_params")


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" + "0" * 400 + ".0"])
def test_numbers_beyond_finite_doubles_are_refused(wire: Wire, place: tuple[str, str, int], number: str) -> None:
    method, params, _ = place
    untouched(wire, line_of(method, params % f"[{number}]"), "invalid_params")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "nan", "+1", "01", ".5", "1.", "0x10"])
def test_numbers_that_are_not_jsons_are_parse_errors(wire: Wire, place: tuple[str, str, int], number: str) -> None:
    method, params, _ = place
    untouched(wire, line_of(method, params % f"[{number}]"), "parse_error", request_id=None)


@pytest.mark.parametrize(
    "number", ["9223372036854775807", "-9223372036854775808", "1.7976931348623157e308", "-0.0"]
)
def test_the_largest_numbers_are_taken_and_come_back(wire: Wire, place: tuple[str, str, int], number: str) -> None:
    method, params, _ = place
    assert "result" in wire.ask(line_of(method, params % number))
    assert repr(json.loads(number)) in repr(json.loads(wire.document(SESSION)))


@pytest.mark.parametrize("text", [rb"\ud800", rb"\udc00", rb"\ud800\ud800", rb"\ud83dx"])
def test_lone_surrogates_are_refused(wire: Wire, place: tuple[str, str, int], text: bytes) -> None:
    method, params, _ = place
    line = line_of(method, params % '{"a":["@"]}').replace(b"@", text)
    untouched(wire, line, "parse_error", request_id=None)
    untouched(wire, line_of(method, params % '{"@":1}').replace(b"@", text), "parse_error", request_id=None)


@pytest.mark.parametrize("text", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf5\x80\x80\x80", b"a\x80b"])
def test_bad_utf8_is_refused(wire: Wire, place: tuple[str, str, int], text: bytes) -> None:
    method, params, _ = place
    line = line_of(method, params % '["~"]').replace(b"~", text)
    untouched(wire, line, "parse_error", request_id=None)


def test_good_unicode_comes_back(wire: Wire, place: tuple[str, str, int]) -> None:
    method, params, _ = place
    text = "Grüße, 北京 \U0001f600 \u2028 \x7f \\u0000 é"
    line = line_of(method, params % json.dumps(text, ensure_ascii=False))
    assert "result" in wire.ask(line)
    assert text in _strings(json.loads(wire.document(SESSION)))


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [text for child in value for text in _strings(child)] if isinstance(value, list) else []


def test_a_timestamp_inside_a_member_is_not_that_of_a_turn(wire: Wire) -> None:
    turn = {"role": "tool", "result": {"timestamp": "yesterday", "quoted": '"timestamp":"no time"'}}
    wire.call("session.add_turn", session_id=SESSION, turn=turn)
    history = wire.call("session.load", session_id=SESSION)["session"]["history"]
    assert history[0]["result"] == turn["result"]


def test_counters_stay_at_their_bound(wire: Wire) -> None:
    """Beyond 64 bits nothing could be written: the journal would refuse the whole group."""
    most = 2**63 - 1
    metrics = {"turn_count": most, "interruption_count": most, "user_speech_duration_ms": most}
    wire.call("session.save", session={"id": SESSION, "metrics": metrics})
    for _ in range(3):
        wire.call("session.add_turn", session_id=SESSION, turn={"role": "user", "duration_ms": most})
        wire.call("session.add_turn", session_id=SESSION, turn={"role": "agent", "duration_ms": -most})
        wire.call("session.record_interruption", session_id=SESSION)
    kept = wire.call("session.load", session_id=SESSION)["session"]["metrics"]
    assert kept == {**metrics, "agent_speech_duration_ms": 0}  # no speech takes less than no time


# -- framing --------------------------------------------------------------------------------------------------


def rss_bytes(daemon: Daemon) -> int:
    assert daemon.process is not None
    pages = int(Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_the_longest_line_is_taken_and_one_more_byte_is_too_large(wire: Wire) -> None:
    head, tail = line_of("session.load", '{"session_id":"').removesuffix(b"}"), b'"}}'
    filler = LINE_BYTES - len(head) - len(tail) - 1
    refused(wire, head + b"x" * filler + tail, "invalid_params")
    refused(wire, head + b"x" * (filler + 1) + tail, "too_large", request_id=None)


def test_an_overlong_line_is_dropped_in_bounded_memory(daemon: Daemon, wire: Wire) -> None:
    wire.refusal(b"x" * (4 * MIB))  # what buffers there will be are there now
    before = rss_bytes(daemon)
    piece = b"x" * MIB
    for _ in range(64):
        wire.send(piece)
        assert rss_bytes(daemon) - before < 8 * MIB
    assert wire.refusal(b"")["data"]["kind"] == "too_large"


def test_a_line_may_come_one_byte_at_a_time(wire: Wire) -> None:
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for byte in line_of("session.load", '{"session_id":"kept-0"}') + b"\n":
        wire.send(bytes([byte]))
    assert wire.reply()["result"]["session"]["id"] == "kept-0"


def test_carriage_returns_and_blank_lines_do_no_harm(wire: Wire) -> None:
    wire.send(
        b"\n\r\n  \n\t\r\n" + line_of("server.ping", "{}", "1") + b"\r\n\n" + line_of("server.ping", "{}", "2")
    )
    wire.send(b"\r\n")
    assert [wire.reply()["id"], wire.reply()["id"]] == [1, 2]


def test_half_a_line_before_a_disconnect_is_ignored(daemon: Daemon, wire: Wire) -> None:
    whole = request(1, "session.delete", {"session_id": SESSION})
    for length in (1, len(whole) // 2, len(whole) - 1):
        with Wire(daemon.socket) as other:
            other.send(whole[:length])
            other.socket.shutdown(socket.SHUT_WR)
            assert other.at_eof()
    assert wire.call("session.load", session_id=SESSION)["session"]["id"] == SESSION


def test_a_thousand_requests_in_one_write_get_a_thousand_replies(wire: Wire) -> None:
    turn = {"role": "user", "content": "again"}
    lines = [request(n, "session.add_turn", {"session_id": SESSION, "turn": turn}) for n in range(1000)]
    wire.send(b"".join(lines))
    replies = [wire.reply() for _ in lines]
    assert [reply["id"] for reply in replies] == list(range(1000))
    assert [reply["result"]["turn_count"] for reply in replies] == list(range(1, 1001))


def test_good_lines_between_bad_ones_are_served_in_order(wire: Wire) -> None:
    bad = [b"nope", b"[]", b"x" * (LINE_BYTES + 5), b'{"jsonrpc":"2.0","id":1,"method":"no"}', b"\xff\xfe"]
    lines = []
    for number, line in enumerate(bad):
        lines += [line, line_of("session.record_interruption", '{"session_id":"c1"}', f'"good-{number}"')]
    wire.send(b"\n".join(lines) + b"\n")
    replies = [wire.reply() for _ in lines]
    assert [reply["id"] for reply in replies[1::2]] == [f"good-{number}" for number in range(len(bad))]
    assert all("error" in reply for reply in replies[::2])
    metrics = wire.call("session.load", session_id=SESSION)["session"]["metrics"]
    assert metrics["interruption_count"] == len(bad)


@pytest.mark.parametrize("seed", range(20))
def test_a_good_line_with_bytes_changed_never_harms(daemon: Daemon, wire: Wire, seed: int) -> None:
    """Any answer will do, as long as it is one and is not `internal`; one for a changed id may come late, from the
    store, so the lines have a connection of their own and the other one shows that nothing was harmed."""
    assert wire.call("server.ping") == {}
    dice = random.Random(seed)
    good = [
        line_of("session.save", '{"session":{"id":"c1","history":[{"role":"user","content":"é"}]},"if_version":1}'),
        line_of(
            "session.add_turn", '{"session_id":"c1","turn":{"role":"user","timestamp":"2026-05-01T12:00:00Z"}}'
        ),
        line_of("session.update", '{"session_id":"c1","set":{"recovery_data":{"a":[1,2.5e3,null,"\\u00e9"]}}}'),
    ]
    with Wire(daemon.socket) as other:
        for _ in range(200):
            line = bytearray(dice.choice(good))
            for _ in range(dice.randint(1, 4)):
                line[dice.randrange(len(line))] = dice.choice(b'{}[]",:\\0129eE+-.\x00\x7f\xc3\xff utn')
            other.send(bytes(line) + b"\n" + line_of("server.ping", "{}", '"end"') + b"\n")
            while (reply := other.reply())["id"] != "end":
                assert "result" in reply or reply["error"]["data"]["kind"] != "internal", bytes(line)


# -- clients that do not read -----------------------------------------------------------------------------------


def push_until_blocked(wire: Wire, line: bytes, at_most: int) -> int:
    """Send a line again and again until the daemon takes no more; gives the bytes sent."""
    sent = 0
    chunk = line * max(1, 65536 // len(line))
    wire.socket.setblocking(False)
    while sent < at_most:
        _, writable, _ = select.select([], [wire.socket], [], 0.5)
        if not writable:
            return sent
        with contextlib.suppress(BlockingIOError):
            sent += wire.socket.send(chunk)
    return sent


@pytest.mark.system
def test_a_client_that_never_reads_is_stopped_and_others_are_served() -> None:
    with Daemon("--set", "limits.pending_reply_bytes=1048576") as daemon, Wire(daemon.socket) as other:
        other.call("session.save", session={"id": "big", "recovery_data": {"x": "x" * 100_000}})
        before = rss_bytes(daemon)
        with Wire(daemon.socket) as deaf:
            asked = push_until_blocked(deaf, request(1, "session.load", {"session_id": "big"}), 64 * MIB)
            assert asked < 8 * MIB  # then its own writes block
            assert rss_bytes(daemon) - before < 32 * MIB
            assert other.call("session.load", session_id="big")["session"]["id"] == "big"
        assert other.call("server.ping") == {}


@pytest.mark.system
def test_a_client_that_reads_again_gets_all_its_replies() -> None:
    with Daemon("--set", "limits.pending_reply_bytes=65536") as daemon, Wire(daemon.socket) as wire:
        wire.call("session.save", session={"id": "big", "recovery_data": {"x": "x" * 10_000}})
        asked = 500
        lines = b"".join(request(n, "session.load", {"session_id": "big"}) for n in range(asked))
        wire.send(lines)  # 30 kB, for 5 MB of replies
        assert sorted(wire.reply()["id"] for _ in range(asked)) == list(range(asked))


@pytest.mark.system
def test_replies_that_waited_for_the_store_are_not_piled_up_either() -> None:
    with Daemon("--set", "reaper.retention_s=0") as daemon, Wire(daemon.socket) as wire:
        evict_big_session(wire)
        before = rss_bytes(daemon)
        with Wire(daemon.socket) as greedy:
            asked = 900
            greedy.send(b"".join(request(n, "session.load", {"session_id": "big"}) for n in range(asked)))
            replies = [greedy.reply() for _ in range(asked)]
        assert rss_bytes(daemon) - before < 64 * MIB  # not 900 times half a megabyte
        kinds = {reply["error"]["data"]["kind"] for reply in replies if "error" in reply}
        assert kinds == {"overloaded"}
        assert sum("result" in reply for reply in replies) >= 10


def evict_big_session(wire: Wire) -> None:
    """Leave a large session in the store only."""
    wire.call("session.save", session={"id": "big", "status": "ended", "recovery_data": {"x": "x" * 500_000}})
    wire.call("server.flush")
    while wire.call("server.stats")["sessions"]:
        pass


@pytest.mark.system
def test_connections_over_the_limit_get_an_error_and_are_closed() -> None:
    with Daemon("--set", "limits.connections=3") as daemon, contextlib.ExitStack() as stack:
        served = [stack.enter_context(Wire(daemon.socket)) for _ in range(3)]
        assert [wire.call("server.ping") for wire in served] == [{}] * 3
        for _ in range(20):
            with Wire(daemon.socket) as refused_one:
                reply = refused_one.reply()
                assert reply["id"] is None
                assert reply["error"]["data"] == {"kind": "overloaded", "retryable": True}
                assert refused_one.at_eof()
        assert [wire.call("server.ping") for wire in served] == [{}] * 3
        served.pop().close()
        while served[0].call("server.stats")["connections"] > 2:
            pass
        assert stack.enter_context(Wire(daemon.socket)).call("server.ping") == {}


def test_a_hundred_clients_that_vanish_leave_nothing_behind(daemon: Daemon, wire: Wire) -> None:
    for _ in range(100):
        with Wire(daemon.socket) as passing:
            passing.send(
                line_of("session.load", '{"session_id":"nobody"}') + b"\n" + line_of("server.pi", "{")[:20]
            )
    while wire.call("server.stats")["connections"] > 1:
        pass


def test_a_session_may_not_grow_beyond_its_limit(wire: Wire) -> None:
    content = "x" * 900_000
    for _ in range(9):  # 8.1 of 8 MiB, more than any line could hold
        wire.call("session.add_turn", session_id=SESSION, turn={"content": content})
    before = wire.document(SESSION)
    with pytest.raises(Refused, match=r"limits\.session_bytes") as caught:
        wire.call("session.add_turn", session_id=SESSION, turn={"content": content})
    assert caught.value.kind == "too_large"
    assert wire.document(SESSION) == before
    wire.call("session.add_turn", session_id=SESSION, turn={"content": "short"})
