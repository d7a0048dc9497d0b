"""In place of text to speech and a speech recognizer, for the worker and for the fake caller: no model, no account.

A character is one frame of 20 ms, 160 bytes of mu-law at 8,000 Hz as Twilio carries it, each byte the character. So
audio is as long as the text, can be cut off in the middle, and is "recognized" without a mistake.
"""

from __future__ import annotations

FRAME_MS = 20
FRAME_BYTES = 160
SILENCE = b"\xff" * FRAME_BYTES
"""A frame in which nobody speaks, in mu-law."""

PAUSE_FRAMES = 10
"""So many silent frames, 200 ms, end an utterance."""


def synthesize(text: str) -> list[bytes]:
    """Frames in which the text, ASCII, is said."""
    return [bytes([character]) * FRAME_BYTES for character in text.encode("ascii")]


class Recognizer:
    """Takes frames, and gives what was said once the speaker has paused."""

    def __init__(self) -> None:
        self.so_far = ""
        """What was said since the last pause; empty while nobody speaks."""
        self._silent = 0

    def hear(self, frame: bytes) -> str | None:
        """The utterance that this frame ends, if it ends one."""
        if frame != SILENCE:
            self.so_far += chr(frame[0])
            self._silent = 0
            return None
        self._silent += 1
        if not self.so_far or self._silent < PAUSE_FRAMES:
            return None
        text, self.so_far = self.so_far, ""
        return text
