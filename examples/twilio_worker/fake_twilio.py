"""Twilio's side of a call, and its caller: fetches TwiML, opens the stream, plays and sends audio frame by frame.

It goes to the first worker that is ready, as a load balancer does. When a stream is closed it asks the `action`
URL, as Twilio does, and opens another one if it is told to. Time passes ten times as fast.

    python examples/twilio_worker/fake_twilio.py 127.0.0.1:8001 127.0.0.1:8002
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode, urlsplit
from xml.etree.ElementTree import Element, fromstring

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from speech import FRAME_MS, SILENCE, Recognizer, synthesize

PUBLIC_URL = "https://voice.example.com"
"""Where the workers are for Twilio; the load balancer ends TLS."""

SPEED = 10
TIMEOUT_S = 20

Caller = Callable[[str, bool], str]
"""What the caller says, or nothing, having heard so much; the second argument: and then a pause. `#4` is a key."""


class HangUp(Exception):  # noqa: N818 - what the caller does, no error
    """Raised by the caller."""


def scripted_caller(heard: str, paused: bool) -> str:
    """Answers the questions; the second one before it was asked to its end."""
    if heard.endswith("For which") and not paused:
        return "Friday"
    answers = {"people?": "two", "time?": "eight o'clock", "name?": "Miller"}
    return next((answer for cue, answer in answers.items() if paused and heard.endswith(cue)), "")


class FakeTwilio:
    """One call.

    Args:
        workers: host and port of each.
        caller: who calls.
        report: told who said what.
    """

    def __init__(
        self, workers: Sequence[tuple[str, int]], caller: Caller, report: Callable[[str, str], None]
    ) -> None:
        self.call_sid = "CA0123456789abcdef0123456789abcdef"
        self.streams = 0
        self._workers = workers
        self._caller = caller
        self._report = report

    # -- HTTP -----------------------------------------------------------------------------------------------

    def call(self) -> None:
        """From the first ring until the call is over."""
        response = self._fetch("/voice", "ringing")
        while (connection := response.find("Connect")) is not None:
            if self._hung_up_in(connection[0]):
                break
            response = self._fetch(urlsplit(connection.attrib["action"]).path, "in-progress")
        self._post("/voice/status", "completed")

    def _fetch(self, path: str, status: str) -> Element:
        return fromstring(self._post(path, status))  # noqa: S314 - from our own worker

    def _post(self, path: str, status: str) -> bytes:
        form = {
            "CallSid": self.call_sid,
            "AccountSid": "AC0123456789abcdef0123456789abcdef",
            "From": "+15550100",
            "To": "+15550199",
            "CallStatus": status,
            "Direction": "inbound",
        }
        code, body = self._request(self._ready_worker(), "POST", path, urlencode(form))
        if code >= http.HTTPStatus.BAD_REQUEST:
            raise ConnectionError(f"{path} answers {code}: {body.decode()}")
        return body

    def _ready_worker(self) -> tuple[str, int]:
        """The first one that takes calls."""
        for worker in self._workers:
            try:
                if self._request(worker, "GET", "/ready")[0] == http.HTTPStatus.NO_CONTENT:
                    return worker
            except OSError:
                continue  # it is dead
        raise ConnectionError("no worker is ready")

    def _caller_says(self, heard: str, paused: bool) -> str:
        reply = self._caller(heard, paused)
        if reply:
            self._report("caller", reply)
        return reply

    @staticmethod
    def _request(worker: tuple[str, int], method: str, path: str, body: str = "") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(*worker, timeout=TIMEOUT_S)
        url = urlsplit(PUBLIC_URL)
        headers = {
            "Host": url.netloc,
            "X-Forwarded-Proto": url.scheme,
            "Content-Type": "application/x-www-form-urlencoded",
        }
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    # -- the stream -----------------------------------------------------------------------------------------

    def _hung_up_in(self, stream: Element) -> bool:
        """Run a stream; whether the caller has ended it."""
        self.streams += 1
        parameters = {each.attrib["name"]: each.attrib["value"] for each in stream}
        url = stream.attrib["url"].replace("wss:", "ws:", 1)
        connection = socket.create_connection(self._ready_worker(), TIMEOUT_S)
        with connect(url, sock=connection, compression=None) as websocket:
            try:
                _Stream(websocket, self.call_sid, self.streams, parameters).run(self._caller_says, self._report)
            except ConnectionClosed:
                self._report("twilio", "the stream was closed")
            except HangUp:
                self._report("caller", "(hangs up)")
                return True
        return False


class _Stream:
    """One connection, from `connected` to `stop`."""

    def __init__(self, websocket: ClientConnection, call_sid: str, number: int, parameters: dict[str, str]) -> None:
        self._websocket = websocket
        self._sid = f"MZ{number:032x}"
        self._account = "AC0123456789abcdef0123456789abcdef"
        self._call_sid = call_sid
        self._sequence = 0
        self._to_play: deque[bytes | str] = deque()
        """Frames, and the names of marks."""
        websocket.send(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
        start = {
            "accountSid": self._account,
            "streamSid": self._sid,
            "callSid": call_sid,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": parameters,
        }
        self._send("start", start=start)

    def _send(self, event: str, **members: Any) -> None:
        self._sequence += 1
        message = {"event": event, "sequenceNumber": str(self._sequence), "streamSid": self._sid, **members}
        self._websocket.send(json.dumps(message))

    def run(self, caller: Caller, report: Callable[[str, str], None]) -> None:
        """Frame by frame, both ways, until the worker closes the connection or the caller hangs up."""
        ears = Recognizer()
        to_say: deque[bytes] = deque()
        began = time.monotonic()
        chunk = 0
        try:
            while True:
                chunk += 1
                self._receive(began + chunk * FRAME_MS / 1000 / SPEED)
                frame = self._played()
                sentence = ears.hear(frame)
                if sentence is not None:
                    report("agent", sentence)
                if sentence is not None or frame != SILENCE:
                    reply = caller(sentence or ears.so_far, sentence is not None)
                    if reply.startswith("#"):
                        self._send("dtmf", dtmf={"track": "inbound_track", "digit": reply[1:]})
                    else:
                        to_say.extend(synthesize(reply))
                payload = base64.b64encode(to_say.popleft() if to_say else SILENCE).decode()
                media = {
                    "track": "inbound",
                    "chunk": str(chunk),
                    "timestamp": str(chunk * FRAME_MS),
                    "payload": payload,
                }
                self._send("media", media=media)
        except HangUp:
            with suppress(ConnectionClosed):  # at the same time as the worker died
                self._send("stop", stop={"accountSid": self._account, "callSid": self._call_sid})
            raise
        finally:
            if ears.so_far:
                report("agent", ears.so_far)

    def _receive(self, until: float) -> None:
        """Take what the worker sends in the time of one frame."""
        while (left := until - time.monotonic()) > 0:
            try:
                message = json.loads(self._websocket.recv(left))
            except TimeoutError:
                return
            match message["event"]:
                case "media":
                    self._to_play.append(base64.b64decode(message["media"]["payload"]))
                case "mark":
                    self._to_play.append(message["mark"]["name"])
                case "clear":
                    marks = [each for each in self._to_play if isinstance(each, str)]
                    self._to_play.clear()
                    for name in marks:
                        self._send("mark", mark={"name": name})

    def _played(self) -> bytes:
        """The frame that is heard now; marks before it have been reached."""
        while self._to_play:
            item = self._to_play.popleft()
            if isinstance(item, bytes):
                return item
            self._send("mark", mark={"name": item})
        return SILENCE


def main() -> None:
    """One call, with the workers that the arguments name."""
    workers = [(host, int(port)) for host, _, port in (each.rpartition(":") for each in sys.argv[1:])]
    if not workers:
        raise SystemExit("usage: fake_twilio.py HOST:PORT ...")
    FakeTwilio(workers, scripted_caller, lambda who, text: print(f"{who:<7} {text}", flush=True)).call()


if __name__ == "__main__":
    main()
