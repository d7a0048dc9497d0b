from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime
from typing import Any

import pytest

from callstate_client import (
    CallHandle,
    Clock,
    ConflictError,
    DocumentError,
    InvalidParamsError,
    MethodNotFoundError,
    SessionState,
    StoreClosedError,
    StoreUnavailableError,
    Turn,
    TurnHandle,
)
from callstate_client.calls.outbox.backlog import MAX_ENTRY_BYTES
from callstate_client.calls.outbox.entry import OutboxEntry
from support.flaky import FlakyStore, PostingStore

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(params=[FlakyStore, PostingStore], ids=["awaited", "posted"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[FlakyStore]:
    async with request.param(Clock(START)) as store:
        yield store


async def same(store: FlakyStore, call: CallHandle) -> None:
    kept = await store.load(call.id)
    kept.updated_at = call.state.updated_at  # the store's own
    assert kept == call.state


def said(state: SessionState) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in state.history]


async def test_a_turn_is_amended_whatever_has_been_said_since(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1", history=[Turn("agent", "hello")])) as call:
        spoken = call.add_turn("agent", "how are you today", duration_ms=900)
        await spoken
        call.add_turn("user", "wait")
        await spoken.amend(content="how are", duration_ms=300, extra={"interrupted": True})
        assert said(await store.load("c1")) == [("agent", "hello"), ("agent", "how are"), ("user", "wait")]
        kept = (await store.load("c1")).history[1]
        assert (kept.duration_ms, kept.extra) == (300, {"interrupted": True})
        assert spoken.turn is call.state.history[1]
        await same(store, call)


async def test_turns_by_others_in_between_do_not_matter(store: FlakyStore) -> None:
    operator = store.worker(None)
    async with store.hold(SessionState("c1")) as call:
        await call.add_turn("user", "one")
        await operator.add_turn("c1", "agent", "from elsewhere")
        ours = [call.add_turn("agent", str(number)) for number in range(3)]
        await ours[-1]
        await operator.add_turn("c1", "agent", "and this")
        await ours[1].amend(content="amended")
        assert [content for _, content in said(await store.load("c1"))] == [
            "one", "from elsewhere", "0", "amended", "2", "and this",
        ]  # fmt: skip
    await operator.close()


A_HALF = "a" * (MAX_ENTRY_BYTES // 2)
"""Two of these fit into an outbox, and not into one request."""


async def test_what_does_not_fit_into_one_request_together_is_sent_in_two(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        waiting = call.add_turn("agent", "x", extra={"one": A_HALF})
        await waiting.amend(extra={"two": A_HALF})
        assert store.asked["session.amend_turn"] == 1
        waiting.amend(extra={"one": A_HALF, "two": None})
        await waiting.amend(extra={"three": A_HALF})
        assert store.asked["session.amend_turn"] == 3
        await same(store, call)
        assert call.state.history[0].extra == {"one": A_HALF, "three": A_HALF}


async def test_a_reply_that_was_lost_does_not_shift_it(store: FlakyStore) -> None:
    operator = store.worker(None)
    async with store.hold(SessionState("c1")) as call:
        store.fail("session.add_turn", StoreUnavailableError("later"), times=1, applied=True)
        turn = call.add_turn("agent", "long")
        await store.when_asked("session.add_turn", 1)
        await operator.add_turn("c1", "agent", "from elsewhere")
        await turn
        await turn.amend(content="short")
        assert [content for _, content in said(await store.load("c1"))] == ["short", "from elsewhere"]
    await operator.close()


async def test_an_unsent_turn_is_amended_in_place(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        turn = call.add_turn("agent", "lo", extra={"final": False})
        for part in ("lon", "long", "longer"):
            amended = turn.amend(content=part, extra={"final": None, "parts": len(part)})
        assert await amended == await turn
        assert store.asked["session.amend_turn"] == 0
        assert (await store.load("c1")).history == [Turn("agent", "longer", turn.turn.timestamp, 0, {"parts": 6})]
        await same(store, call)


async def test_an_amendment_of_a_turn_in_flight_is_queued_behind_it(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        turn = call.add_turn("agent", "long")
        await store.when_asked("session.add_turn", 1)
        await turn.amend(content="short")
        assert store.asked["session.amend_turn"] == 1
        await same(store, call)


async def test_speech_time_is_what_was_said_first_here_and_there(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        turn = call.add_turn("agent", "long", duration_ms=900)
        await turn.amend(content="short", duration_ms=300)
        assert call.state.metrics.agent_speech_duration_ms == 900
        await same(store, call)


async def test_the_last_turn_of_a_role(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        call.add_turn("agent", "how are you")
        call.add_turn("user", "wait")
        await call.amend_last_turn(role="agent", content="how")
        assert said(await store.load("c1")) == [("agent", "how"), ("user", "wait")]
        await same(store, call)
        with pytest.raises(ConflictError, match="role"):
            call.amend_last_turn(role="tool", content="x")


async def test_by_the_store(store: FlakyStore) -> None:
    await store.save(SessionState("c1", history=[Turn("agent", "one"), Turn("user", "two"), Turn("user", "three")]))
    await store.amend_turn("c1", 1, content="2")
    await store.amend_turn("c1", -1, role="user", content="3")
    await store.amend_last_turn("c1", role="agent", content="1")
    assert [content for _, content in said(await store.load("c1"))] == ["1", "2", "3"]
    with pytest.raises(ConflictError):
        await store.amend_turn("c1", 0, role="user", content="x")
    with pytest.raises(ConflictError):
        await store.amend_turn("c1", 3, content="x")


async def test_a_turn_that_was_refused_is_not_amended_nor_is_another(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1", history=[Turn("agent", "before")])) as call:
        store.fail("session.add_turn", InvalidParamsError("not that"), times=1)
        turn = call.add_turn("agent", "x")
        await store.when_asked("session.add_turn", 1)
        amended = turn.amend(content="y")
        for outcome in (turn, amended):
            with pytest.raises(InvalidParamsError, match="not that"):
                await outcome
        assert said(await store.load("c1")) == [("agent", "before")]


class OlderStore(FlakyStore):
    """Of a version that amends the last turn alone."""

    has: Collection[str] = ("ownership", "events", "drain")

    async def features(self) -> Collection[str]:
        return self.has

    @property
    def _known_features(self) -> Any:
        return self.has


async def test_an_older_daemon_gets_no_request_that_it_would_misunderstand() -> None:
    async with OlderStore(Clock(START)) as store, store.hold(SessionState("c1")) as call:
        turn = call.add_turn("agent", "long")
        await turn
        call.add_turn("user", "wait")
        for ask in (lambda: turn.amend(content="x"), lambda: call.amend_last_turn(role="agent", content="x")):
            with pytest.raises(MethodNotFoundError, match="too old"):
                ask()
        with pytest.raises(MethodNotFoundError, match="too old"):
            await store.amend_turn("c1", 0, content="x")
        await call.amend_last_turn(content="wait!")
        assert said(call.state) == said(await store.load("c1")) == [("agent", "long"), ("user", "wait!")]


async def test_a_daemon_that_was_replaced_by_an_older_one() -> None:
    async with OlderStore(Clock(START)) as store, store.hold(SessionState("c1")) as call:
        turn = call.add_turn("agent", "long")
        await turn
        store.has = ("amend_index",)
        amended = turn.amend(content="x")
        store.has = ()
        with pytest.raises(MethodNotFoundError, match="too old"):
            await amended
        assert said(await store.load("c1")) == [("agent", "long")]


async def test_an_amendment_that_can_not_be_sent_changes_nothing(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        turn = call.add_turn("agent", "x")
        with pytest.raises(DocumentError):
            turn.amend(extra={"x": float("nan")})
        assert turn.turn == call.state.history[0]
        assert not turn.turn.has_extra
    with pytest.raises(StoreClosedError):
        turn.amend(content="y")


async def test_waiting_can_be_given_up_and_taken_up_again(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        store.fail("session.add_turn", StoreUnavailableError("later"), times=1)
        turn = call.add_turn("agent", "x")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await turn
        assert not turn.done()
        assert await asyncio.wait_for(turn, 10) == (await store.get("c1")).version == turn.result()
        assert turn.done()
        assert turn.exception() is None


async def test_it_goes_with_what_takes_futures(store: FlakyStore) -> None:
    told: list[int] = []
    async with store.hold(SessionState("c1")) as call:
        turn = call.add_turn("agent", "x")
        turn.add_done_callback(lambda done: told.append(done.result()))
        turn.add_done_callback(print)
        assert turn.remove_done_callback(print) == 1
        version, _ = await asyncio.gather(turn, call.update(status="active"))
    assert told == [version]


async def test_a_refusal_that_is_not_awaited_warns_of_nothing(store: FlakyStore) -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with store.hold(SessionState("c1")) as call:
        store.fail("session.add_turn", InvalidParamsError("not that"), times=1)
        call.add_turn("agent", "x")
        await call.update(status="active")
    gc.collect()
    assert complaints == []


def test_a_repr_shows_no_text_of_the_call() -> None:
    loop = asyncio.new_event_loop()
    try:
        place = OutboxEntry(loop, "session.add_turn", turn=b"secret")
        assert "secret" not in repr(TurnHandle(None, Turn("user", "secret"), place))  # type: ignore[arg-type]
    finally:
        loop.close()
