"""Requests that are posted on a connection: no task awaits them, and every edge of that."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Callable
from types import FrameType
from typing import Any, Final

import pytest

from callstate_client import (
    CallstateError,
    FencedError,
    InternalError,
    InvalidParamsError,
    OverloadedError,
    RequestTimeoutError,
    SessionState,
    SidecarStore,
    StoreClosedError,
    TooLargeError,
    UndeliveredError,
    connect,
)
from callstate_client.calls.mutations import Mutations
from callstate_client.calls.outbox.delivery import deliver_or_give_up, deliver_or_raise
from callstate_client.calls.outbox.outbox import Outbox
from support.flaky import said
from support.scripted import ScriptedPeer

MOST_CALLS: Final = 87
"""Calls of Python functions for a turn, a few more than it takes."""


class Call:
    """What of a held call concerns its outbox."""

    def __init__(self, store: SidecarStore, session_id: str = "c1") -> None:
        self.state = SessionState(session_id)
        self.undelivered: set[Outbox] = set()
        self.versions: list[int] = []
        self.lost: list[CallstateError] = []
        self.emptied = 0
        self.outbox = Outbox(
            store,
            self.undelivered,
            session_id,
            1,
            on_version=self.versions.append,
            on_lost=self.lost.append,
            on_empty=self._count,
            is_claiming=lambda: False,
        )
        self._mutations = Mutations(self.state, self.outbox, store, lambda _: None)

    def _count(self) -> None:
        self.emptied += 1

    def say(self, text: str) -> Any:
        return self._mutations.add_turn("user", text, 0, None, None, None)

    def update(self, **changes: Any) -> Any:
        return self._mutations.update(changes)


@pytest.fixture
async def store(peer: ScriptedPeer) -> AsyncIterator[SidecarStore]:
    async with connect(peer.path) as store:
        await peer.connections.get()
        yield store


@pytest.fixture
async def call(store: SidecarStore) -> Call:
    return Call(store)


def tasks() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("callstate-outbox")]


def texts(request: dict[str, Any]) -> list[str]:
    return [turn["content"] for turn in request["params"]["turns"]]


def accepted(version: int, turn_count: int) -> dict[str, int]:
    return {"version": version, "turn_count": turn_count}


# -- all is well --


async def test_what_calls_say_in_one_turn_of_the_loop_leaves_in_one_write_without_a_task(
    peer: ScriptedPeer, store: SidecarStore
) -> None:
    calls = [Call(store, f"c{n}") for n in range(3)]
    turns = [call.say(text) for call in calls for text in ("a", "b")]
    (data,) = [await peer.received.get()]
    assert data.count(b"\n") == 3, "the turns of a call are one request"
    assert tasks() == []
    for request_id in range(1, 4):
        peer.reply({"id": request_id}, accepted(5, 2))
    assert await asyncio.gather(*turns) == [5] * 6
    assert [turn.place.index for turn in turns[:2]] == [0, 1]
    assert [call.emptied for call in calls] == [1, 1, 1]
    assert not any(call.undelivered for call in calls)


async def test_what_is_queued_while_a_request_is_under_way_follows_as_one(peer: ScriptedPeer, call: Call) -> None:
    first = call.say("1")
    (request,) = await peer.requests(1)
    later = [call.say("2"), call.say("3"), call.update(status="active")]
    await asyncio.sleep(0)
    assert peer.received.empty()
    peer.reply(request, accepted(2, 1))
    assert await first == 2
    (request,) = await peer.requests(1)
    assert texts(request) == ["2", "3"]
    peer.reply(request, accepted(4, 3))
    (request,) = await peer.requests(1)
    assert request["method"] == "session.update"
    peer.reply(request, {"version": 5})
    assert [await turn for turn in later] == [4, 4, 5]
    assert tasks() == []
    assert call.versions == [2, 4, 5]


async def test_a_caller_that_is_cancelled_while_its_turn_is_under_way_takes_nothing_back(
    peer: ScriptedPeer, call: Call
) -> None:
    turn = call.say("1")

    async def wait() -> int:
        return await turn

    gives_up, waits = asyncio.ensure_future(wait()), asyncio.ensure_future(wait())
    (request,) = await peer.requests(1)
    gives_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gives_up
    peer.reply(request, accepted(2, 1))
    assert await waits == 2


async def test_an_action_and_an_amendment_take_a_task_and_keep_their_places(
    peer: ScriptedPeer, store: SidecarStore, call: Call
) -> None:
    store._connection.features = ("amend_index",)
    turn = call.say("1")
    (request,) = await peer.requests(1)
    peer.reply(request, accepted(1, 1))
    await turn
    done: list[str] = []

    async def act() -> int:
        done.append("action")
        return 2

    amended = turn.amend(content="one")
    call.outbox.put_action("session.release", act)
    after = call.say("2")
    (request,) = await peer.requests(1)
    assert (request["method"], request["params"]["index"], done) == ("session.amend_turn", 0, [])
    peer.reply(request, {"version": 2})
    (request,) = await peer.requests(1)
    assert (request["method"], done) == ("session.add_turn", ["action"])
    peer.reply(request, accepted(3, 2))
    assert (await amended, await after) == (2, 3)
    turn = call.say("3")
    (request,) = await peer.requests(1)
    assert tasks() == []


async def test_an_observed_store_shows_each_request_to_its_observer(peer: ScriptedPeer) -> None:
    seen: list[str] = []

    class Observer:
        def observed(self, request: Callable[..., Any]) -> Callable[..., Any]:
            def observe(method: str, *args: Any, **options: Any) -> Any:
                seen.append(method)
                return request(method, *args, **options)

            return observe

    async with connect(peer.path, telemetry=Observer()) as store:  # type: ignore[arg-type]
        turn = Call(store).say("1")
        (request,) = await peer.requests(1)
        peer.reply(request, accepted(1, 1))
        await turn
    assert seen == ["session.add_turn"]


# -- refused --


async def test_a_refusal_is_raised_and_taken_back_and_the_rest_goes_on(peer: ScriptedPeer, call: Call) -> None:
    bad = call.say("bad")
    (request,) = await peer.requests(1)
    good = call.say("good")
    peer.refuse(request, InvalidParamsError("not that"))
    (request,) = await peer.requests(1)
    assert texts(request) == ["good"]
    peer.reply(request, accepted(1, 1))
    assert await good == 1
    with pytest.raises(InvalidParamsError):
        await bad
    assert said(call.state) == ["good"]


async def test_of_several_turns_that_are_refused_only_the_bad_one_is(peer: ScriptedPeer, call: Call) -> None:
    turns = [call.say(text) for text in ("1", "bad", "3")]
    (request,) = await peer.requests(1)
    assert texts(request) == ["1", "bad", "3"]
    peer.refuse(request, TooLargeError("too large"))
    for text in ("1", "bad", "3"):
        (request,) = await peer.requests(1)
        assert texts(request) == [text]
        if text == "bad":
            peer.refuse(request, InvalidParamsError("not that"))
        else:
            peer.reply(request, accepted(1, 1))
    outcomes = await asyncio.gather(*turns, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [int, InvalidParamsError, int]


async def test_a_call_of_another_worker_loses_all_that_it_has_queued(peer: ScriptedPeer, call: Call) -> None:
    first = call.say("1")
    (request,) = await peer.requests(1)
    second = call.update(status="active")
    peer.refuse(request, FencedError("fenced", epoch=7))
    for queued in (first, second):
        with pytest.raises(FencedError):
            await queued
    assert [type(error) for error in call.lost] == [FencedError]
    assert (said(call.state), call.state.status, call.emptied) == ([], "pending", 1)


async def test_a_turn_refused_in_an_epoch_that_this_worker_has_left_is_sent_in_the_present_one(
    peer: ScriptedPeer, call: Call
) -> None:
    turn = call.say("1")
    (request,) = await peer.requests(1)
    call.outbox.epoch = 2
    peer.refuse(request, FencedError("fenced", epoch=2))
    (again,) = await peer.requests(1)
    assert (request["params"].pop("epoch"), again["params"].pop("epoch")) == (1, 2)
    assert again["params"] == request["params"]
    peer.reply(again, accepted(1, 1))
    assert await turn == 1
    assert call.lost == []


async def test_a_reply_that_makes_no_sense_costs_its_own_turn(peer: ScriptedPeer, call: Call) -> None:
    turn = call.say("1")
    (request,) = await peer.requests(1)
    peer.reply(request, {"version": "seven"})
    with pytest.raises(InternalError):
        await turn
    assert call.outbox.resume() is None


# -- repeated --


async def lost_with_its_connection(peer: ScriptedPeer, _: dict[str, Any]) -> None:
    peer.hang_up()
    await peer.connections.get()


async def refused_for_now(peer: ScriptedPeer, request: dict[str, Any]) -> None:
    peer.refuse(request, OverloadedError("later"))


@pytest.mark.parametrize("fails", [lost_with_its_connection, refused_for_now])
async def test_a_request_that_fails_is_repeated_as_it_was_before_what_was_queued_since(
    peer: ScriptedPeer, call: Call, fails: Callable[[ScriptedPeer, dict[str, Any]], Any]
) -> None:
    first = call.say("1")
    (request,) = await peer.requests(1)
    second = call.say("2")
    await fails(peer, request)
    (again,) = await peer.requests(1)
    assert again["params"] == request["params"], "with its op"
    assert texts(again) == ["1"]
    peer.reply(again, accepted(1, 1))
    (request,) = await peer.requests(1)
    assert texts(request) == ["2"]
    peer.reply(request, accepted(2, 2))
    assert (await first, await second) == (1, 2)
    third = call.say("3")
    (request,) = await peer.requests(1)
    assert tasks() == [], "all is well again"
    peer.reply(request, accepted(3, 3))
    assert await third == 3


async def test_a_lost_connection_alone_is_not_logged_for_each_call(
    peer: ScriptedPeer, call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    turn = call.say("1")
    (request,) = await peer.requests(1)
    await lost_with_its_connection(peer, request)
    (request,) = await peer.requests(1)
    peer.reply(request, accepted(1, 1))
    await turn
    assert "kept for later" not in caplog.text


async def test_a_request_without_an_answer_in_time_is_repeated_as_it_was(peer: ScriptedPeer) -> None:
    async with connect(peer.path, timeout_s=0.05) as store:
        call = Call(store)
        turn = call.say("1")
        (request,) = await peer.requests(1)
        (again,) = await peer.requests(1)
        assert again["params"] == request["params"]
        assert isinstance(call.outbox.last_error, RequestTimeoutError)
        peer.reply(again, accepted(1, 1))
        assert await turn == 1


async def test_what_is_queued_without_a_connection_is_sent_on_the_next(peer: ScriptedPeer, call: Call) -> None:
    peer.hang_up()
    await peer.gone.get()
    turn = call.say("1")
    await peer.connections.get()
    (request,) = await peer.requests(1)
    peer.reply(request, accepted(1, 1))
    assert await turn == 1


async def test_what_is_gathered_as_the_connection_is_lost_is_sent_on_the_next(
    peer: ScriptedPeer, store: SidecarStore, call: Call
) -> None:
    turn = call.say("1")
    store._connection._protocol.transport.abort()  # type: ignore[union-attr]
    await peer.connections.get()
    (request,) = await peer.requests(1)
    assert texts(request) == ["1"]
    peer.reply(request, accepted(1, 1))
    assert await turn == 1


# -- leaving --


async def test_leaving_waits_for_the_reply_to_what_is_posted_and_to_what_follows(
    peer: ScriptedPeer, call: Call
) -> None:
    call.say("1")
    (request,) = await peer.requests(1)
    call.say("2")
    leaves = asyncio.ensure_future(deliver_or_raise(call.outbox, 10.0))
    await asyncio.sleep(0)
    peer.reply(request, accepted(1, 1))
    (request,) = await peer.requests(1)
    assert not leaves.done()
    peer.reply(request, accepted(2, 2))
    await leaves


async def test_leaving_waits_through_a_lost_connection_and_a_first_cancellation(
    peer: ScriptedPeer, call: Call
) -> None:
    call.say("1")
    (request,) = await peer.requests(1)
    leaves = asyncio.ensure_future(deliver_or_raise(call.outbox, 10.0))
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.sleep(0)
    peer.hang_up()
    (again,) = await peer.requests(1)
    assert not leaves.done()
    assert again["params"] == request["params"]
    peer.reply(again, accepted(1, 1))
    with pytest.raises(asyncio.CancelledError):
        await leaves
    assert not len(call.outbox)


@pytest.mark.parametrize("sent", [True, False])
async def test_what_is_given_up_is_reported_as_unknown_only_if_it_was_sent(
    peer: ScriptedPeer, call: Call, sent: bool
) -> None:
    turn = call.say("1")
    request = (await peer.requests(1))[0] if sent else None
    later = call.say("2")
    failure = await deliver_or_give_up([call.outbox], 0.0)
    assert isinstance(failure, UndeliveredError)
    assert (failure.unsent, failure.unknown) == (({"c1": 1}, {"c1": 1}) if sent else ({"c1": 2}, {}))
    for queued in (turn, later):
        with pytest.raises(UndeliveredError):
            await queued
    assert (call.emptied, call.undelivered) == (1, set())
    if request is not None:
        peer.reply(request, accepted(1, 1))  # nobody waits for it
    with pytest.raises(StoreClosedError):
        call.say("3")
    await asyncio.sleep(0)
    assert peer.received.empty()


async def test_a_store_that_is_closed_takes_what_is_under_way_with_it(store: SidecarStore, call: Call) -> None:
    turn = call.say("1")
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StoreClosedError):
        await turn
    assert [type(error) for error in call.lost] == [StoreClosedError]


async def test_a_forked_childs_outbox_is_empty_and_gets_no_reply(
    peer: ScriptedPeer, store: SidecarStore, call: Call
) -> None:
    call.say("1")
    (request,) = await peer.requests(1)
    call.outbox.abandon()
    peer.reply(request, accepted(1, 1))
    later = asyncio.ensure_future(store.ping())
    (request,) = await peer.requests(1)
    peer.reply(request, {})
    await later
    assert call.outbox.resume() is None
    assert call.versions == []


async def test_a_turn_and_its_reply_take_few_calls(peer: ScriptedPeer, call: Call) -> None:
    """At the pace of speech each runs alone, with cold caches: what it costs is how much code it runs."""
    calls: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        module = frame.f_globals["__name__"]
        if event == "call" and module.startswith("callstate_client."):
            calls.append(f"{module}:{frame.f_code.co_qualname}")

    async def turn() -> int:
        queued = asyncio.ensure_future(call.say("hello"))
        (request,) = await peer.requests(1)
        peer.reply(request, {"version": 3, "turn_count": 1})
        return int(await queued)

    await turn()
    before = sys.getprofile()
    gc.disable()  # handles that other tests have left would be collected, which calls their `__del__`
    sys.setprofile(note)
    try:
        assert await turn() == 3
    finally:
        sys.setprofile(before)
        gc.enable()
    assert len(calls) <= MOST_CALLS, " ".join(calls)
