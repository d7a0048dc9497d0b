"""Events of a real daemon: as they leave the socket, and as a worker reads them."""

from __future__ import annotations

import asyncio
import json
import socket as sockets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from callstate_client import CallStore, InvalidParamsError, SessionState, connect
from callstate_client.protocol.events import Cursor, Event
from support.daemon import Daemon

WITHIN_S = 20.0
UNREAD_BYTES = 4096


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    with Daemon("--set", "limits.events=200", "--set", f"limits.pending_reply_bytes={UNREAD_BYTES}") as daemon:
        yield daemon


@pytest.fixture
async def daemon(running: Daemon) -> Daemon:
    """A running daemon that holds no session."""
    async with connect(running.socket, register=False) as store:
        for record in [record async for record in store.sessions()]:
            await store.delete(record.state.id)
    return running


@pytest.fixture
async def store(daemon: Daemon) -> AsyncIterator[CallStore]:
    async with connect(daemon.socket) as store:
        yield store


class Line:
    """A blocking connection, a line at a time."""

    def __init__(self, daemon: Daemon) -> None:
        self.socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        self.socket.settimeout(WITHIN_S)
        self.socket.connect(str(daemon.socket))
        self.file = self.socket.makefile("rb")

    def send(self, *requests: tuple[str, dict[str, Any]]) -> None:
        """Requests that arrive in one piece, their ids from 1 on."""
        lines = [
            json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
            for number, (method, params) in enumerate(requests, 1)
        ]
        self.socket.sendall(("\n".join(lines) + "\n").encode())

    def read(self) -> Any:
        """The next message; None at the end."""
        line = self.file.readline()
        return json.loads(line) if line else None

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture
def line(daemon: Daemon) -> Iterator[Line]:
    line = Line(daemon)
    yield line
    line.close()


async def taken(events: Any, count: int) -> list[Event]:
    """The next so many."""
    async with asyncio.timeout(WITHIN_S):
        return [await anext(events) for _ in range(count)]


async def test_the_events_of_a_call_from_start_to_end(store: CallStore) -> None:
    async with store.events("created", "ended", "deleted", "turn") as events:
        state = SessionState("c1", provider="twilio", call_id="CA1", from_="+442079460123", status="active")
        await store.save(state, labels={"app": "sales"})
        await store.add_turn("c1", "user", "what nobody else may read")
        await store.end("c1", "caller_hangup")
        await store.delete("c1")
        seen = await taken(events, 4)
    assert [event.type for event in seen] == ["created", "turn", "ended", "deleted"]
    for event in seen:
        assert (event.session_id, event.provider, event.call_id) == ("c1", "twilio", "CA1")
        assert (event.labels, event.epoch) == ({"app": "sales"}, 0)
        told = json.dumps(event.to_members(), default=str)
        assert "nobody else" not in told
        assert "0123" not in told
    places = [event.cursor.seq for event in seen]
    assert places == sorted(set(places))
    assert [event.at for event in seen] == sorted(event.at for event in seen)
    assert seen[1].turn_count == 1
    assert [event.reason for event in seen] == [None, None, "caller_hangup", "deleted"]


def test_the_reply_comes_first_then_what_was_missed_then_what_is_new(line: Line) -> None:
    types = ["created", "ended"]
    line.send(("events.subscribe", {"types": types}), ("session.save", {"session": {"id": "a"}}))
    here = line.read()["result"]
    assert [message.get("id") for message in (line.read(), line.read())] == [2, None]
    # in one turn of the daemon's loop
    line.send(
        ("session.record_interruption", {"session_id": "a"}),
        ("events.subscribe", {"types": types, "since": here}),
        ("session.end", {"session_id": "a"}),
        ("server.ping", {}),
    )
    messages = [line.read() for _ in range(6)]
    assert [message.get("id") for message in messages] == [1, 2, 3, 4, None, None]
    assert messages[1]["result"] == here
    notes = [message["params"] for message in messages[4:]]
    assert [(each["type"], each["session_id"]) for each in notes] == [("created", "a"), ("ended", "a")]
    assert here["seq"] < notes[0]["seq"] < notes[1]["seq"]


