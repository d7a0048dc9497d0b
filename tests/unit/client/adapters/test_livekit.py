"""A LiveKit AgentSession whose conversation is kept: the real session, in text, with a scripted model."""

from __future__ import annotations

from typing import Any

import pytest

from callstate_client import MemoryStore, SessionState, tool_call, tool_calls_of, tool_result, unanswered_calls

pytest.importorskip("livekit.agents", reason="LiveKit Agents is not installed: make test-adapters")

from livekit.agents import Agent, AgentSession, function_tool, llm, metrics
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS
from livekit.agents.voice.events import ConversationItemAddedEvent, SessionUsageUpdatedEvent

from callstate_client.adapters.chat import INTERRUPTED
from callstate_client.adapters.livekit import from_chat_context, keep, to_chat_context

pytestmark = [pytest.mark.framework, pytest.mark.filterwarnings("default")]


class ScriptedLLM(llm.LLM):
    """Answers each request with the next of these."""

    def __init__(self, answers: list[llm.ChoiceDelta]) -> None:
        super().__init__()
        self.answers = answers
        self.contexts: list[llm.ChatContext] = []

    def chat(self, *, chat_ctx: llm.ChatContext, tools: Any = None, **_: Any) -> llm.LLMStream:
        self.contexts.append(chat_ctx.copy())
        return ScriptedStream(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=DEFAULT_API_CONNECT_OPTIONS)


class ScriptedStream(llm.LLMStream):
    async def _run(self) -> None:
        model = self._llm
        assert isinstance(model, ScriptedLLM)
        self._event_ch.send_nowait(llm.ChatChunk(id="chunk", delta=model.answers.pop(0)))


def says(text: str) -> llm.ChoiceDelta:
    return llm.ChoiceDelta(role="assistant", content=text)


def calls(call_id: str, name: str, arguments: str) -> llm.ChoiceDelta:
    asked = llm.FunctionToolCall(name=name, arguments=arguments, call_id=call_id)
    return llm.ChoiceDelta(role="assistant", tool_calls=[asked])


async def test_messages_and_tools_are_kept_and_a_tool_before_it_runs() -> None:
    store = MemoryStore()
    unanswered: list[Any] = []
    async with store.hold(SessionState("c1", provider="livekit")) as call:

        @function_tool
        async def book(people: int) -> str:
            """Book a table."""
            unanswered.extend(unanswered_calls(call.state.history))
            return "table 12"

        answers = [calls("t1", "book", '{"people": 2}'), says("Booked.")]
        async with AgentSession(llm=ScriptedLLM(answers)) as session:
            keep(session, call)
            await session.start(Agent(instructions="Be brief.", tools=[book]))
            await session.run(user_input="A table for two.")
    assert unanswered == [tool_call("t1", "book", '{"people": 2}')]
    turns = list((await store.get("c1")).state.history)
    assert [(turn.role, turn.content) for turn in turns] == [
        ("user", "A table for two."),
        ("agent", ""),
        ("tool", "table 12"),
        ("agent", "Booked."),
    ]
    assert tool_calls_of(turns[1]) == unanswered
    assert turns[2].extra == tool_result("t1", "book")


async def test_another_worker_goes_on_with_the_context_filled() -> None:
    @function_tool
    async def look_up() -> str:
        """Look for a table; LiveKit leaves calls of tools that an agent does not have out of its context."""
        return ""

    store = MemoryStore()
    async with store.hold(SessionState("c1")) as call:
        async with AgentSession(llm=ScriptedLLM([says("For when?")])) as session:
            keep(session, call)
            await session.start(Agent(instructions="Be brief."))
            await session.run(user_input="A table for two.")
        call.add_turn("agent", "", extra={"tool_calls": [tool_call("t1", "look_up")]})
        await call.release()

    async with store.hold("c1") as call:
        model = ScriptedLLM([says("Sorry, again?")])
        async with AgentSession(llm=model) as session:
            keep(session, call)
            agent = Agent(instructions="Be brief.", chat_ctx=to_chat_context(call.state), tools=[look_up])
            await session.start(agent)
            await session.run(user_input="Friday.")
        (sent,) = model.contexts
    kinds = [item.role if item.type == "message" else item.type for item in sent.items]
    assert [kind for kind in kinds if kind != "agent_config_update"] == [
        "system", "user", "assistant", "function_call", "function_call_output", "user",
    ]  # fmt: skip
    turns = (await store.get("c1")).state.history
    assert [turn.content for turn in turns] == ["A table for two.", "For when?", "", "Friday.", "Sorry, again?"]


