"""One Twilio Media Stream as the worker sees it: what arrives, as Twilio sends it, and what can be sent back.

The messages are those of https://www.twilio.com/docs/voice/media-streams/websocket-messages: `connected`, `start`,
`media`, `mark`, `dtmf` and `stop` from Twilio; `media`, `mark` and `clear` to it.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

from fastapi import WebSocket


class HungUpError(Exception):
    """Twilio has stopped the stream: the caller has hung up."""

    reason = "hung_up"


@dataclass
class MediaStream:
    """An accepted WebSocket whose `start` message has arrived."""

    socket: WebSocket
    stream_sid: str
    call_sid: str
    parameters: dict[str, str] = field(default_factory=dict)
    """What the TwiML's `<Parameter>` elements said."""

    @classmethod
    async def accept(cls, socket: WebSocket) -> MediaStream:
        """Accept a connection, and wait for `start`; `connected` comes before it."""
        await socket.accept()
        while (message := await socket.receive_json())["event"] != "start":
            pass
        start = message["start"]
        return cls(socket, start["streamSid"], start["callSid"], start.get("customParameters", {}))

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """What arrives until the stream is stopped.

        Raises:
            HungUpError: the caller is gone.
            WebSocketDisconnect: only the connection is; the caller may still be on the line.
        """
        while (message := await self.socket.receive_json())["event"] != "stop":
            yield message
        raise HungUpError

    async def play(self, frames: Iterable[bytes], mark: str) -> None:
        """Queue audio at Twilio, mu-law at 8,000 Hz; Twilio sends the mark back when it has been played."""
        for frame in frames:
            await self._send("media", media={"payload": base64.b64encode(frame).decode()})
        await self._send("mark", mark={"name": mark})

    async def clear(self) -> None:
        """Drop what is queued at Twilio; the marks in it come back at once."""
        await self._send("clear")

    async def _send(self, event: str, **members: Any) -> None:
        await self.socket.send_json({"event": event, "streamSid": self.stream_sid, **members})
