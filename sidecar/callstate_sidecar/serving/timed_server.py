"""A server that measures how long requests take, by method, if `metrics.listen` asks for it.

A request's duration begins when its line has been read and decoded, and ends when its reply has been handed to the
kernel: after its group was written to the journal, and with durability `power` after the sync as well. So it
includes a wait for the store, and for the other requests of the same turn of the loop.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import perf_counter
from typing import Final

from callstate_client.engine.engine import Engine
from callstate_client.engine.long_result import Result
from callstate_client.engine.request import DecodedRequest
from callstate_sidecar.config.schema import LimitsConfig
from callstate_sidecar.histogram import Histogram
from callstate_sidecar.journal import Journal, SyncGate
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.serving.connection import ClientConnection
from callstate_sidecar.serving.group_commit import GroupCommit
from callstate_sidecar.serving.server import Server

BOUNDS_S: Final = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0,
)  # fmt: skip
"""Upper bounds of the buckets, seconds: from the fastest heartbeat to a store that is nearly down."""


class _TimedGroups(GroupCommit):
    """Groups that report their end."""

    @staticmethod
    def sent() -> None:
        """Called when the replies of a turn have been handed on; the server puts its own in this place."""

    def end(self, now: float = 0.0) -> None:
        GroupCommit.end(self, now)
        self.sent()


class TimedServer(Server):
    """A Server with a histogram of durations for each method.

    A class of its own, so that a daemon without metrics pays nothing. The parameters are those of Server.
    """

    _groups = _TimedGroups

    def __init__(
        self,
        engine: Engine,
        journal: Journal | None,
        metrics: Metrics,
        limits: LimitsConfig,
        gate: SyncGate | None = None,
        fit: int = sys.maxsize,
    ) -> None:
        super().__init__(engine, journal, metrics, limits, gate, fit)
        self._answered: list[tuple[str, float]] = []
        """The requests whose replies leave at the end of this turn: their method, and when they began."""
        self.durations: dict[str, Histogram] = {}
        self._gate = gate
        self._began: dict[int, float] = {}
        """When each request that waits began, by the identity of its object."""
        self._resumed = 0.0
        """When the request began that runs again after a wait; 0: it is another one's first time."""
        self.group.sent = self._sent  # type: ignore[attr-defined]  # it is a _TimedGroups

    def _run(self, connection: ClientConnection, request: DecodedRequest) -> None:
        began = self._resumed or perf_counter()
        waiting = self.waiting
        Server._run(self, connection, request)
        if self.waiting > waiting:
            self._began[id(request)] = began
        elif request.request_id is not None:
            self._answered.append((request.verb.method, began))

    def _run_waiting(self, connection: ClientConnection, request: DecodedRequest) -> None:
        self._resumed = self._began.pop(id(request), 0.0)
        try:
            super()._run_waiting(connection, request)
        finally:
            self._resumed = 0.0

    def _answer_deferred(
        self,
        connection: ClientConnection,
        request: DecodedRequest,
        result: Result | Exception,
        again: bool,
        changed: bool = False,
    ) -> None:
        super()._answer_deferred(connection, request, result, again, changed)
        began = self._began.pop(id(request), 0.0)
        if began and request.request_id is not None:  # else it was run again
            self._answered.append((request.verb.method, began))

    def _sent(self) -> None:
        """A turn has ended: its replies are sent, or held until the journal is synced."""
        answered, self._answered = self._answered, []
        if self._gate is None:
            self._observe(answered)
        elif answered:
            self._gate.hold((_Batch(answered, self._observe),))

    def _observe(self, answered: list[tuple[str, float]]) -> None:
        now = perf_counter()
        durations = self.durations
        for method, began in answered:
            histogram = durations.get(method)
            if histogram is None:
                histogram = durations[method] = Histogram(BOUNDS_S)
            histogram.observe(now - began)


class _Batch:
    """The requests of one turn, held by the sync gate like their replies (HeldReplies)."""

    def __init__(
        self, answered: list[tuple[str, float]], observe: Callable[[list[tuple[str, float]]], None]
    ) -> None:
        self._answered = answered
        self._observe = observe

    def take(self) -> bytes:
        return b""

    def release(self, _data: Result, /) -> None:
        self._observe(self._answered)
