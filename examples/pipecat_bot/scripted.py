"""In place of a transport, a speech recognizer, a language model and a voice: Pipecat's own classes, with a script.

No network and no account. The "audio" of the caller is text, and the bot's is silence as long as what it says.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import fields
from typing import Any

from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    OutputAudioRawFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.metrics.metrics import LLMTokenUsage
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.llm_service import FunctionCallFromLLM, LLMService
from pipecat.services.settings import LLMSettings, STTSettings, TTSSettings
from pipecat.services.stt_service import STTService
from pipecat.services.tts_service import TTSService
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.utils.time import time_now_iso8601

SAMPLE_RATE = 8000
BYTES_PER_CHARACTER = 160
"""Of the bot's audio, 16 bits at 8,000 Hz: ten milliseconds for a character."""

ANSWERS = {"help you?": "A table for two, please.", "table 12.": "Thank you, goodbye."}
"""What the caller says, having heard a sentence that ends like this."""


def caller_says(sentence: str) -> list[Frame]:
    """The caller's answer to a sentence of the bot, as a transport would deliver it: audio."""
    answers = [answer for cue, answer in ANSWERS.items() if sentence.endswith(cue)]
    return [InputAudioRawFrame(answer.encode(), SAMPLE_RATE, 1) for answer in answers]


class ScriptedSTT(STTService):  # type: ignore[misc]  # mypy looks into no Pipecat
    """Recognizes each piece of audio as the text that it is."""

    def __init__(self) -> None:
        super().__init__(settings=STTSettings(model="scripted", language=None), ttfs_p99_latency=0)

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        await self.broadcast_frame(UserStartedSpeakingFrame)
        yield TranscriptionFrame(audio.decode(), "caller", time_now_iso8601(), finalized=True)
        await self.broadcast_frame(UserStoppedSpeakingFrame)


class ScriptedLLM(LLMService):  # type: ignore[misc]
    """Answers by the last message of the context; as a model, it knows nothing else of the call."""

    def __init__(self) -> None:
        settings: dict[str, Any] = {each.name: None for each in fields(LLMSettings) if each.name != "extra"}
        super().__init__(settings=LLMSettings(**settings | {"model": "scripted"}))

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame):
            await self._answer(frame.context)
        else:
            await self.push_frame(frame, direction)

    async def _answer(self, context: LLMContext) -> None:
        last: Any = context.get_messages()[-1]
        match last["role"], str(last["content"]):
            case "user", text if "table" in text:
                await self._book(context)
            case "tool", text if "error" in text:  # a crash has interrupted the function
                await self._book(context)
            case "tool", text:
                await self._say(f"{self._apology(context)}You have table {json.loads(text)['table']}.")
            case "user", _:
                await self._say("Goodbye!")
            case _:
                await self._say("Good evening, how can I help you?")

    @staticmethod
    def _apology(context: LLMContext) -> str:
        results = [str(message["content"]) for message in context.get_messages() if message["role"] == "tool"]
        return "Sorry, we were cut off. " if any("error" in result for result in results) else ""

    async def _say(self, text: str) -> None:
        await self.push_frame(LLMFullResponseStartFrame())
        await self.push_frame(LLMTextFrame(text))
        await self.push_frame(LLMFullResponseEndFrame())
        usage = LLMTokenUsage(prompt_tokens=20, completion_tokens=len(text.split()), total_tokens=20)
        await self.start_llm_usage_metrics(usage)

    async def _book(self, context: LLMContext) -> None:
        calls = sum(len(message.get("tool_calls") or ()) for message in context.get_messages())
        asked = FunctionCallFromLLM("book_table", f"call_{calls + 1}", {"people": 2}, context)
        await self.run_function_calls([asked])


class ScriptedTTS(TTSService):  # type: ignore[misc]
    """Says everything as silence of a fitting length."""

    def __init__(self) -> None:
        settings = TTSSettings(model="scripted", voice=None, language=None)
        super().__init__(push_start_frame=True, push_stop_frames=True, stop_frame_timeout_s=0.05, settings=settings)

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        yield TTSAudioRawFrame(bytes(BYTES_PER_CHARACTER * len(text)), SAMPLE_RATE, 1, context_id=context_id)


class Loudspeaker(BaseOutputTransport):  # type: ignore[misc]
    """Plays the bot's audio in no time."""

    def __init__(self) -> None:
        super().__init__(TransportParams(audio_out_enabled=True, audio_out_sample_rate=SAMPLE_RATE))

    async def start(self, frame: Frame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        return True
