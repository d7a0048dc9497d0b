"""The stream of events as a worker reads it, against a peer that says and leaves what it likes."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from callstate_client.errors import (
    InternalError,
    InvalidParamsError,
    MethodNotFoundError,
    OverloadedError,
    ShuttingDownError,
)
from callstate_client.protocol.events import Cursor, Event, decode_event
from callstate_client.protocol.params import Since
from callstate_client.transport.backoff import Backoff, Delays
from callstate_client.transport.discovery import Candidate
from callstate_client.transport.event_stream import FULL_LINES, EventStream
from support.scripted import ScriptedPeer

AT = "2026-05-01T12:00:00.5Z"


@pytest.fixture
async def events(peer: ScriptedPeer) -> AsyncIterator[EventStream]:
    stream = following(peer.path)
    yield stream
    stream.close()


def following(path: Path, *types: str, since: Cursor | None = None, timeout_s: float = 5.0) -> EventStream:
    return EventStream([Candidate(str(path), "the test")], types, since, timeout_s=timeout_s)


def notes(*seqs: int, stream: str = "s1", type_: str = "ended", **more: Any) -> bytes:
    """Notifications with these numbers, as a daemon writes them."""
    params = [{"stream": stream, "seq": seq, "type": type_, "at": AT, **more} for seq in seqs]
    return b"".join(
        msgspec.json.encode({"jsonrpc": "2.0", "method": "event", "params": each}) + b"\n" for each in params
    )


async def subscribed(peer: ScriptedPeer, seq: int = 0, stream: str = "s1") -> dict[str, Any]:
    """Answer the next subscription; gives its params."""
    (request,) = await peer.requests(1)
    assert request["method"] == "events.subscribe"
    peer.reply(request, {"stream": stream, "seq": seq})
    return request.get("params", {})


async def seqs(events: EventStream, count: int) -> list[int]:
    """The numbers of the next so many events."""
    return [(await anext(events)).cursor.seq for _ in range(count)]


async def opened(peer: ScriptedPeer, events: EventStream, **answer: Any) -> None:
    opening = asyncio.ensure_future(events.open())
    await subscribed(peer, **answer)
    await opening


class TestEvent:
    def test_all_members(self):
        note = {
            "stream": "s1", "seq": 7, "type": "suspect", "at": AT, "session_id": "c1", "provider": "twilio",
            "call_id": "CA1", "labels": {"app": "sales"}, "owner": "w1", "epoch": 3, "reason": "worker_exited",
            "evidence": "process_exited", "deadline": "2026-05-01T12:00:30Z", "of_a_newer_daemon": 1,
        }  # fmt: skip
        event = decode_event(msgspec.json.encode(note))
        assert event.cursor == ("s1", 7)
        assert event.at == datetime(2026, 5, 1, 12, 0, 0, 500_000, UTC)
        assert event.deadline == event.at + timedelta(seconds=29.5)
        assert (event.session_id, event.provider, event.call_id) == ("c1", "twilio", "CA1")
        assert (event.labels, event.owner, event.epoch) == ({"app": "sales"}, "w1", 3)
        assert (event.reason, event.evidence, event.error) == ("worker_exited", "process_exited", None)
        del note["of_a_newer_daemon"]
        assert event.to_members() == note | {"at": "2026-05-01T12:00:00.500000Z"}

    @pytest.mark.parametrize("more", [{"worker_id": "w"}, {"drain": False}, {"turn_count": 0}, {"error": "x"}, {}])
    def test_its_members_are_those_it_came_with(self, more):
        note = {"stream": "s", "seq": 1, "type": "x", "at": "2026-05-01T12:00:00Z", **more}
        assert decode_event(msgspec.json.encode(note)).to_members() == note

    @pytest.mark.parametrize("wrong", [{"at": "noon"}, {"deadline": "soon"}, {"at": AT[:-1]}, {"seq": "1"}])
    def test_a_member_that_can_not_be_read(self, wrong):
        note = {"stream": "s", "seq": 1, "type": "x", "at": AT, **wrong}
        with pytest.raises(InternalError):
            decode_event(msgspec.json.encode(note))

    def test_a_cursor_is_a_place_on_the_wire(self):
        assert Cursor("s1", 4).since() == Since(stream="s1", seq=4)


class TestSubscribing:
    async def test_all_types_from_now_on(self, peer, events):
        opening = asyncio.ensure_future(events.open())
        assert await subscribed(peer, seq=4) == {}
        await opening
        assert events.cursor == ("s1", 4)

    async def test_types_and_a_place(self, peer):
        with_place = following(peer.path, "ended", "expired", since=Cursor("s1", 9))
        opening = asyncio.ensure_future(with_place.open())
        params = await subscribed(peer, seq=9)
        await opening
        assert params == {"types": ["ended", "expired"], "since": {"stream": "s1", "seq": 9}}
        with_place.close()

    async def test_a_block_subscribes_on_entering_and_hangs_up_on_leaving(self, peer, events):
        answering = asyncio.ensure_future(subscribed(peer))
        async with events as entered:
            assert entered is events
            await answering
            peer.send(notes(1))
            assert await seqs(events, 1) == [1]
        await peer.gone.get()
        with pytest.raises(StopAsyncIteration):
            await anext(events)

    @pytest.mark.parametrize(
        "error", [InvalidParamsError("no such type", path="$.params.types[0]"), MethodNotFoundError()]
    )
    async def test_a_refused_subscription_raises(self, peer, events, error):
        taking = asyncio.ensure_future(anext(events))
        (request,) = await peer.requests(1)
        peer.refuse(request, error)
        with pytest.raises(type(error)):
            await taking
        await peer.gone.get()

    @pytest.mark.parametrize("error", [ShuttingDownError(), OverloadedError()])
    async def test_transient_errors_are_retried(self, peer, events, error):
        opening = asyncio.ensure_future(events.open())
        (request,) = await peer.requests(1)
        peer.refuse(request, error)
        await peer.gone.get()
        await subscribed(peer)
        await opening

    async def test_a_daemon_that_has_no_room_for_us_is_tried_again(self, peer, events, caplog):
        opening = asyncio.ensure_future(events.open())
        (request,) = await peer.requests(1)
        peer.refuse({**request, "id": None}, OverloadedError("limits.connections is reached"))
        peer.hang_up()
        await peer.gone.get()
        await subscribed(peer)
        await opening
        assert "limits.connections is reached" in caplog.text

    async def test_a_daemon_that_says_nothing_is_tried_again(self, peer):
        impatient = following(peer.path, timeout_s=0.01)
        opening = asyncio.ensure_future(impatient.open())
        await peer.requests(1)
        await peer.gone.get()
        await peer.requests(1)
        impatient.close()
        await opening

    async def test_there_may_be_no_daemon_yet(self, short_dir):
        peer = ScriptedPeer(short_dir / "later")
        stream = following(peer.path)
        opening = asyncio.ensure_future(stream.open())
        await asyncio.sleep(0)
        await peer.start()
        await subscribed(peer)
        await opening
        stream.close()
        await peer.stop()

    async def test_another_server_is_reported_as_not_callstated(self, peer, events):
        taking = asyncio.ensure_future(anext(events))
        await peer.requests(1)
        peer.send(b"HTTP/1.1 400 Bad Request\r\n")
        with pytest.raises(InternalError, match="can't be read"):
            await taking
        await peer.gone.get()


class TestTaking:
    async def test_in_order_and_however_they_are_cut(self, peer, events):
        await opened(peer, events)
        data = notes(1, 2, 3, session_id="c1", reason="completed")
        for at in range(0, len(data), 37):
            peer.send(data[at : at + 37])
        taken = [await anext(events) for _ in range(3)]
        assert [event.cursor for event in taken] == [("s1", 1), ("s1", 2), ("s1", 3)]
        assert {(event.type, event.session_id, event.reason) for event in taken} == {("ended", "c1", "completed")}
        assert events.cursor == ("s1", 3)

    async def test_those_that_came_with_the_reply(self, peer, events):
        opening = asyncio.ensure_future(events.open())
        (request,) = await peer.requests(1)
        reply = {"jsonrpc": "2.0", "id": request["id"], "result": {"stream": "s1", "seq": 0}}
        peer.send(json.dumps(reply, separators=(",", ":")).encode() + b"\n" + notes(1, 2))
        await opening
        assert await seqs(events, 2) == [1, 2]

    async def test_lines_that_are_not_events_are_skipped(self, peer, events):
        await opened(peer, events)
        peer.send(b'{"jsonrpc":"2.0","method":"of_a_newer_daemon","params":{"x":1}}\n' + notes(1))
        assert await seqs(events, 1) == [1]

    @pytest.mark.parametrize(
        "line", [b"nonsense\n", b'{"method":"event","params":{"seq":1}}\n', notes(1, at="noon"), b"\xff\n"]
    )
    async def test_an_unreadable_event_is_reported(self, peer, events, line):
        await opened(peer, events)
        peer.send(line)
        with pytest.raises(InternalError):
            await anext(events)
        await peer.gone.get()

    async def test_waiting_can_be_given_up_and_taken_up_again(self, peer, events):
        await opened(peer, events)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await anext(events)
        peer.send(notes(1))
        assert await seqs(events, 1) == [1]

    async def test_giving_up_while_it_subscribes_leaves_nothing_behind(self, peer, events):
        taking = asyncio.ensure_future(anext(events))
        await peer.requests(1)
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        await peer.gone.get()
        await opened(peer, events)

    async def test_the_socket_is_not_read_while_no_event_is_taken(self, peer, events):
        await opened(peer, events)
        transport = await peer.connections.get()
        sent = 0
        while not transport.get_write_buffer_size():  # else both sockets are full, and nobody makes room
            assert sent < 100 * FULL_LINES
            peer.send(notes(*range(sent + 1, sent + 101), reason="x" * 200))
            sent += 100
            for _ in range(20):  # peer and reader share the loop: it had every chance
                await asyncio.sleep(0)
        assert sent > FULL_LINES
        assert await seqs(events, sent) == [*range(1, sent + 1)]


class TestComingBack:
    async def test_behind_the_last_event_taken(self, peer, events):
        await opened(peer, events)
        peer.send(notes(1, 2, 3))
        assert await seqs(events, 2) == [1, 2]
        peer.hang_up()
        taking = asyncio.ensure_future(seqs(events, 2))
        await peer.gone.get()
        # the third had come: it is taken first
        assert await subscribed(peer, seq=3) == {"since": {"stream": "s1", "seq": 3}}
        peer.send(notes(4))
        assert await taking == [3, 4]

    async def test_with_the_place_of_the_reply_before_the_first_event(self, peer, events):
        await opened(peer, events, seq=17)
        peer.hang_up()
        taking = asyncio.ensure_future(seqs(events, 1))
        await peer.gone.get()
        assert (await subscribed(peer, seq=17))["since"] == {"stream": "s1", "seq": 17}
        peer.send(notes(18))
        assert await taking == [18]

    async def test_an_event_received_in_part_is_requested_again(self, peer, events):
        await opened(peer, events)
        peer.send(notes(1, 2)[:-20])
        assert await seqs(events, 1) == [1]
        peer.hang_up()
        taking = asyncio.ensure_future(seqs(events, 1))
        await peer.gone.get()
        assert (await subscribed(peer))["since"]["seq"] == 1
        peer.send(notes(2))
        assert await taking == [2]

    async def test_to_another_daemon_with_a_gap(self, peer, events):
        await opened(peer, events)
        peer.send(notes(1))
        assert await seqs(events, 1) == [1]
        await peer.stop()
        await peer.start()
        taking = asyncio.ensure_future(anext(events))
        await peer.gone.get()
        assert (await subscribed(peer, stream="s2", seq=5))["since"] == {"stream": "s1", "seq": 1}
        peer.send(notes(5, stream="s2", type_="gap", reason="restart"))
        gap = await taking
        assert (gap.type, gap.reason, gap.cursor) == ("gap", "restart", ("s2", 5))
        peer.hang_up()
        taking = asyncio.ensure_future(anext(events))
        await peer.gone.get()
        assert (await subscribed(peer, stream="s2", seq=5))["since"] == {"stream": "s2", "seq": 5}
        peer.send(notes(6, stream="s2"))
        assert (await taking).cursor == ("s2", 6)

    async def test_a_lost_gap_is_requested_again(self, peer, events):
        await opened(peer, events, seq=3)
        peer.hang_up()
        taking = asyncio.ensure_future(anext(events))
        for _ in range(2):
            await peer.gone.get()
            assert (await subscribed(peer, stream="s2", seq=5))["since"] == {"stream": "s1", "seq": 3}
            peer.hang_up()
        await peer.gone.get()
        await subscribed(peer, stream="s2", seq=5)
        peer.send(notes(5, stream="s2", type_="gap", reason="restart"))
        assert (await taking).type == "gap"

    async def test_at_once_where_the_last_connection_brought_something(self, peer, events, monkeypatch):
        monkeypatch.setattr(events._backoff, "_delays", Delays(3600.0, 3600.0, at_once=True))
        for seq in range(1, 5):
            taking = asyncio.ensure_future(seqs(events, 1))
            await subscribed(peer)
            peer.send(notes(seq))
            assert await taking == [seq]
            peer.hang_up()
            await peer.gone.get()

    async def test_after_it_was_cut_off_for_not_reading(self, peer, events, caplog):
        await opened(peer, events)
        peer.send(notes(1, 2))
        peer.refuse({"id": None}, OverloadedError("events were not read"))
        peer.hang_up()
        taking = asyncio.ensure_future(seqs(events, 3))
        await peer.gone.get()
        assert (await subscribed(peer, seq=2))["since"]["seq"] == 2
        peer.send(notes(3))
        assert await taking == [1, 2, 3]
        assert [(record.levelno, "events were not read" in record.message) for record in caplog.records] == [
            (logging.WARNING, True)
        ]

    async def test_again_and_again_each_event_once(self, peer, events):
        await opened(peer, events)
        taken: list[int] = []
        for seq in range(1, 40, 3):
            peer.send(notes(seq, seq + 1))
            taken += await seqs(events, 2)
            peer.hang_up()
            taking = asyncio.ensure_future(seqs(events, 1))
            await peer.gone.get()
            since = (await subscribed(peer))["since"]
            peer.send(notes(since["seq"] + 1))
            taken += await taking
        assert taken == [*range(1, 40)]


class TestLeaving:
    async def test_closing_ends_a_wait(self, peer, events):
        await opened(peer, events)
        taking = asyncio.ensure_future(all_of(events))
        peer.send(notes(1))
        await asyncio.sleep(0)
        events.close()
        events.close()
        assert [event.cursor.seq for event in await taking] in ([], [1])
        assert events.closed
        await peer.gone.get()

    async def test_closing_ends_a_wait_for_the_subscription(self, peer, events):
        taking = asyncio.ensure_future(all_of(events))
        await peer.requests(1)
        events.close()
        assert await taking == []
        await peer.gone.get()

    async def test_closing_ends_a_wait_for_a_daemon(self, short_dir, monkeypatch):
        monkeypatch.setattr(Backoff, "pause_s", lambda _: 3600.0)
        stream = following(short_dir / "nobody")
        taking = asyncio.ensure_future(all_of(stream))
        await asyncio.sleep(0)
        await stream.aclose()
        assert await taking == []

    async def test_closing_while_it_connects_sends_no_request(self, peer, events):
        taking = asyncio.ensure_future(all_of(events))
        await asyncio.sleep(0)
        events.close()
        assert await taking == []
        await peer.gone.get()
        assert peer.received.empty()

    async def test_aclosing(self, peer, events):
        answering = asyncio.ensure_future(subscribed(peer))
        async with aclosing(events):
            await events.open()
            await answering
        await peer.gone.get()

    async def test_one_that_is_dropped_hangs_up(self, peer):
        stream = following(peer.path)
        await opened(peer, stream)
        peer.send(notes(1))
        async for _ in stream:
            break
        del stream
        gc.collect()
        await peer.gone.get()


async def all_of(events: EventStream) -> list[Event]:
    return [event async for event in events]
