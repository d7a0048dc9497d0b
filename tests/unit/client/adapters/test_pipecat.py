"""A Pipecat pipeline whose conversation is kept: the real aggregators and LLM service, with a scripted model."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from callstate_client import CallHandle, MemoryStore, SessionState, tool_call, tool_result

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of modules that Python is about to drop
    pytest.importorskip("pipecat", reason="Pipecat is not installed: make test-adapters")

    from pipecat.frames.frames import (
        BotStartedSpeakingFrame,
        BotStoppedSpeakingFrame,
        EndFrame,
        Frame,
        FunctionCallFromLLM,
        InterruptionFrame,
        LLMContextFrame,
        LLMFullResponseEndFrame,
        LLMFullResponseStartFrame,
        LLMTextFrame,
        MetricsFrame,
        TranscriptionFrame,
        UserStartedSpeakingFrame,
        UserStoppedSpeakingFrame,
    )
    from pipecat.metrics.metrics import LLMTokenUsage, LLMUsageMetricsData, TTSUsageMetricsData
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.worker import PipelineWorker
    from pipecat.processors.aggregators.llm_context import LLMContext
    from pipecat.processors.aggregators.llm_response_universal import (
        LLMContextAggregatorPair,
        LLMUserAggregatorParams,
    )
    from pipecat.processors.frame_processor import FrameDirection
    from pipecat.services.llm_service import LLMService
    from pipecat.services.settings import LLMSettings
    from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies
    from pipecat.workers.runner import WorkerRunner

    from callstate_client.adapters.pipecat import CallObserver, fill_context, run

from callstate_client.adapters import chat

pytestmark = [pytest.mark.framework, pytest.mark.filterwarnings("default")]

Step = Callable[["ScriptedLLM", LLMContext], Awaitable[None]]


class ScriptedLLM(LLMService):
    """Plays one step for each inference that is run."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__(settings=LLMSettings(model="scripted"))
        self.steps = steps
        self.contexts: list[list[Any]] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame):
            self.contexts.append([dict(message) for message in frame.context.get_messages()])
            await self.steps.pop(0)(self, frame.context)
        else:
            await self.push_frame(frame, direction)


def says(*words: str, ended: bool = True) -> Step:
    async def step(model: ScriptedLLM, _: LLMContext) -> None:
        await model.push_frame(LLMFullResponseStartFrame())
        for word in words:
            await model.push_frame(LLMTextFrame(word))
        if ended:
            await model.push_frame(LLMFullResponseEndFrame())

    return step


def calls(call_id: str, name: str, arguments: dict[str, Any]) -> Step:
    async def step(model: ScriptedLLM, context: LLMContext) -> None:
        await model.run_function_calls([FunctionCallFromLLM(name, call_id, arguments, context)])

    return step


class Running:
    """A pipeline that runs, and what it is told."""

    def __init__(self, call: CallHandle, steps: list[Step], context: LLMContext | None = None) -> None:
        self.call = call
        self.model = ScriptedLLM(steps)
        self.now = 100.0
        pair = LLMContextAggregatorPair(
            context or LLMContext(),
            user_params=LLMUserAggregatorParams(user_turn_strategies=ExternalUserTurnStrategies()),
        )
        self.observer = CallObserver(call, pair, time_source=lambda: self.now)
        pipeline = Pipeline([pair.user(), self.model, pair.assistant()])
        self.worker = PipelineWorker(
            pipeline, observers=[self.observer], cancel_on_idle_timeout=False, enable_rtvi=False
        )
        self.started = asyncio.Event()

        @self.worker.event_handler("on_pipeline_started")
        async def on_started(*_: object) -> None:
            self.started.set()

    async def push(self, *frames: Frame) -> None:
        for frame in frames:
            await self.worker.queue_frame(frame)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the pipeline's tasks run until it has come to this, for which Pipecat has no event."""
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)

    async def turns(self, count: int) -> None:
        await self.until(lambda: len(self.call.state.history) == count)


@asynccontextmanager
async def running(call: CallHandle, steps: list[Step], context: LLMContext | None = None) -> AsyncIterator[Running]:
    pipeline = Running(call, steps, context)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(pipeline.worker)
    task = asyncio.create_task(runner.run())
    await asyncio.wait_for(pipeline.started.wait(), 10)
    try:
        yield pipeline
    finally:
        await pipeline.push(EndFrame())
        await asyncio.wait_for(task, 10)


async def user_says(pipeline: Running, text: str, seconds: float = 0) -> None:
    await pipeline.push(UserStartedSpeakingFrame())
    await pipeline.until(lambda: pipeline.observer._user.running)
    pipeline.now += seconds
    said = TranscriptionFrame(text, "caller", "2026-05-01T12:00:00+00:00")
    await pipeline.push(said, UserStoppedSpeakingFrame())


async def test_turns_are_kept_as_they_enter_the_context() -> None:
    store = MemoryStore()
    async with (
        store.hold(SessionState("c1", provider="daily")) as call,
        running(call, [says("For ", "when?")]) as pipeline,
    ):
        await user_says(pipeline, "A table for two.")
        await pipeline.turns(2)
    turns = (await store.get("c1")).state.history
    assert [(turn.role, turn.content) for turn in turns] == [("user", "A table for two."), ("agent", "For when?")]


