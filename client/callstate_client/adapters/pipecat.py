"""Pipecat: a pipeline's conversation kept in a held call, and a context filled with it.

What was said comes from the context aggregators, as it goes into the context: of an interrupted answer only what
was spoken. Function calls, interruptions and response times come from an observer of the pipeline's frames.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from time import monotonic
from typing import Any, Final

from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    Frame,
    FunctionCallCancelFrame,
    FunctionCallInProgressFrame,
    FunctionCallResultFrame,
    InterruptionFrame,
    MetricsFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.metrics.metrics import LLMUsageMetricsData, TTSUsageMetricsData
from pipecat.observers.base_observer import BaseObserver, FramePushed
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    AssistantTurnStoppedMessage,
    LLMContextAggregatorPair,
    UserTurnMessageAddedMessage,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.workers.runner import WorkerRunner

from callstate_client.adapters.chat import to_messages
from callstate_client.adapters.recorder import Recorder
from callstate_client.calls.handle import CallHandle
from callstate_client.model.state import SessionState
from callstate_client.model.words import Role

__all__ = ["CallObserver", "fill_context", "run"]

CANCELLED: Final = '{"error":"cancelled"}'
"""The result of a function call that was cancelled, by an interruption or by its deadline."""

USAGE: Final[tuple[str, ...]] = ("prompt_tokens", "completion_tokens", "tts_characters")
"""Members of the call's metrics with what was used; the services report it with `enable_usage_metrics`."""


def fill_context(context: LLMContext, state: SessionState) -> None:
    """Add a call's conversation to a context, behind what is there, such as the system prompt. A function call that
    a crash left without a result gets one that says so.

    Args:
        context: before the pipeline runs.
        state: of the call that is continued.
    """
    context.add_messages(to_messages(state))


