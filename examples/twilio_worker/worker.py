"""A Twilio Media Streams worker whose calls survive it: FastAPI, with uvicorn and websockets.

A call's stream is a WebSocket to one worker. When that worker dies, or is replaced, Twilio asks the `action` URL of
`<Connect>` what to do next, and is told to open another stream: the worker that gets it resumes the call where the
first one lost it. `play.py` beside this shows it without an account at Twilio. With one:

    pip install 'callstate[fastapi]' uvicorn websockets
    python examples/twilio_worker/worker.py --port 8001 [--socket PATH]

and, at Twilio, for a number that reaches several such workers through a load balancer with TLS:

    A call comes in         https://voice.example.com/voice
    Call status changes     https://voice.example.com/voice/status

What a real one has besides: a check of Twilio's signature (X-Twilio-Signature) in the three HTTP endpoints, and a
secret among the stream's parameters.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress
from types import FrameType
from typing import Annotated
from urllib.parse import parse_qsl
from xml.etree.ElementTree import Element, SubElement, tostring

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request, Response, WebSocket, WebSocketDisconnect

from callstate_client import (
    CallstateError,
    CallStore,
    ConflictError,
    SessionEndedError,
    SessionNotFoundError,
    SessionState,
    Status,
)
from callstate_client.adapters.fastapi import get_store, lifespan
from conversation import Conversation
from media_stream import HungUpError, MediaStream

FINISH_S = 60.0
"""How long calls may go on after SIGTERM, seconds; the rest are released, and continue at another worker."""

SERVICE_RESTART = 1012
"""The WebSocket's close code (RFC 6455, IANA) of a worker that is replaced."""

OVER = ("completed", "busy", "failed", "no-answer", "canceled")
"""Twilio's CallStatus of calls that have ended."""

Store = Annotated[CallStore, Depends(get_store)]
routes = APIRouter()


async def form_of(request: Request) -> dict[str, str]:
    """What Twilio posts."""
    return dict(parse_qsl((await request.body()).decode()))


def twiml(response: Element) -> Response:
    """A document of TwiML."""
    return Response(tostring(response), media_type="application/xml")


def open_stream(request: Request, form: dict[str, str]) -> Response:
    """TwiML that opens a stream to a worker, and comes back to /voice/stream-ended when it is closed."""
    response = Element("Response")
    connect = SubElement(response, "Connect", action=str(request.url_for("stream_ended")))
    stream = SubElement(connect, "Stream", url=str(request.url_for("media")))
    for name in ("From", "To"):  # the stream itself does not say who calls
        SubElement(stream, "Parameter", name=name, value=form.get(name, ""))
    return twiml(response)


@routes.get("/ready")
async def ready(request: Request, store: Store) -> Response:
    """For the load balancer: whether calls may come here."""
    return Response(status_code=503 if request.app.state.leaving or store.draining else 204)


@routes.post("/voice")
async def voice(request: Request) -> Response:
    """A call comes in."""
    return open_stream(request, await form_of(request))


@routes.post("/voice/stream-ended")
async def stream_ended(request: Request, store: Store) -> Response:
    """The stream is closed, and the caller still there: hang up if all was said, else go on with another stream."""
    form = await form_of(request)
    try:
        record = await store.get(form["CallSid"], history="none")
    except SessionNotFoundError:  # the worker died before it held the call
        return open_stream(request, form)
    if record.state.status != Status.ENDED:
        return open_stream(request, form)
    response = Element("Response")
    SubElement(response, "Hangup")
    return twiml(response)


@routes.post("/voice/status")
async def status(request: Request, store: Store) -> Response:
    """A caller who hangs up between two streams is in neither: then the call is ended here.

    A worker that still holds it, and lives, gets the stream's `stop`, and ends it itself.
    """
    form = await form_of(request)
    if form["CallStatus"] in OVER:
        with suppress(SessionNotFoundError, SessionEndedError, ConflictError):
            await store.claim(form["CallSid"], history="none")
            await store.end(form["CallSid"], HungUpError.reason)
    return Response(status_code=204)


@routes.websocket("/media")
async def media(socket: WebSocket, store: Store) -> None:
    """A stream: of a new call, or of one that continues."""
    with suppress(WebSocketDisconnect, HungUpError):  # the block below has released the call, or ended it
        stream = await MediaStream.accept(socket)
        state = SessionState(
            stream.call_sid,
            provider="twilio",
            direction="inbound",
            from_=stream.parameters["From"],
            to=stream.parameters["To"],
            status=Status.ACTIVE,
            call_id=stream.call_sid,
        )
        # A call has one stream at a time, so the newest is the right one: a worker that still holds the call has
        # lost its connection, and hangs, or has not noticed yet. Hence `steal`.
        hold = store.hold(state, resume=True, steal=True, end_on=HungUpError, cancel_on_lost=True)
        try:
            async with hold as call:
                await Conversation(call, stream).run()
        except CallstateError as error:  # not taken, or lost: to another worker, or because this one is replaced
            await socket.close(SERVICE_RESTART, str(error)[:100])
        else:
            await socket.close()


class Server(uvicorn.Server):
    """uvicorn closes its WebSockets when it is told to stop; this lets their calls finish first."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, finish_s: float) -> None:
        super().__init__(config)
        self._app = app
        self._finish_s = finish_s
        self._leaving: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT, in the main thread; the second one does not wait."""
        if self._app.state.leaving or not self.started:
            super().handle_exit(sig, frame)
        else:
            self._app.state.leaving = True
            asyncio.get_running_loop().call_soon_threadsafe(self._leave_soon, sig)

    def _leave_soon(self, sig: int) -> None:
        self._leaving = asyncio.create_task(self._leave(sig))

    async def _leave(self, sig: int) -> None:
        await self._app.state.callstate.leave(self._finish_s)
        super().handle_exit(sig, None)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="a Twilio Media Streams worker")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8001, help="0: any that is free; it is logged")
    parser.add_argument("--socket", help="the daemon's; found by itself where left out")
    parser.add_argument("--finish-s", type=float, default=FINISH_S, help="how long calls may go on after SIGTERM")
    args = parser.parse_args()
    app = FastAPI(lifespan=lifespan(socket=args.socket, finish_s=args.finish_s))
    app.state.leaving = False
    app.include_router(routes)
    config = uvicorn.Config(app, host=args.host, port=args.port, ws="websockets-sansio", access_log=False)
    Server(config, app, args.finish_s).run()


if __name__ == "__main__":
    main()
