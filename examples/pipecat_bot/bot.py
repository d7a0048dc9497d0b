"""A Pipecat bot that goes on where the last one died: transcript, function calls and metrics are in the call.

The pipeline is Pipecat's; what hears, thinks and speaks is a script (scripted.py), to be replaced by a transport
and by services of your choice. Kill it in mid-call, run it again, and it resumes: with `--booking-s 60` there is a
minute to do so, while it books a table.

    pip install 'callstate[pipecat]'
    python examples/pipecat_bot/bot.py [--call ID] [--booking-s SECONDS] [--socket PATH]
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from loguru import logger
from pipecat.frames.frames import EndFrame, LLMRunFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    AssistantTurnStoppedMessage,
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.services.llm_service import FunctionCallParams
from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies

from callstate_client import CallHandle, SessionState, Status, connect
from callstate_client.adapters.pipecat import CallObserver, fill_context, run
from scripted import Loudspeaker, ScriptedLLM, ScriptedSTT, ScriptedTTS, caller_says

PROMPT = "You take table reservations at a restaurant, by telephone. Be brief."


async def run_bot(call: CallHandle, booking_s: float) -> None:
    """One call, until the bot has said goodbye."""
    context = LLMContext([{"role": "system", "content": PROMPT}])
    fill_context(context, call.state)  # nothing to fill in if the call is new
    aggregators = LLMContextAggregatorPair(
        context, user_params=LLMUserAggregatorParams(user_turn_strategies=ExternalUserTurnStrategies())
    )
    llm = ScriptedLLM()

    async def book_table(params: FunctionCallParams) -> None:
        print(f"booking   {params.arguments}", flush=True)
        await asyncio.sleep(booking_s)  # the restaurant's system
        await params.result_callback({"table": 12})

    llm.register_function("book_table", book_table)
    pipeline = Pipeline(
        [ScriptedSTT(), aggregators.user(), llm, ScriptedTTS(), Loudspeaker(), aggregators.assistant()]
    )
    worker = PipelineWorker(
        pipeline,
        params=PipelineParams(enable_metrics=True, enable_usage_metrics=True),
        observers=[CallObserver(call, aggregators)],
    )

    @worker.event_handler("on_pipeline_started")  # type: ignore[untyped-decorator]
    async def begin(*_: Any) -> None:
        await worker.queue_frame(LLMRunFrame())  # the bot speaks first, in a call that is resumed too

    @aggregators.assistant().event_handler("on_assistant_turn_stopped")  # type: ignore[untyped-decorator]
    async def said(_: Any, message: AssistantTurnStoppedMessage) -> None:
        print(f"agent     {message.content}", flush=True)
        if message.content == "Goodbye!":
            await worker.queue_frame(EndFrame())
        else:
            await worker.queue_frames(caller_says(message.content))

    await run(worker)


async def main() -> None:
    """As the arguments say."""
    parser = argparse.ArgumentParser(description="a bot that can be killed")
    parser.add_argument("--call", default="pipecat-1", help="the call's id")
    parser.add_argument("--booking-s", type=float, default=0.1, help="how long booking a table takes")
    parser.add_argument("--socket", help="the daemon's; found by itself where left out")
    args = parser.parse_args()
    logger.remove()  # Pipecat logs every frame that is of interest
    logger.add(sys.stderr, level="WARNING")
    state = SessionState(args.call, provider="pipecat", from_="+15550100", to="+15550199", status=Status.ACTIVE)
    async with connect(args.socket) as store, store.hold(state, resume=True) as call:
        print(f"holding   {call.id}, with {len(call.state.history)} turns", flush=True)
        await run_bot(call, args.booking_s)


if __name__ == "__main__":
    asyncio.run(main())
