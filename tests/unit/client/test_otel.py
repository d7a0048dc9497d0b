"""Spans and metrics of a store, by the real SDK with exporters in memory."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="the OpenTelemetry SDK is not installed: make")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from callstate_client import (
    CallStore,
    ConflictError,
    MemoryStore,
    SessionNotFoundError,
    SessionState,
    connect,
    sync,
)
from callstate_client.otel import OpenTelemetry
from support.daemon import Daemon


class Collected:
    """What was reported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.telemetry = OpenTelemetry(self.tracers, MeterProvider([self.reader]))

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def span(self, method: str) -> ReadableSpan:
        """The last one of a method."""
        return next(span for span in reversed(self.spans) if span.name == f"callstate {method}")

    def points(self, name: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        found = [] if data is None else [
            metric.data.data_points
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == f"callstate.client.{name}"
        ]  # fmt: skip
        return [point for points in found for point in points]

    def total(self, name: str) -> int:
        return sum(point.value for point in self.points(name))


@pytest.fixture
def collected() -> Iterator[Collected]:
    collected = Collected()
    yield collected
    collected.tracers.shutdown()


@pytest.fixture(scope="module")
def running_daemon() -> Iterator[Daemon]:
    with Daemon() as daemon:
        yield daemon


@pytest.fixture(params=["memory", pytest.param("daemon", marks=pytest.mark.system)])
async def store(request: pytest.FixtureRequest, collected: Collected) -> AsyncIterator[CallStore]:
    if request.param == "memory":
        async with MemoryStore(telemetry=collected.telemetry) as store:
            yield store
        return
    daemon: Daemon = request.getfixturevalue("running_daemon")
    async with connect(daemon.socket, telemetry=collected.telemetry) as store:
        yield store
    async with connect(daemon.socket, register=False) as operator:
        for session_id in [record.state.id async for record in operator.sessions()]:
            await operator.delete(session_id)


async def test_each_request_is_a_span(store: CallStore, collected: Collected) -> None:
    with collected.tracers.get_tracer("worker").start_as_current_span("call") as parent:
        async with store.hold(SessionState("c1", from_="+15550100")) as call:
            await call.add_turn("user", "my card number is four-one-one-one")
    saved, added, ended = (collected.span(f"session.{verb}") for verb in ("save", "add_turn", "end"))
    for span in (saved, added, ended):
        assert span.kind is SpanKind.CLIENT
        assert span.status.status_code is StatusCode.UNSET
        assert span.parent is not None
        assert span.parent.span_id == parent.get_span_context().span_id
    assert dict(added.attributes or {}) == {
        "rpc.system": "jsonrpc", "rpc.jsonrpc.version": "2.0", "rpc.method": "session.add_turn",
        "callstate.session_id": "c1",
    }  # fmt: skip
    everything = "".join(span.to_json() for span in collected.spans)
    assert "four-one" not in everything
    assert "+1555" not in everything


async def test_an_error_is_in_its_span_and_in_the_durations(store: CallStore, collected: Collected) -> None:
    with pytest.raises(SessionNotFoundError):
        await store.load("nobody")
    span = collected.span("session.load")
    assert span.status.status_code is StatusCode.ERROR
    attributes = dict(span.attributes or {})
    assert (attributes["error.type"], attributes["rpc.jsonrpc.error_code"]) == ("not_found", -32001)
    assert not span.events, "no message, no traceback"
    [point] = [
        point for point in collected.points("request.duration") if point.attributes["rpc.method"] == "session.load"
    ]
    assert point.attributes == {
        "rpc.system": "jsonrpc", "rpc.jsonrpc.version": "2.0", "rpc.method": "session.load",
        "error.type": "not_found",
    }  # fmt: skip
    assert (point.count, 0 < point.sum < 60) == (1, True)


async def test_calls_are_counted(store: CallStore, collected: Collected) -> None:
    async with store.hold(SessionState("c1")) as call:
        assert collected.total("calls.held") == 1
        async with store.hold(SessionState("c2")):
            assert collected.total("calls.held") == 2
        assert (collected.total("calls.held"), collected.total("calls.lost")) == (1, 0)
        async with store.hold(SessionState("c1"), resume=True) as later:
            assert call.lost
            assert collected.total("calls.held") == 1
            [point] = collected.points("calls.lost")
            assert (point.value, point.attributes) == (1, {"error.type": "fenced"})
            await later.release()
    assert collected.total("calls.held") == 0
    with pytest.raises(ConflictError):
        async with store.hold(SessionState("c1")):
            pytest.fail("it is there")
    async for call in store.recover():
        assert (collected.total("calls.recovered"), collected.total("calls.held")) == (1, 1)
        await call.close()
    assert collected.total("calls.held") == 0


async def test_heartbeats_are_left_out(store: CallStore, collected: Collected) -> None:
    async with store.hold(SessionState("c1"), beat="manual") as call:
        await call.beat()
        await store.update_heartbeat("c1")
    assert not [span for span in collected.spans if "heartbeat" in span.name]


async def test_a_request_that_gets_no_reply_is_an_error(collected: Collected) -> None:
    store = MemoryStore(telemetry=collected.telemetry)
    await store.close()
    with pytest.raises(Exception, match="closed"):
        await store.load("c1")
    attributes = dict(collected.span("session.load").attributes or {})
    assert attributes["error.type"] == "StoreClosedError"


async def test_without_an_observer_a_request_is_the_stores_own() -> None:
    async with MemoryStore() as store:
        assert "request" not in vars(store)
        assert store._telemetry is None


@pytest.mark.system
def test_the_blocking_front_reports_the_same(running_daemon: Daemon, collected: Collected) -> None:
    held_elsewhere, finish = threading.Event(), threading.Event()

    def hold_another() -> None:
        with store.hold(SessionState("c2")):
            held_elsewhere.set()
            finish.wait(30)

    with sync.connect(running_daemon.socket, worker_id="w1", telemetry=collected.telemetry) as store:
        other = threading.Thread(target=hold_another)
        other.start()
        assert held_elsewhere.wait(30)
        with store.hold(SessionState("c1")) as call:
            call.add_turn("user", "hello")
            store.update_heartbeat("c1")
            assert collected.total("calls.held") == 2
            with store.hold(SessionState("c1"), resume=True) as later:
                assert (collected.total("calls.held"), collected.total("calls.lost")) == (2, 1)
                later.release()
        finish.set()
        other.join(30)
        assert collected.total("calls.held") == 0
        with pytest.raises(SessionNotFoundError):
            store.load("nobody")
        for recovered in store.recover():
            assert (recovered.id, collected.total("calls.recovered")) == ("c1", 1)
            recovered.end()
            recovered.release()
        assert collected.total("calls.held") == 0
        for session_id in ("c1", "c2"):
            store.delete(session_id)
    assert dict(collected.span("session.load").attributes or {})["error.type"] == "not_found"
    assert dict(collected.span("session.add_turn").attributes or {})["callstate.session_id"] == "c1"
    assert not [span for span in collected.spans if "heartbeat" in span.name]
