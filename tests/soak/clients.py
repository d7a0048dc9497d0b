"""Clients of a soak that are no workers: plain ones that check what they wrote, and subscribers to events."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soak.oracles import Calls, Losses, Stream, Violation, check_model, compare_streams
from support.oracle import RequestMaker, SessionModel, found_in

LINE_BYTES = 1 << 26
RETRY_S = 0.1
ANSWERED_WITHIN_S = 90.0
"""Far beyond any fault: a request without an answer by then is a violation of its own."""

REFUSALS = {"not_durable", "overloaded", "store_unavailable", "shutting_down"}
"""Refusals that a fault explains: nothing of the request has happened."""


class Line:
    """A connection that sends requests and reads lines.

    Args:
        socket: the daemon's.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._number = 0

    async def connect(self) -> None:
        """Connect, as often as that takes."""
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            while True:
                try:
                    self._streams = await asyncio.open_unix_connection(self._socket, limit=LINE_BYTES)
                except OSError:
                    await asyncio.sleep(RETRY_S)
                else:
                    return

    def send(self, request: dict[str, Any]) -> None:
        """Send a request.

        Raises:
            ConnectionError: the connection is lost.
        """
        assert self._streams is not None
        try:
            self._streams[1].write(json.dumps(request).encode() + b"\n")
        except RuntimeError as error:  # uvloop's, of a transport that is closed
            raise ConnectionError from error

    async def read(self) -> dict[str, Any]:
        """The next line.

        Raises:
            ConnectionError: there is none.
        """
        assert self._streams is not None
        line = await self._streams[0].readline()
        if not line.endswith(b"\n"):
            raise ConnectionError
        message: dict[str, Any] = json.loads(line)
        return message

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The reply to a request, sent again until there is one that no fault explains."""
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            while True:
                try:
                    if self._streams is None:
                        await self.connect()
                    self._number += 1
                    self.send({"jsonrpc": "2.0", "id": self._number, "method": method, "params": params})
                    reply = await self.read()
                except ConnectionError:
                    self.close()
                    await asyncio.sleep(RETRY_S)
                    continue
                if kind_of(reply) not in REFUSALS:
                    return reply
                await asyncio.sleep(RETRY_S)

    async def load(self, session_id: str) -> dict[str, Any] | None:
        """What `session.load` returns; None: there is no such session."""
        reply = await self.ask("session.load", {"session_id": session_id})
        if kind_of(reply) == "not_found":
            return None
        result: dict[str, Any] = reply["result"]
        return result

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def kind_of(reply: dict[str, Any]) -> str:
    """The kind of an error reply; empty for a result."""
    kind: str = reply.get("error", {}).get("data", {}).get("kind", "")
    return kind


class PlainClient:
    """Sends one request after another for each of its sessions, and knows what each must be.

    Args:
        socket: the daemon's.
        name: the beginning of its sessions' ids.
        seed: of its requests.
        losses: when the store has lost what it had.
    """

    SESSIONS = 4

    def __init__(self, socket: Path, name: str, seed: int, losses: Losses) -> None:
        self._line = Line(socket)
        self._maker = RequestMaker(seed)
        self._dice = random.Random(seed)
        self._losses = losses
        self.models = {f"{name}-{number}": SessionModel() for number in range(self.SESSIONS)}
        self._doubtful: dict[str, SessionModel] = {}
        """Sessions with a request without a reply: the state to which it leads."""
        self._touched = dict.fromkeys(self.models, 0.0)
        self.acknowledged = 0

    async def run(self, leaving: asyncio.Event) -> None:
        """Send requests until `leaving`."""
        while not leaving.is_set():
            try:
                await self._line.connect()
                await self.check()
                while not leaving.is_set():
                    await asyncio.wait_for(self._round(), ANSWERED_WITHIN_S)
                    await asyncio.sleep(self._dice.uniform(0, 0.05))
            except ConnectionError:
                await asyncio.sleep(RETRY_S)
            finally:
                self._line.close()

    async def _round(self) -> None:
        """A request for each session, all in flight at once: they share groups of the journal."""
        asked: dict[int, str] = {}
        for session_id, model in self.models.items():
            if len(model.turns) > 60:
                request = self._maker.ask("session.delete", {"session_id": session_id})
                self._maker.number += 1
                request["id"] = self._maker.number
            else:
                request = self._maker.next(session_id, model)
            asked[request["id"]] = session_id
            self._doubtful[session_id] = model.after(request)
            self._line.send(request)
        for _ in range(len(asked)):
            reply = await self._line.read()
            self._take(asked.pop(reply["id"]), reply)

    def _take(self, session_id: str, reply: dict[str, Any]) -> None:
        after = self._doubtful.pop(session_id)
        if "result" in reply:
            self._touched[session_id] = time.monotonic()
            self.models[session_id] = after
            self.acknowledged += 1
        elif kind_of(reply) not in REFUSALS:
            if self._may_be_lost(session_id):
                raise ConnectionError  # connect again, and see what is there
            raise Violation(f"{session_id} is {self.models[session_id]}, and was answered {reply}")

    def _may_be_lost(self, session_id: str) -> bool:
        """Whether the session may be the store's alone, or deleted there alone, and the store has lost what it had.

        What has ended leaves the daemon's memory, and deletions are remembered there only, until a restart.
        """
        model = self.models[session_id]
        return (model.status == "ended" or not model.exists) and self._losses.since(self._touched[session_id])

    async def check(self) -> None:
        """Each session is as it must be."""
        for session_id, model in self.models.items():
            reply = await self._line.ask("session.load", {"session_id": session_id})
            found = found_in(reply)
            if found != model and self._may_be_lost(session_id):
                self.models[session_id] = found
            else:
                possible = [model, self._doubtful.get(session_id, model)]
                self.models[session_id] = check_model(session_id, found, possible)
            self._doubtful.pop(session_id, None)


class Subscriber:
    """Subscribes to all retained events, and resumes where it was.

    Args:
        socket: the daemon's.
        calls: are told what the daemon has ended; None: another subscriber does that.
        patience_s: between two reconnects of its own, seconds; 0: it stays.
        seed: of when it reconnects.
    """

    def __init__(self, socket: Path, calls: Calls | None, patience_s: float, seed: int) -> None:
        self._line = Line(socket)
        self._calls = calls
        self._patience_s = patience_s
        self._dice = random.Random(seed)
        self.streams: dict[str, Stream] = {}
        self._current: str | None = None

    async def run(self) -> None:
        """Receive until cancelled."""
        while True:
            try:
                await self._line.connect()
                await self._subscribe()
            except (TimeoutError, ConnectionError):
                await asyncio.sleep(RETRY_S / 2)
            finally:
                self._line.close()

    async def _subscribe(self) -> None:
        params: dict[str, Any] = {}
        if self._current is not None:
            params["since"] = {"stream": self._current, "seq": self.streams[self._current].last}
        self._line.send({"jsonrpc": "2.0", "id": 1, "method": "events.subscribe", "params": params})
        reply = await self._line.read()
        if kind_of(reply) in REFUSALS:
            raise ConnectionError
        name, seq = reply["result"]["stream"], reply["result"]["seq"]
        resumed = name == self._current
        restarted = self._current is not None and not resumed
        if not resumed:
            self._current = name
            self.streams[name] = Stream(seq)
        async with asyncio.timeout(self._dice.uniform(0.5, 1.5) * self._patience_s or None):
            while True:
                event = (await self._line.read())["params"]
                if restarted and event["type"] != "gap":
                    raise Violation(f"a new stream began without a gap: {event}")
                restarted = False
                self.streams[name].received(event)
                if self._calls is not None and event["type"] == "expired":
                    self._calls.expired(event)


def compare(subscribers: Sequence[Subscriber]) -> int:
    """The first subscriber has received what each of the others has, and the other way round.

    Returns:
        how many events were compared.
    """
    first, *others = subscribers
    for other in others:
        for name in first.streams.keys() & other.streams.keys():
            compare_streams(first.streams[name], other.streams[name])
    return sum(len(stream.seqs) for stream in first.streams.values())
