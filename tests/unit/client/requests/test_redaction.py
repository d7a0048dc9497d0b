"""`before_send`, on both kinds of asyncio stores; the blocking front's is in integration/test_sync_hold.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from callstate_client import BeforeSendError, CallStore, DocumentError, MemoryStore, SessionState, Turn, connect
from callstate_client.requests import Redaction
from support.daemon import Daemon
from support.owners import START

CARD = "4111 1111 1111 1111"
MASKED = "[card]"


class Recorded:
    """A `before_send` that masks card numbers, and fails when told to."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str, dict[str, Any]]] = []
        self.error: BaseException | None = None

    def __call__(self, session_id: str, turn: Turn) -> Turn:
        self.seen.append((session_id, turn.role, turn.content, dict(turn.extra)))
        if self.error is not None:
            raise self.error
        turn.content = turn.content.replace(CARD, MASKED)
        turn.extra.pop("audio", None)
        if "heard" in turn.extra:
            turn.extra["heard"] = turn.extra["heard"].replace(CARD, MASKED)
        return turn


@pytest.fixture
def before_send() -> Recorded:
    return Recorded()


@pytest.fixture(params=["memory", pytest.param("daemon", marks=pytest.mark.system)])
async def store(request: pytest.FixtureRequest, before_send: Recorded) -> AsyncIterator[CallStore]:
    if request.param == "memory":
        async with MemoryStore(before_send=before_send) as store:
            yield store
        return
    with Daemon() as daemon:
        async with connect(daemon.socket, before_send=before_send) as store:
            yield store


async def texts(store: CallStore) -> list[str]:
    return [turn.content for turn in (await store.load("c1")).history]


async def test_turns_are_redacted_before_they_are_sent(store: CallStore, before_send: Recorded) -> None:
    async with store.hold(SessionState("c1")) as call:
        turn = call.add_turn("user", f"It is {CARD}.", 900, extra={"audio": "raw", "heard": CARD}, response_ms=7)
        assert call.state.history[0].content == turn.turn.content == "It is [card]."
        await turn
        await store.add_turn("c1", "agent", CARD, extra={"audio": "raw"})
        kept = await store.load("c1")
        assert [turn.content for turn in kept.history] == ["It is [card].", MASKED]
        assert kept.history[0].extra == {"heard": MASKED, "response_ms": 7}
        assert (kept.history[0].duration_ms, kept.metrics.first_response_ms) == (900, 7)
        assert kept.history[1].extra == {}
        assert kept.history[0] == call.state.history[0]
    assert [seen[:2] for seen in before_send.seen] == [("c1", "user"), ("c1", "agent")]


async def test_amendments_are_redacted(store: CallStore, before_send: Recorded) -> None:
    async with store.hold(SessionState("c1")) as call:
        turn = call.add_turn("user", "hello", extra={"audio": "was here before the hook knew", "kept": 1})
        turn.amend(content=f"1 {CARD}", extra={"heard": CARD})  # while it waits
        await turn
        await turn.amend(content=f"2 {CARD}", extra={"audio": "raw", "kept": None})  # once it was sent
        assert before_send.seen[-1] == ("c1", "user", f"2 {CARD}", {"audio": "raw"})
        assert await texts(store) == ["2 [card]"]
        assert (await store.load("c1")).history[0].extra == {"heard": MASKED}
        await call.amend_last_turn(content=f"3 {CARD}", role="user")
        await store.amend_last_turn("c1", extra={"heard": f"4 {CARD}"})
        assert before_send.seen[-1] == ("c1", "", "", {"heard": f"4 {CARD}"})
        assert await texts(store) == ["3 [card]"], "its content was not amended"
        await store.amend_turn("c1", 0, content=f"5 {CARD}", role="user")
        kept = (await store.load("c1")).history[0]
        assert (kept.content, kept.extra) == ("5 [card]", {"heard": "4 [card]"})
        seen = len(before_send.seen)
        await turn.amend(duration_ms=80)
        assert len(before_send.seen) == seen, "no text is sent"


async def test_saved_states_are_redacted_and_not_changed(store: CallStore) -> None:
    state = SessionState("c1", created_at=START)
    state.add_turn("user", CARD, extra={"audio": "raw"})
    state.add_turn("agent", "Thank you.")
    version = await store.save(state)
    assert await texts(store) == [MASKED, "Thank you."]
    assert (state.history[0].content, state.history[0].extra) == (CARD, {"audio": "raw"})
    state.add_turn("user", f"Again {CARD}")
    assert await store.save(state, if_version=version) != version
    assert await texts(store) == [MASKED, "Thank you.", "Again [card]"]
    async with store.hold("c1") as call:
        call.add_turn("user", CARD)
        await store.save(call.state)  # behind what is queued
        other = call.state.copy()
        other.add_turn("user", f"Other {CARD}")
        await store.save(other)
        assert [turn.content for turn in call.state.history] == await texts(store)
        assert (await texts(store))[-1] == "Other [card]"


async def test_a_held_state_is_redacted_itself(store: CallStore) -> None:
    state = SessionState("c1")
    state.add_turn("system", f"The card is {CARD}")
    async with store.hold(state) as call:
        assert await texts(store) == ["The card is [card]"] == [turn.content for turn in call.state.history]


@pytest.mark.parametrize("error", [ValueError(CARD), None])
async def test_a_turn_that_can_not_be_redacted_is_not_sent(
    store: CallStore, before_send: Recorded, error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store.hold(SessionState("c1")) as call:
        turn = call.add_turn("user", "hello")
        await turn
        if error is None:
            monkeypatch.setattr(store, "_redaction", Redaction(lambda _, turn: None))  # type: ignore[arg-type, return-value]
        before_send.error = error
        for change in (
            lambda: call.add_turn("user", CARD),
            lambda: turn.amend(content=CARD),
            lambda: call.amend_last_turn(content=CARD),
        ):
            with pytest.raises(BeforeSendError) as caught:
                change()
            assert CARD not in str(caught.value)
            assert caught.value.__cause__ is error
        for request in (
            store.add_turn("c1", "user", CARD),
            store.amend_last_turn("c1", content=CARD),
            store.save(SessionState("c2", history=[Turn("user", CARD)])),
            store.hold(SessionState("c3", history=[Turn("user", CARD)])).__aenter__(),
        ):
            with pytest.raises(BeforeSendError):
                await request
        assert call.unacknowledged == 0
        assert await texts(store) == ["hello"] == [turn.content for turn in call.state.history]
        assert await store.list_active() == ["c1"]
        await call.record_interruption()  # the call goes on


async def test_the_functions_result_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def nested(_: str, turn: Turn) -> Turn:
        turn.extra["at"] = START
        return turn

    async with MemoryStore(before_send=nested) as store, store.hold(SessionState("c1")) as call:
        with pytest.raises(DocumentError, match="datetime"):
            call.add_turn("user", "hello")
        assert not call.state.history


async def test_only_a_function_will_do() -> None:
    async def later(_: str, turn: Turn) -> Turn:
        return turn

    for wrong in (later, "mask"):
        with pytest.raises(TypeError, match="before_send"):
            MemoryStore(before_send=wrong)  # type: ignore[arg-type]


async def test_other_views_have_it_too(before_send: Recorded) -> None:
    async with MemoryStore(before_send=before_send) as store, store.worker("w2") as other:
        await other.save(SessionState("c1", history=[Turn("user", CARD)]))
        assert await texts(store) == [MASKED]