async def run(worker: PipelineWorker) -> None:
    """Run a pipeline until it ends.

    Pipecat's runner returns when it is cancelled, as if the conversation had come to its end, and the block that
    holds the call would end it. This lets the cancellation through, such as one by Ctrl-C or `cancel_on_lost`: the
    call is released for another worker. The pipeline has been shut down by then.

    Args:
        worker: of the pipeline.
    """
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class CallObserver(BaseObserver):  # type: ignore[misc]  # mypy looks into no Pipecat
    """Keeps a pipeline's conversation in a call: `PipelineWorker(…, observers=[CallObserver(call, aggregators)])`.

    Args:
        call: held by this worker.
        aggregators: of the pipeline, whose user and assistant turns become turns of the call.
        time_source: monotonic, seconds; tests pass their own.
    """

    def __init__(
        self,
        call: CallHandle,
        aggregators: LLMContextAggregatorPair,
        *,
        time_source: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(observe_every_push=False)
        self._recorder = Recorder(call)
        self._now = time_source
        self._user = _Speech()
        self._bot = _Speech()
        self._awaits_response = False
        self._response_ms: float | None = None
        """The response time of the bot's current turn."""
        aggregators.user().add_event_handler("on_user_turn_message_added", self._user_said)
        aggregators.assistant().add_event_handler("on_assistant_turn_stopped", self._bot_said)
        self._handlers: dict[type[Frame], Callable[[Any], None]] = {
            UserStartedSpeakingFrame: self._user_started,
            UserStoppedSpeakingFrame: self._user_stopped,
            BotStartedSpeakingFrame: self._bot_started,
            BotStoppedSpeakingFrame: self._bot_stopped,
            InterruptionFrame: self._interrupted,
            FunctionCallInProgressFrame: self._function_called,
            FunctionCallResultFrame: self._function_returned,
            FunctionCallCancelFrame: self._function_cancelled,
            MetricsFrame: self._measured,
        }

    async def on_push_frame(self, data: FramePushed) -> None:
        """Keep what a frame says; called by Pipecat."""
        handler = self._handlers.get(type(data.frame))
        if handler is None:
            return
        # a broadcast frame is two, one each way
        if data.frame.broadcast_sibling_id is None or data.direction == FrameDirection.DOWNSTREAM:
            handler(data.frame)

    # -- what was said, from the aggregators ----------------------------------------------------------------

    async def _user_said(self, aggregator: object, message: UserTurnMessageAddedMessage) -> None:
        extra = {"name": message.user_id} if message.user_id else None
        self._recorder.said(
            Role.USER, message.content, self._user.take_ms(self._now()), at=_moment(message.timestamp), extra=extra
        )

    async def _bot_said(self, aggregator: object, message: AssistantTurnStoppedMessage) -> None:
        response_ms, self._response_ms = self._response_ms, None
        if not message.content:  # only function calls, or interrupted before a word
            return
        self._recorder.said(
            Role.AGENT,
            message.content,
            self._bot.take_ms(self._now()),
            at=_moment(message.timestamp),
            extra={"interrupted": True} if message.interrupted else None,
            response_ms=response_ms,
        )

    # -- frames ---------------------------------------------------------------------------------------------

    def _user_started(self, _: object) -> None:
        self._user.start(self._now())
        self._awaits_response = False

    def _user_stopped(self, _: object) -> None:
        self._user.stop(self._now())
        self._awaits_response = True

    def _bot_started(self, _: object) -> None:
        now = self._now()
        self._bot.start(now)
        if self._awaits_response and self._user.ended is not None:
            self._response_ms = (now - self._user.ended) * 1000
        self._awaits_response = False

    def _bot_stopped(self, _: object) -> None:
        self._bot.stop(self._now())

    def _interrupted(self, _: object) -> None:
        """Pipecat interrupts whenever the user begins to speak; counted is what cut the bot off."""
        if self._bot.running:
            self._recorder.interrupted()

    def _function_called(self, frame: FunctionCallInProgressFrame) -> None:
        self._recorder.asked(frame.tool_call_id, frame.function_name, _as_json(frame.arguments))

    def _function_returned(self, frame: FunctionCallResultFrame) -> None:
        if frame.properties is None or frame.properties.is_final:
            self._recorder.answered(frame.tool_call_id, frame.function_name, _as_json(frame.result))

    def _function_cancelled(self, frame: FunctionCallCancelFrame) -> None:
        self._recorder.answered(frame.tool_call_id, frame.function_name, CANCELLED)

    def _measured(self, frame: MetricsFrame) -> None:
        used: dict[str, int] = dict.fromkeys(USAGE, 0)
        for data in frame.data:
            if isinstance(data, LLMUsageMetricsData):
                used["prompt_tokens"] += data.value.prompt_tokens
                used["completion_tokens"] += data.value.completion_tokens
            elif isinstance(data, TTSUsageMetricsData):
                used["tts_characters"] += data.value
        self._recorder.used(used)


class _Speech:
    """When one side began and stopped to speak."""

    def __init__(self) -> None:
        self.began: float | None = None
        self.ended: float | None = None

    @property
    def running(self) -> bool:
        """Whether it speaks now."""
        return self.began is not None and self.ended is None

    def start(self, now: float) -> None:
        """It begins; a second beginning within one turn changes nothing."""
        if self.began is None or self.ended is not None:
            self.began, self.ended = now, None

    def stop(self, now: float) -> None:
        """It stops."""
        self.ended = now

    def take_ms(self, now: float) -> float:
        """How long this turn was, milliseconds, so far if it goes on; a later turn does not count it again."""
        if self.began is None:
            return 0
        until = now if self.ended is None else self.ended
        duration_ms = (until - self.began) * 1000
        self.began = None if self.ended is not None else now
        return duration_ms


def _as_json(value: object) -> str:
    """As Pipecat writes it into the context."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _moment(text: str) -> datetime | None:
    """The time of a message; None, which is now, if it has none."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
