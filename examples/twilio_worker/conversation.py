"""What the agent says: it takes a table reservation, and can go on with one that another worker began.

All that it has to know is in the call: the answers so far in `recovery_data`, what was said in the history. So a
conversation that is continued needs no code of its own, but for an apology.
"""

from __future__ import annotations

import base64
from typing import NamedTuple

from callstate_client import CallHandle, TurnHandle
from media_stream import MediaStream
from speech import FRAME_MS, SILENCE, Recognizer, synthesize

QUESTIONS = {
    "people": "For how many people?",
    "day": "For which day?",
    "time": "At what time?",
    "name": "In what name?",
}


def next_sentence(answers: dict[str, str]) -> str:
    """In place of a language model: asks for what is missing, or says goodbye."""
    for slot, question in QUESTIONS.items():
        if slot not in answers:
            return question
    return "A table for {people}, {day} at {time}, for {name}. Goodbye!".format_map(answers)


class Sentence(NamedTuple):
    """What the agent is saying."""

    mark: str
    text: str
    turn: TurnHandle
    began_ms: int


class Conversation:
    """One caller on one stream, until everything is said."""

    def __init__(self, call: CallHandle, stream: MediaStream) -> None:
        self._call = call
        self._stream = stream
        self._answers: dict[str, str] = dict(call.state.recovery_data or {})
        self._recognizer = Recognizer()
        self._saying: Sentence | None = None
        self._marks = 0
        self._now_ms = 0
        """The stream's time, by Twilio's clock: since it began, milliseconds."""
        self._spoke_ms = 0
        """When the caller was last heard."""

    async def run(self) -> None:
        """Talk until the last sentence has been played.

        Raises:
            HungUpError: the caller has hung up.
            WebSocketDisconnect: the connection is gone.
        """
        opening = "Sorry, we were cut off. " if self._call.state.history else "Good evening! "
        await self._say(opening + next_sentence(self._answers))
        async for message in self._stream.messages():
            match message["event"]:
                case "media":
                    self._now_ms = int(message["media"]["timestamp"])
                    await self._hear(base64.b64decode(message["media"]["payload"]))
                case "dtmf":
                    self._spoke_ms = self._now_ms
                    await self._answer(message["dtmf"]["digit"], 0)
                case "mark" if self._saying is not None and message["mark"]["name"] == self._saying.mark:
                    self._saying = None
                    if self._complete:
                        return

    @property
    def _complete(self) -> bool:
        return len(self._answers) == len(QUESTIONS)

    async def _say(self, text: str, response_ms: int | None = None) -> None:
        frames = synthesize(text)
        self._marks += 1
        # queued: the audio does not wait for it
        turn = self._call.add_turn("agent", text, len(frames) * FRAME_MS, response_ms=response_ms)
        self._saying = Sentence(f"sentence-{self._marks}", text, turn, self._now_ms)
        await self._stream.play(frames, self._saying.mark)

    async def _hear(self, frame: bytes) -> None:
        if frame != SILENCE:
            self._spoke_ms = self._now_ms
        said = self._recognizer.hear(frame)
        if self._recognizer.so_far and self._saying is not None:
            await self._interrupt(self._saying)
        if said is not None:
            await self._answer(said, len(said) * FRAME_MS)

    async def _interrupt(self, sentence: Sentence) -> None:
        """The caller speaks over the agent: be quiet, and keep only what was heard."""
        self._saying = None
        await self._stream.clear()
        heard_ms = self._now_ms - sentence.began_ms
        heard = sentence.text[: heard_ms // FRAME_MS]
        sentence.turn.amend(content=heard, duration_ms=heard_ms, extra={"interrupted": True})
        self._call.record_interruption()

    async def _answer(self, text: str, duration_ms: int) -> None:
        self._call.add_turn("user", text, duration_ms)
        missing = [slot for slot in QUESTIONS if slot not in self._answers]
        if missing:
            self._answers[missing[0]] = text
            self._call.update(recovery_data=self._answers)
        await self._say(next_sentence(self._answers), self._now_ms - self._spoke_ms)
