"""In place of a room, a speech recognizer and a language model: LiveKit's own classes, with a script.

No network and no account. The "audio" of the caller is text; the agent has no voice, and answers as text.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import asyncio
from typing import Any

from livekit import rtc
from livekit.agents import llm, stt
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS
from livekit.agents.voice.io import AudioInput

SAMPLE_RATE = 16000

ANSWERS = {"help you?": "A table for two, please.", "table 12.": "Thank you, goodbye."}
"""What the caller says, having heard a sentence that ends like this."""


class Caller(AudioInput):  # type: ignore[misc]  # mypy looks into no LiveKit
    """The caller's audio: what is said, in the bytes of a frame."""

    def __init__(self) -> None:
        super().__init__(label="caller")
        self._frames: asyncio.Queue[rtc.AudioFrame] = asyncio.Queue()

    def hear(self, sentence: str) -> None:
        """Answer a sentence of the agent."""
        for cue, answer in ANSWERS.items():
            if sentence.endswith(cue):
                audio = answer.encode()
                audio += b" " * (len(audio) % 2)  # 16 bits a sample
                self._frames.put_nowait(rtc.AudioFrame(audio, SAMPLE_RATE, 1, len(audio) // 2))

    async def __anext__(self) -> rtc.AudioFrame:
        return await self._frames.get()


class ScriptedSTT(stt.STT):  # type: ignore[misc]
    """Recognizes each frame as the text that it is."""

    def __init__(self) -> None:
        super().__init__(capabilities=stt.STTCapabilities(streaming=True, interim_results=False))

    def stream(self, **_: Any) -> stt.RecognizeStream:
        return _Stream(stt=self, conn_options=DEFAULT_API_CONNECT_OPTIONS)

    async def _recognize_impl(self, *_: Any, **__: Any) -> stt.SpeechEvent:
        raise NotImplementedError("it streams")


class _Stream(stt.RecognizeStream):  # type: ignore[misc]
    async def _run(self) -> None:
        async for frame in self._input_ch:
            text = bytes(frame.data).decode().strip("\0 ") if isinstance(frame, rtc.AudioFrame) else ""
            if text:  # at the end LiveKit adds some silence
                said = [stt.SpeechData(language="en", text=text)]
                self._event_ch.send_nowait(stt.SpeechEvent(stt.SpeechEventType.START_OF_SPEECH))
                self._event_ch.send_nowait(stt.SpeechEvent(stt.SpeechEventType.FINAL_TRANSCRIPT, alternatives=said))
                self._event_ch.send_nowait(stt.SpeechEvent(stt.SpeechEventType.END_OF_SPEECH))


class ScriptedLLM(llm.LLM):  # type: ignore[misc]
    """Answers by the last item of the context; as a model, it knows nothing else of the call."""

    def chat(self, *, chat_ctx: llm.ChatContext, tools: Any = None, **_: Any) -> llm.LLMStream:
        return _Answer(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=DEFAULT_API_CONNECT_OPTIONS)


class _Answer(llm.LLMStream):  # type: ignore[misc]
    async def _run(self) -> None:
        items = self.chat_ctx.items
        last = next((item for item in reversed(items) if item.type in ("message", "function_call_output")), None)
        calls = sum(item.type == "function_call" for item in items)
        asked = llm.FunctionToolCall(name="book_table", arguments='{"people": 2}', call_id=f"call_{calls + 1}")
        match last:
            case llm.ChatMessage(role="user", text_content=text) if "table" in text:
                self._send(tool_calls=[asked])
            case llm.FunctionCallOutput(is_error=True):  # a crash has interrupted the tool
                self._send(tool_calls=[asked])
            case llm.FunctionCallOutput(output=table):
                cut_off = any(isinstance(item, llm.FunctionCallOutput) and item.is_error for item in items)
                apology = "Sorry, we were cut off. " if cut_off else ""
                self._send(content=f"{apology}You have {table}.")
            case llm.ChatMessage(role="user"):
                self._send(content="Goodbye!")
            case _:
                self._send(content="Good evening, how can I help you?")

    def _send(self, **delta: Any) -> None:
        self._event_ch.send_nowait(llm.ChatChunk(id="answer", delta=llm.ChoiceDelta(role="assistant", **delta)))
        usage = llm.CompletionUsage(prompt_tokens=20, completion_tokens=8, total_tokens=28)
        self._event_ch.send_nowait(llm.ChatChunk(id="answer", usage=usage))
