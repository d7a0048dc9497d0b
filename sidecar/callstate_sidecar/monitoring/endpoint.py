"""/metrics over HTTP, served by a thread with an event loop of its own.

The daemon's loop is asked for a snapshot of its figures only, some 100 µs. The text is made in the thread, which
gives way after each metric: it holds Python's global lock in pieces of less than a millisecond.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import chain
from typing import Final, cast

from prometheus_client import Metric  # pyright: ignore[reportMissingImports]
from prometheus_client.exposition import choose_encoder  # pyright: ignore[reportMissingImports]
from prometheus_client.process_collector import ProcessCollector  # pyright: ignore[reportMissingImports]
from prometheus_client.registry import Collector  # pyright: ignore[reportMissingImports]
from prometheus_client.samples import Sample  # pyright: ignore[reportMissingImports]

from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.monitoring.families import Snapshot, families

log = EventLog(__name__)

REQUEST_S: Final = 10.0
"""How long a client has for its request and its reply, seconds: Prometheus gives up after ten by default."""

HEAD_BYTES: Final = 16 * 1024
"""The longest request head: Prometheus sends some hundred bytes."""

CLIENTS: Final = 16
"""Clients served at a time; further ones are disconnected."""

GIVE_WAY_S: Final = 0.00005
"""Pause after each metric, so that the daemon's loop gets the global lock if it waits for it."""

PIECE: Final = 32
"""And after so many samples of one metric, which take about 100 µs."""

_TEXT: Final = "text/plain; charset=utf-8"


class Endpoint:
    """Serves /metrics on one listening socket.

    Args:
        listening: the socket; it is closed at the stop.
        loop: the daemon's loop.
        snapshot: takes the figures; called in the daemon's loop.
    """

    def __init__(
        self, listening: socket.socket, loop: asyncio.AbstractEventLoop, snapshot: Callable[[], Snapshot]
    ) -> None:
        self._listening = listening
        self._loop = loop
        self._snapshot = snapshot
        self._process = ProcessCollector(registry=None)
        self._own_loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._clients = 0
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Start serving."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving: requests in progress are dropped. Returns when the thread has ended."""
        self._own_loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._own_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        # not start_unix_server, which from Python 3.13 on removes the path by itself; this takes any socket
        server = await asyncio.start_server(self._client, sock=self._listening, limit=HEAD_BYTES)
        await self._stop.wait()
        server.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            if self._clients <= CLIENTS:
                async with asyncio.timeout(REQUEST_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(await self._response(head))
                    await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            log.debug(
                "metrics_client_cut_off", "a client of metrics.listen sent no request or did not read the reply"
            )
        finally:
            self._clients -= 1
            writer.close()

    async def _response(self, head: bytes) -> bytes:
        first, *lines = head.decode("latin-1").split("\r\n")
        method, _, rest = first.partition(" ")
        target = rest.partition(" ")[0].partition("?")[0]
        if method not in ("GET", "HEAD"):
            return _reply("405 Method Not Allowed", _TEXT, b"GET is expected\n")
        if target != "/metrics":
            return _reply("404 Not Found", _TEXT, b"the figures are at /metrics\n")
        accept = next((line[7:].strip() for line in lines if line[:7].lower() == "accept:"), "")
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number, which it compares with one
            encode, content_type = choose_encoder("")
        collector = cast("Collector", _Paced(await self._taken(), self._process))
        reply = _reply("200 OK", content_type, encode(collector))
        return reply.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == "HEAD" else reply

    async def _taken(self) -> Snapshot:
        taken: Future[Snapshot] = Future()

        def take() -> None:
            if not taken.set_running_or_notify_cancel():
                return
            try:
                taken.set_result(self._snapshot())
            except Exception as error:  # noqa: BLE001 - raised where it is awaited
                taken.set_exception(error)

        self._loop.call_soon_threadsafe(take)
        return await asyncio.wrap_future(taken)


class _Paced:
    """The metrics, with a pause after each (Collector).

    Args:
        snapshot: of the daemon's figures.
        process: the figures of the process, which it reads from /proc.
    """

    def __init__(self, snapshot: Snapshot, process: ProcessCollector) -> None:
        self._snapshot = snapshot
        self._process = process

    def collect(self) -> Iterator[Metric]:
        for metric in chain(families(self._snapshot), self._process.collect()):
            # the encoders read the samples once, in order
            metric.samples = cast("list[Sample]", _in_pieces(metric.samples))
            yield metric
            time.sleep(GIVE_WAY_S)


def _in_pieces(samples: list[Sample]) -> Iterator[Sample]:
    for number, sample in enumerate(samples, 1):
        yield sample
        if number % PIECE == 0:
            time.sleep(GIVE_WAY_S)


def _reply(status: str, content_type: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body