async def test_an_invalid_subscription_is_refused_with_the_reason(daemon: Daemon, store: CallStore) -> None:
    for types, since, path in (
        (("ended", "nothing"), None, "$.params.types[1]"),
        ((), Cursor((await here(store)).stream, 10**9), "$.params.since.seq"),
    ):
        with pytest.raises(InvalidParamsError) as refused:
            await taken(store.events(*types, since=since), 1)
        assert refused.value.path == path


async def here(store: CallStore) -> Cursor:
    """The present end of the stream."""
    async with store.events() as events:
        cursor: Cursor = events.cursor
        return cursor


async def test_one_comes_back_to_where_one_was(store: CallStore) -> None:
    cursor = await here(store)
    for name in ("a", "b", "c"):
        await store.save(SessionState(name))
    async with store.events("created", since=cursor) as events:
        first = await taken(events, 2)
    async with store.events("created", since=first[-1].cursor) as events:
        rest = await taken(events, 1)
    assert [event.session_id for event in first + rest] == ["a", "b", "c"]


async def test_events_no_longer_kept_are_a_gap(store: CallStore) -> None:
    cursor = await here(store)
    for number in range(201):
        await store.save(SessionState(f"s{number}"))
    seen: list[Event] = []
    async with store.events("created", since=cursor) as events:
        (gap,) = await taken(events, 1)
        while not seen or seen[-1].session_id != "s200":
            seen += await taken(events, 1)
    assert (gap.type, gap.reason) == ("gap", "overrun")
    assert cursor.seq < gap.cursor.seq < seen[0].cursor.seq
    # an event of a worker that left may have taken the place of one of ours
    assert [event.session_id for event in seen] == [f"s{number}" for number in range(201 - len(seen), 201)]
    assert 190 < len(seen) <= 200


async def test_a_slow_subscriber_is_cut_off_and_misses_no_kept_event(
    daemon: Daemon, store: CallStore, line: Line
) -> None:
    line.send(("events.subscribe", {"types": ["created"]}))
    cursor = Cursor(**line.read()["result"])
    before = (await store.stats()).get("subscribers_cut_off", 0)
    labels = {f"label-{number}": "x" * 256 for number in range(16)}
    for number in range(199):
        await store.save(SessionState(f"s{number}"), labels=labels)
        if (await store.stats()).get("subscribers_cut_off", 0) > before:
            break
    messages = list(iter(line.read, None))
    assert messages[-1]["id"] is None
    assert messages[-1]["error"]["data"]["kind"] == "overloaded"
    assert messages[-1]["error"]["message"] == "events were not read"
    told = [message["params"] for message in messages[:-1]]
    assert [each["session_id"] for each in told] == [f"s{n}" for n in range(len(told))]
    assert 0 < len(told) <= number
    async with store.events("created", since=cursor._replace(seq=told[-1]["seq"])) as events:
        rest = await taken(events, number + 1 - len(told))
    assert [event.session_id for event in rest] == [f"s{n}" for n in range(len(told), number + 1)]


@pytest.mark.system
async def test_a_daemon_that_was_killed_is_a_gap_and_its_successor_is_followed() -> None:
    daemon = Daemon()
    await daemon.in_thread("start")
    try:
        async with connect(daemon.socket) as store, store.events("created") as events:
            await store.save(SessionState("a"))
            assert [event.session_id for event in await taken(events, 1)] == ["a"]
            await daemon.in_thread("kill")
            await daemon.in_thread("start")
            (gap,) = await taken(events, 1)
            assert (gap.type, gap.reason) == ("gap", "restart")
            await store.save(SessionState("b"))
            (event,) = await taken(events, 1)
            assert (event.session_id, event.cursor.stream) == ("b", gap.cursor.stream)
    finally:
        await daemon.in_thread("close")
