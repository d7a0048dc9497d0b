"""Lines with too many values are refused without being read, and others are served while they are counted."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from callstate_client.engine.sessions.many_turns import MOST_TURNS
from callstate_client.engine.sessions.validation.parts import count_parts
from callstate_client.engine.sessions.validation.turns import TURNS_PARTS
from callstate_client.engine.user import User
from callstate_sidecar.serving import dense_lines, server
from callstate_sidecar.serving.dense_lines import MAX_VALUES, may_be_dense
from support.core import Core, FakeClient

MB = 1_000_000
SAVE = b'{"jsonrpc":"2.0","id":%d,"method":"session.save","params":{"session":{"id":"a","recovery_data":{"x":%b}}}}'
FLOOD = User(1234, 1234)


def array(item: bytes, size: int = MB) -> bytes:
    return b"[%b]" % b",".join([item] * (size // (len(item) + 1)))


def is_known(core: Core, session_id: str) -> bool:
    return session_id in core.table.sessions


async def reply(peer: FakeClient, request_id: int) -> Any:
    while request_id not in peer.replies:
        await asyncio.sleep(0)
    return peer.replies[request_id]


@pytest.mark.parametrize(
    "item",
    [b"[]", b'""', b'"["', b"{}", b"[[[[[[]]]]]]", b'{"a":1}', b"1", b"[],[1,2]"],
    ids=lambda item: item.decode(),
)
def test_tiny_values_look_dense(item: bytes) -> None:
    assert may_be_dense(SAVE % (1, array(item)))


@pytest.mark.parametrize(
    "text",
    [
        array(b'{"role":"user","content":"hello, and you?","timestamp":"2026-01-01T00:00:00Z"}'),
        b'"%b"' % (b"I said, [sighs], that it is 1,000 {or more}. " * 22_000),
        array(b"1.5e3"),
    ],
    ids=["turns", "text", "numbers"],
)
def test_what_is_usual_does_not(text: bytes) -> None:
    assert not may_be_dense(SAVE % (1, text))


@pytest.mark.parametrize(
    "turn",
    [
        b'{"role":"user","content":"hi, you"}',
        b'{"role":"user","content":"hi, you","timestamp":"2026-01-01T00:00:00Z","duration_ms":1}',
        b'{"role":"tool","content":"","tool_calls":[{"id":"call_1","name":"look_up","arguments":{"a":1}}]}',
    ],
)
def test_the_turns_that_a_request_may_have_are_not_too_many(turn: bytes) -> None:
    fit = min(MOST_TURNS, 2**20 // (len(turn) + 1), TURNS_PARTS // count_parts(turn))
    *_, marks = dense_lines.running_marks(b",".join([turn] * fit))
    assert marks.containers + marks.strings + marks.commas // 2 < MAX_VALUES


@pytest.mark.parametrize("dense_first", [True, False])
def test_a_line_of_which_half_is_dense_looks_dense(dense_first: bool) -> None:
    halves = [array(b"[]", MB // 2), b'"%b"' % (b"x" * (MB // 2))]
    assert may_be_dense(SAVE % (1, b"[%b]" % b",".join(halves if dense_first else reversed(halves))))


async def test_it_is_refused_unread_and_others_are_served_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core()
    flooder, other = FakeClient(core, user=FLOOD), FakeClient(core)
    read: list[bytes] = []
    read_long = server.read_long_request

    def look_first(line: bytes, table: Any) -> Any:
        read.append(line)
        return read_long(line, table)

    monkeypatch.setattr(server, "read_long_request", look_first)
    monkeypatch.setattr(dense_lines, "SHARE_S", 0.0)  # a window in each turn
    flooder.connection.data_received(SAVE % (7, array(b"[]")) + b"\n")
    pings = 0
    while 7 not in flooder.replies:
        ids = other.send(("server.ping", {}))
        await asyncio.sleep(0)
        pings += other.answered(ids)
    assert pings > 5
    error = flooder.replies[7]["error"]
    assert error["data"]["kind"] == "too_large"
    assert "160000 objects, arrays" in error["message"]
    assert not read
    assert (await reply(flooder, flooder.send(("server.ping", {}))[0]))["result"] == {}


@pytest.mark.parametrize(
    ("start", "request_id"),
    [
        (b'{"id":7,"jsonrpc":"2.0","method":"session.save",', 7),
        (b' { "jsonrpc" : "2.0", "method":"x" , "id" : "seven",', "seven"),
        (b'{"id":-1,', -1),
        (b'{"id":1.5,', None),
        (b'{"id":"\\u0041",', None),
        (b'{"params":1,"id":7,', None),
        (b'{"jsonrpc":"2.0","method":"x",', None),
        (b"[", None),
    ],
)
async def test_the_reply_has_the_id_if_it_is_where_most_clients_send_it(start: bytes, request_id: Any) -> None:
    core = Core()
    peer = FakeClient(core)
    peer.connection.data_received(start + b'"x":%b}\n' % array(b"[]"))
    assert (await reply(peer, request_id))["error"]["data"]["kind"] == "too_large"


@pytest.mark.parametrize(
    "text", [json.dumps(array(b"[]", 400_000).decode()).encode(), array(b'{"a":[1]}', 800_000)]
)
async def test_marks_in_a_text_are_no_values(text: bytes) -> None:
    """Such as the JSON of a tool's result, which is read as it was before."""
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "session.save", "params": {
        "session": {"id": "a", "recovery_data": {"x": text.decode()}}}}).encode()  # fmt: skip
    assert may_be_dense(line)
    core = Core()
    peer = FakeClient(core)
    peer.ids = 1
    peer.connection.data_received(line + b"\n")
    assert not peer.replies
    assert "result" in await reply(peer, 1)
    [loaded] = peer.send(("session.load", {"session_id": "a"}))
    assert (await reply(peer, loaded))["result"]["session"]["recovery_data"] == {"x": text.decode()}


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
async def test_one_that_is_nested_too_deep_is_no_json(opening: bytes) -> None:
    """As a shorter one that is."""
    core = Core()
    peer = FakeClient(core)
    peer.connection.data_received(SAVE % (1, opening * 190_000) + b"\n")
    error = (await reply(peer, None))["error"]
    assert error["data"]["kind"] == "parse_error"
    assert "nested deeper than 64" in error["message"]


async def test_what_is_sent_behind_it_waits_for_it() -> None:
    text = json.dumps(array(b"[]", 900_000).decode()).encode()
    core = Core()
    peer = FakeClient(core)
    peer.ids = 1
    _, after = peer.request("session.load", {"session_id": "a"})
    peer.connection.data_received(SAVE % (1, text) + b"\n" + after)
    await reply(peer, 2)
    assert [*peer.replies] == [1, 2], peer.replies
    assert peer.replies[2]["result"]["session"]["id"] == "a"


async def test_who_closes_meanwhile_leaves_nothing_behind() -> None:
    core = Core()
    peer = FakeClient(core)
    peer.connection.data_received(SAVE % (1, array(b"[]")) + b"\n")
    assert core.server.waiting == 1
    peer.connection.connection_lost(None)
    await core.server.answered(60.0)
    assert core.server.waiting == 0