async def test_speech_latency_interruptions_and_usage_are_measured() -> None:
    store = MemoryStore()
    async with store.hold(SessionState("c1")) as call, AgentSession() as session:
        keeper = keep(session, call)
        usage = metrics.LLMModelUsage(provider="openai", model="m", input_tokens=7)
        session.emit(
            "session_usage_updated", SessionUsageUpdatedEvent(usage=metrics.AgentSessionUsage(model_usage=[usage]))
        )
        for latency_s, interrupted in ((0.5, False), (0.7, True)):
            spoken: Any = {"started_speaking_at": 10.0, "stopped_speaking_at": 11.2, "e2e_latency": latency_s}
            message = llm.ChatMessage(role="assistant", content=["Hm"], interrupted=interrupted, metrics=spoken)
            session.emit("conversation_item_added", ConversationItemAddedEvent(item=message))
        handoff = llm.AgentHandoff(new_agent_id="b")
        session.emit("conversation_item_added", ConversationItemAddedEvent(item=handoff))
        keeper.stop()
        session.emit("conversation_item_added", ConversationItemAddedEvent(item=message))
    state = (await store.get("c1")).state
    assert [turn.extra.get("interrupted") for turn in state.history] == [None, True]
    found = state.metrics
    assert (found.interruption_count, found.agent_speech_duration_ms) == (1, 2400)
    assert (found.first_response_ms, found.average_response_ms) == (500, 600)
    assert found.extra["usage"] == [{"provider": "openai", "model": "m", "input_tokens": 7}]


def test_a_context_comes_back_equal_through_a_stored_document() -> None:
    image = llm.ImageContent(image="https://example.com/a.jpg", inference_detail="low")
    reported: Any = {"e2e_latency": 0.5, "llm_metadata": {"model_name": "m"}}
    given = llm.ChatContext.empty()
    given.add_message(role="system", content="Be brief.")
    given.add_message(role="developer", content="Ask for the day.")
    given.add_message(role="user", content=["Look:", image, "There."])
    given.add_message(role="user", content=[])
    given.add_message(role="assistant", content="One mo", interrupted=True, metrics=reported, extra={"a": {"b": 1}})
    given.items += [
        llm.FunctionCall(call_id="t1", name="book", arguments="{}", group_id="g", extra={"google": "x"}),
        llm.FunctionCall(call_id="t2", name="look", arguments='{"a": 1}', group_id="g"),
        llm.FunctionCallOutput(call_id="t1", name="book", output="no", is_error=True),
        llm.FunctionCallOutput(call_id="t2", output="yes", is_error=False, reply_required=False),
    ]
    state = SessionState("c1", history=from_chat_context(given))
    again = to_chat_context(SessionState.from_json(state.to_json()))
    assert [item.model_dump() for item in again.items] == [item.model_dump() for item in given.items]


def test_a_call_without_a_result_is_closed_and_what_was_amended_is_used() -> None:
    state = SessionState("c1")
    state.add_turn("agent", "One moment.", extra={"tool_calls": [tool_call("t1", "book"), tool_call("t2", "look")]})
    state.add_turn("tool", "yes", extra=tool_result("t2", "look"))
    state.add_turn("dtmf", "1")
    items = to_chat_context(state).items
    assert [item.type for item in items] == [
        "message", "function_call", "function_call_output", "function_call", "function_call_output",
    ]  # fmt: skip
    closing = items[2]
    assert isinstance(closing, llm.FunctionCallOutput)
    assert (closing.call_id, closing.output, closing.is_error) == ("t1", INTERRUPTED, True)

    (turn,) = from_chat_context(llm.ChatContext([llm.ChatMessage(role="assistant", content=["One", "two"])]))
    turn.content = "One"
    state.history = [turn]
    (message,) = to_chat_context(state).messages()
    assert message.content == ["One"]
