"""Chat messages to turns and back: equal, and such that a provider accepts them after a crash."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callstate_client import DocumentError, MemoryStore, SessionState, Turn, sync, tool_call, tool_result
from callstate_client.adapters import chat
from callstate_client.adapters.chat import complete, from_message, from_messages, to_messages

# -- any messages come back equal -----------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
parts = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, texts),
    st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, texts),
    values,
)
calls = st.lists(st.builds(tool_call, texts, texts, texts), max_size=3)


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": draw(st.sampled_from(sorted(chat.ROLES)))}
    members = {
        "content": texts | st.none() | st.lists(parts, max_size=3),
        "tool_calls": calls | st.none(),
        "tool_call_id": texts,
        "name": texts,
        "refusal": values,
        "Role": values,
        "chat": values,
    }
    for name in draw(st.sets(st.sampled_from(sorted(members)))):
        message[name] = draw(members[name])
    return message


@given(st.lists(messages(), max_size=5))
def test_messages_come_back_equal_through_a_stored_document(given: list[dict[str, Any]]) -> None:
    state = SessionState("c1", history=from_messages(given))
    assert to_messages(state, repair=False) == given
    assert to_messages(SessionState.from_json(state.to_json()), repair=False) == given


@given(st.lists(messages(), max_size=5))
def test_messages_come_back_equal_from_a_held_call(given: list[dict[str, Any]]) -> None:
    async def through_a_store() -> list[dict[str, Any]]:
        store = MemoryStore()
        async with store.hold(SessionState("c1")) as call:
            for message in given:
                chat.add_message(call, message)
            assert to_messages(call.state, repair=False) == given
        return to_messages((await store.get("c1")).state, repair=False)

    assert asyncio.run(through_a_store()) == given


# -- what a provider accepts ----------------------------------------------------------------------------------


def accepted(given: list[dict[str, Any]]) -> bool:
    """Whether results of tools stand right behind the message that asks for them, one for each."""
    open_calls: set[str] = set()
    for message in given:
        if message["role"] == "tool":
            if message.get("tool_call_id") not in open_calls:
                return False
            open_calls.remove(message["tool_call_id"])
            continue
        if open_calls:
            return False
        if message["role"] == "assistant":
            open_calls = {call["id"] for call in message.get("tool_calls") or []}
    return not open_calls


steps = st.lists(
    st.one_of(
        st.builds(lambda text: {"role": "user", "content": text}, texts),
        st.builds(
            lambda ids: {
                "role": "assistant",
                "content": None,
                "tool_calls": [tool_call(i, "look_up") for i in ids],
            },
            st.lists(st.sampled_from("abc"), min_size=1, unique=True),
        ),
        st.builds(lambda i: {"role": "tool", "tool_call_id": i, "content": i}, st.sampled_from("abcd")),
    ),
    max_size=9,
)


@given(steps)
def test_a_repaired_conversation_is_accepted_and_repairing_it_again_changes_nothing(given: list[Any]) -> None:
    repaired = to_messages(from_messages(given))
    assert accepted(repaired)
    assert complete(repaired) == repaired
    assert [message for message in repaired if message["role"] != "tool"] == [
        message for message in given if message["role"] != "tool"
    ]
    if accepted(given):
        assert repaired == given


def test_a_call_whose_worker_died_is_closed() -> None:
    state = SessionState("c1")
    state.add_turn("user", "A table for two.")
    state.add_turn("agent", "", extra={"tool_calls": [tool_call("t1", "book", {"people": 2})]})
    assert to_messages(state) == [
        {"role": "user", "content": "A table for two."},
        {"role": "assistant", "content": None, "tool_calls": [tool_call("t1", "book", '{"people":2}')]},
        {"role": "tool", "tool_call_id": "t1", "content": chat.INTERRUPTED},
    ]


def test_a_result_that_came_after_a_filler_is_moved_to_its_call() -> None:
    turns = [
        Turn("agent", "One moment.", extra={"tool_calls": [tool_call("t1", "book")]}),
        Turn("agent", "Still looking …"),
        Turn("tool", "booked", extra=tool_result("t1", "book")),
    ]
    assert [message["content"] for message in to_messages(turns)] == ["One moment.", "booked", "Still looking …"]


def test_the_rest_of_a_history_that_was_loaded_in_part_begins_with_no_result() -> None:
    turns = [Turn("tool", "booked", extra=tool_result("t1")), Turn("agent", "Done.")]
    assert to_messages(turns) == [{"role": "assistant", "content": "Done."}]


def test_parallel_results_keep_their_order_and_the_last_of_several_counts() -> None:
    asked = {"role": "assistant", "content": None, "tool_calls": [tool_call("a", "x"), tool_call("b", "y")]}
    results = [{"role": "tool", "tool_call_id": i, "content": c} for i, c in (("b", "1"), ("a", "2"), ("b", "3"))]
    assert complete([asked, *results]) == [asked, results[2], results[1]]


# -- what workers and operators see ---------------------------------------------------------------------------


def test_a_turn_has_the_text_of_parts_and_what_is_amended_is_sent() -> None:
    parts = [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": "x"}}]
    (turn,) = from_messages([{"role": "assistant", "content": parts}])
    assert (turn.role, turn.content) == ("agent", "Look:")
    assert to_messages([turn]) == [{"role": "assistant", "content": parts}]
    turn.content = "Lo"
    assert to_messages([turn]) == [{"role": "assistant", "content": "Lo"}]


def test_turns_and_members_that_do_not_belong_to_a_chat_are_left_out() -> None:
    state = SessionState("c1")
    state.add_turn("dtmf", "1")
    state.add_turn("user", "Hi", 300, extra={"confidence": 0.9, "turn_id": "u1", "chat": "not ours"})
    state.add_turn("agent", "Hello", extra={"interrupted": True})
    assert to_messages(state) == [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def test_messages_are_added_to_a_state_and_counted() -> None:
    state = SessionState("c1")
    turn = chat.add_message(state, {"role": "assistant", "content": "Hello"})
    assert (turn.role, state.metrics.turn_count) == ("agent", 1)
    assert sync.connect  # whose calls have the same `add_turn`


@pytest.mark.parametrize(
    "wrong", [{}, {"role": 1}, {"role": "user", "content": 5}, {"role": "user", "content": {}}]
)
def test_an_invalid_message_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DocumentError, match="a chat message"):
        from_message(wrong)
