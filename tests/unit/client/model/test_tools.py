"""Tool calls and results in turns: written, read, and found unanswered."""

from __future__ import annotations

import pytest

from callstate_client import (
    DocumentError,
    MemoryStore,
    Role,
    SessionState,
    Turn,
    tool_call,
    tool_calls_of,
    tool_result,
    unanswered_calls,
)
from callstate_client.model.tools import answered_call


def test_a_call_has_the_shape_of_chat_messages() -> None:
    assert tool_call("t1", "book", {"people": 2}) == {
        "id": "t1",
        "type": "function",
        "function": {"name": "book", "arguments": '{"people":2}'},
    }
    assert tool_call("t1", "book", '{"people": 2}')["function"]["arguments"] == '{"people": 2}'
    assert tool_call("t1", "book")["function"]["arguments"] == "{}"
    assert tool_result("t1") == {"tool_call_id": "t1"}
    assert tool_result("t1", "book") == {"tool_call_id": "t1", "name": "book"}


def test_arguments_that_are_not_json_are_refused() -> None:
    with pytest.raises(DocumentError, match="arguments"):
        tool_call("t1", "book", {"at": object()})


async def test_a_held_call_keeps_calls_and_results() -> None:
    store = MemoryStore()
    async with store.hold(SessionState("c1", provider="sip")) as call:
        booking = tool_call("t1", "book", {"people": 2})
        call.add_turn(Role.SYSTEM, "Be brief.")
        call.add_turn(Role.AGENT, "One moment.", 700, extra={"tool_calls": [booking]})
        assert unanswered_calls(call.state.history) == [booking]
        await call.add_turn(Role.TOOL, "booked", 90, extra=tool_result("t1", "book"))
        assert unanswered_calls(call.state.history) == []
    state = (await store.get("c1")).state
    assert [tool_calls_of(turn) for turn in state.history] == [[], [booking], []]
    assert [answered_call(turn) for turn in state.history] == [None, None, "t1"]
    # every turn is counted, and only what was spoken has speech time
    assert (state.metrics.turn_count, state.metrics.agent_speech_duration_ms) == (3, 700)


def test_calls_are_unanswered_until_their_result_and_again_under_the_same_id() -> None:
    first, second = tool_call("a", "one"), tool_call("b", "two")
    turns = [
        Turn("agent", extra={"tool_calls": [first, second]}),
        Turn("tool", extra=tool_result("a")),
    ]
    assert unanswered_calls(turns) == [second]
    assert unanswered_calls([*turns, Turn("agent", extra={"tool_calls": [first]})]) == [second, first]


@pytest.mark.parametrize(
    "wrong", [None, "x", {}, [1], [{"id": "a"}], [{"id": 1, "function": {"name": "n", "arguments": "{}"}}]]
)
def test_tool_calls_in_another_shape_are_left_out(wrong: object) -> None:
    turn = Turn("agent", extra={"tool_calls": wrong})
    assert tool_calls_of(turn) == []
    assert answered_call(Turn("tool", extra={"tool_call_id": wrong})) in (None, "x")
    assert answered_call(Turn("agent", extra={"tool_call_id": "x"})) is None
