"""A LiveKit agent that goes on where the last one died: transcript, tool calls and usage are in the call.

The session is LiveKit's; what hears and thinks is a script (scripted.py), to be replaced by a room and by models
of your choice. Kill it in mid-call, run it again, and it resumes: with `--booking-s 60` there is a minute to do so,
while it books a table.

    pip install 'callstate[livekit]'
    python examples/livekit_agent/agent.py [--call ID] [--booking-s SECONDS] [--socket PATH]

In a job of LiveKit's, `run_agent` is the entrypoint's body, the call's id is `ctx.room.name`, and the session is
started with `room=ctx.room`.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import asyncio

from livekit.agents import Agent, AgentSession, ConversationItemAddedEvent, function_tool
from livekit.agents.llm import ChatMessage

from callstate_client import CallHandle, SessionState, Status, connect
from callstate_client.adapters.livekit import keep, to_chat_context
from scripted import Caller, ScriptedLLM, ScriptedSTT

PROMPT = "You take table reservations at a restaurant, by telephone. Be brief."


async def run_agent(call: CallHandle, booking_s: float) -> None:
    """One call, until the agent has said goodbye."""

    @function_tool  # type: ignore[untyped-decorator]
    async def book_table(people: int) -> str:
        """Book a table for so many people."""
        print(f"booking   for {people}", flush=True)
        await asyncio.sleep(booking_s)  # the restaurant's system
        return "table 12"

    caller, goodbye = Caller(), asyncio.Event()
    session: AgentSession[None] = AgentSession(
        stt=ScriptedSTT(),
        llm=ScriptedLLM(),
        turn_handling={"turn_detection": "stt", "endpointing": {"min_delay": 0.0}},
    )
    keep(session, call)  # before the start, so that the greeting is kept
    session.input.audio = caller

    @session.on("conversation_item_added")  # type: ignore[untyped-decorator]
    def said(event: ConversationItemAddedEvent) -> None:
        if isinstance(event.item, ChatMessage) and event.item.role == "assistant":
            text = event.item.text_content or ""
            print(f"agent     {text}", flush=True)
            caller.hear(text)
            if text == "Goodbye!":
                goodbye.set()

    async with session:
        await session.start(Agent(instructions=PROMPT, chat_ctx=to_chat_context(call.state), tools=[book_table]))
        session.generate_reply()  # the agent speaks first, in a call that is resumed too
        await goodbye.wait()


async def main() -> None:
    """As the arguments say."""
    parser = argparse.ArgumentParser(description="an agent that can be killed")
    parser.add_argument("--call", default="livekit-1", help="the call's id")
    parser.add_argument("--booking-s", type=float, default=0.1, help="how long booking a table takes")
    parser.add_argument("--socket", help="the daemon's; found by itself where left out")
    args = parser.parse_args()
    state = SessionState(args.call, provider="livekit", from_="+15550100", to="+15550199", status=Status.ACTIVE)
    async with connect(args.socket) as store, store.hold(state, resume=True) as call:
        print(f"holding   {call.id}, with {len(call.state.history)} turns", flush=True)
        await run_agent(call, args.booking_s)


if __name__ == "__main__":
    asyncio.run(main())