async def test_a_function_call_is_kept_before_it_runs_and_then_its_result() -> None:
    store = MemoryStore()
    seen: list[Any] = []

    async with store.hold(SessionState("c1")) as call:
        steps = [calls("t1", "book", {"people": 2}), says("Booked.")]
        async with running(call, steps) as pipeline:

            async def book(params: Any) -> None:
                await pipeline.turns(2)  # the user's, and the call
                seen.extend(chat.to_messages(call.state))
                await params.result_callback({"table": 12})

            pipeline.model.register_function("book", book)
            await user_says(pipeline, "A table for two.")
            await pipeline.turns(4)
    # had the worker died here, the history would have been accepted
    assert seen[1:] == [
        {"role": "assistant", "content": None, "tool_calls": [tool_call("t1", "book", '{"people": 2}')]},
        {"role": "tool", "tool_call_id": "t1", "content": chat.INTERRUPTED},
    ]
    turns = (await store.get("c1")).state.history
    assert [(turn.role, turn.content) for turn in turns[2:]] == [("tool", '{"table": 12}'), ("agent", "Booked.")]
    assert turns[2].extra == tool_result("t1", "book")


async def test_an_interruption_is_counted_and_marks_what_was_heard() -> None:
    store = MemoryStore()
    async with store.hold(SessionState("c1")) as call, running(call, [says("We have", ended=False)]) as pipeline:
        await user_says(pipeline, "Any tables?", seconds=0.8)
        await pipeline.turns(1)
        await pipeline.until(lambda: len(pipeline.model.contexts) == 1)
        await pipeline.push(BotStartedSpeakingFrame())
        await pipeline.until(lambda: pipeline.observer._bot.running)
        pipeline.now += 1.2
        await pipeline.push(InterruptionFrame())
        await pipeline.turns(2)
        await pipeline.push(BotStoppedSpeakingFrame(), InterruptionFrame())  # nobody was cut off
    state = (await store.get("c1")).state
    assert (state.history[1].content, state.history[1].extra["interrupted"]) == ("We have", True)
    assert [turn.duration_ms for turn in state.history] == [800, 1200]
    assert state.metrics.interruption_count == 1


async def test_response_times_and_usage_are_measured() -> None:
    store = MemoryStore()
    steps = [says("One.", ended=False), says("Two.", ended=False)]
    async with store.hold(SessionState("c1")) as call, running(call, steps) as pipeline:
        for index, waited_s in enumerate((0.5, 0.7)):
            await user_says(pipeline, "Well?")
            await pipeline.until(lambda: len(pipeline.model.contexts) == index + 1)  # noqa: B023
            pipeline.now += waited_s
            await pipeline.push(BotStartedSpeakingFrame())
            await pipeline.until(lambda: pipeline.observer._bot.running)
            await pipeline.push(LLMFullResponseEndFrame())
            await pipeline.turns(2 * index + 2)
            await pipeline.push(BotStoppedSpeakingFrame())
        usage = LLMTokenUsage(prompt_tokens=10, completion_tokens=3, total_tokens=13)
        for _ in range(2):
            await pipeline.push(
                MetricsFrame(
                    [
                        LLMUsageMetricsData(processor="llm", value=usage),
                        TTSUsageMetricsData(processor="tts", value=4),
                    ]
                )
            )
        await pipeline.until(lambda: call.state.metrics.extra.get("tts_characters") == 8)
    state = (await store.get("c1")).state
    metrics = state.metrics
    assert [turn.response_ms for turn in state.history] == [None, 500, None, 700]
    assert (metrics.first_response_ms, metrics.average_response_ms) == (500, 600)
    assert metrics.extra == {
        "response_count": 2, "response_total_ms": 1200,
        "prompt_tokens": 20, "completion_tokens": 6, "tts_characters": 8,
    }  # fmt: skip


async def test_another_worker_goes_on_with_the_context_filled() -> None:
    store = MemoryStore()
    async with store.hold(SessionState("c1")) as call, running(call, [says("For when?")]) as pipeline:
        await user_says(pipeline, "A table for two.")
        await pipeline.turns(2)
        call.add_turn("agent", "", extra={"tool_calls": [tool_call("t1", "book")]})
        await call.release()

    async with store.hold("c1") as call:
        context = LLMContext([{"role": "system", "content": "Be brief."}])
        fill_context(context, call.state)
        async with running(call, [says("Sorry, again?")], context) as pipeline:
            await user_says(pipeline, "Friday.")
            await pipeline.turns(5)
        (sent,) = pipeline.model.contexts
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "assistant", "tool", "user"]
    turns = (await store.get("c1")).state.history
    assert [turn.content for turn in turns] == ["A table for two.", "For when?", "", "Friday.", "Sorry, again?"]


async def test_a_call_that_is_lost_does_not_end_the_pipeline(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    call = await store.open_call(SessionState("c1"))
    async with running(call, [says("Hello.")]) as pipeline:
        await call.close()
        await user_says(pipeline, "Hi")
        await pipeline.until(lambda: bool(pipeline.model.contexts))
    assert len((await store.get("c1")).state.history) == 0


async def test_a_cancelled_pipeline_releases_the_call() -> None:
    store = MemoryStore()

    async def bot(started: asyncio.Event) -> None:
        async with store.hold(SessionState("c1")) as call:
            pipeline = Running(call, [])
            pipeline.worker.add_event_handler("on_pipeline_started", lambda *_: started.set())
            await run(pipeline.worker)

    started = asyncio.Event()
    task = asyncio.create_task(bot(started))
    await asyncio.wait_for(started.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)
    record = await store.get("c1")
    assert record.state.is_active
    assert record.owner is None


async def test_a_pipeline_that_ends_ends_the_call() -> None:
    store = MemoryStore()
    async with store.hold(SessionState("c1")) as call:
        pipeline = Running(call, [])
        await pipeline.push(EndFrame())
        await asyncio.wait_for(run(pipeline.worker), 10)
    assert (await store.get("c1")).ended_reason == "completed"
