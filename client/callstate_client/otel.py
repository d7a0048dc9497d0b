"""OpenTelemetry of a worker's store: a span and a duration for each request, and counters of calls.

    from callstate_client.otel import OpenTelemetry

    async with connect(telemetry=OpenTelemetry()) as store: ...

Needs the extra `otel`, which is the API; what is done with the data is up to the SDK that the worker configures.
Names and attributes follow OpenTelemetry's conventions for RPC. Nothing of what was said, no numbers and no
recovery data are in them. Heartbeats are left out: they are many, and gathered from all calls.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Final, TypeVar, cast

import msgspec
from opentelemetry import metrics, trace  # pyright: ignore[reportMissingImports]
from opentelemetry.metrics import MeterProvider  # pyright: ignore[reportMissingImports]
from opentelemetry.trace import (  # pyright: ignore[reportMissingImports]
    Span,
    SpanKind,
    Status,
    StatusCode,
    TracerProvider,
)

from callstate_client.errors import CallstateError, StoreClosedError, WireError

__all__ = ["OpenTelemetry"]

NAME: Final = "callstate_client"
HEARTBEAT: Final = "session.heartbeat"
_ERROR: Final = b'"error":'
_HEAD_BYTES: Final = 64
"""An error reply has its `error` within this many bytes: after the version and the id."""

RequestT = TypeVar("RequestT", bound=Callable[..., Any])


class _ErrorData(msgspec.Struct, frozen=True):
    kind: str = "unknown"


class _Error(msgspec.Struct, frozen=True):
    code: int = 0
    data: _ErrorData = _ErrorData()


class _ErrorReply(msgspec.Struct):
    error: _Error | None = None


_decode = msgspec.json.Decoder(_ErrorReply).decode


class OpenTelemetry:
    """Reports to OpenTelemetry; see the module. For `telemetry` of `connect()` and `MemoryStore`.

    Args:
        tracer_provider, meter_provider: default the global ones.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._tracer = trace.get_tracer(NAME, tracer_provider=tracer_provider)
        meter = metrics.get_meter(NAME, meter_provider=meter_provider)
        self._durations = meter.create_histogram(
            "callstate.client.request.duration", "s", "From a request until its reply, reconnecting included."
        )
        self._held = meter.create_up_down_counter("callstate.client.calls.held", "{call}", "Calls held now.")
        self._lost = meter.create_counter("callstate.client.calls.lost", "{call}", "Calls lost while held.")
        self._recovered = meter.create_counter(
            "callstate.client.calls.recovered", "{call}", "Calls of dead workers that recover() has claimed."
        )

    # -- calls ------------------------------------------------------------------------------------------------

    def call_held(self) -> None:
        """See `Telemetry`."""
        self._held.add(1)

    def call_left(self, lost: CallstateError | None) -> None:
        """See `Telemetry`."""
        self._held.add(-1)
        if lost is not None and not isinstance(lost, StoreClosedError):
            self._lost.add(1, {"error.type": _kind(lost)})

    def call_recovered(self) -> None:
        """See `Telemetry`."""
        self._recovered.add(1)

    # -- requests ---------------------------------------------------------------------------------------------

    def observed(self, request: RequestT) -> RequestT:
        """See `Telemetry`."""

        def observe(
            method: str, params: Any = None, *, op_of: str | None = None, timeout_s: float | None = None
        ) -> Any:
            if method == HEARTBEAT:
                return request(method, params, op_of=op_of, timeout_s=timeout_s)
            observation = _Observation(self._tracer, self._durations, method, op_of, params)
            try:
                reply = request(method, params, op_of=op_of, timeout_s=timeout_s)
            except BaseException as error:
                observation.failed(error)
                raise
            if isinstance(reply, bytes):  # of the blocking front
                observation.answered(reply)
            elif hasattr(reply, "add_done_callback"):  # of a connection, which knows its futures
                reply.add_done_callback(observation.done)
            else:
                return observation.of(reply)
            return reply

        return cast("RequestT", observe)


class _Observation:
    """One request."""

    __slots__ = ("_attributes", "_began_s", "_durations", "_span")

    def __init__(self, tracer: Any, durations: Any, method: str, op_of: str | None, params: Any) -> None:
        self._durations = durations
        self._attributes: dict[str, str | int] = {
            "rpc.system": "jsonrpc", "rpc.jsonrpc.version": "2.0", "rpc.method": method,
        }  # fmt: skip
        session_id = op_of or getattr(params, "session_id", None)
        of_session = {} if session_id is None else {"callstate.session_id": session_id}
        self._span: Span = tracer.start_span(
            f"callstate {method}", kind=SpanKind.CLIENT, attributes=self._attributes | of_session
        )
        self._began_s = perf_counter()

    def answered(self, reply: bytes) -> None:
        """There is a reply, perhaps an error."""
        if _ERROR in reply[:_HEAD_BYTES]:
            error = _decode(reply).error or _Error()
            self._span.set_attribute("rpc.jsonrpc.error_code", error.code)
            self._fail(error.data.kind)
        self._end()

    def failed(self, error: BaseException) -> None:
        """There is none."""
        if isinstance(error, WireError):
            self._span.set_attribute("rpc.jsonrpc.error_code", error.code)
        self._fail(_kind(error))
        self._end()

    def done(self, reply: Any) -> None:
        """The future of the reply is done."""
        if reply.cancelled():
            self._fail("cancelled")
            self._end()
        elif (error := reply.exception()) is not None:
            self.failed(error)
        else:
            self.answered(reply.result())

    async def of(self, reply: Awaitable[bytes]) -> bytes:
        """Await the reply."""
        try:
            line = await reply
        except BaseException as error:
            self.failed(error)
            raise
        self.answered(line)
        return line

    def _fail(self, kind: str) -> None:
        self._attributes["error.type"] = kind
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR))

    def _end(self) -> None:
        self._durations.record(perf_counter() - self._began_s, self._attributes)
        self._span.end()


def _kind(error: BaseException) -> str:
    """The kind of a daemon's error, else the name of the class: few values, as metrics need them."""
    return error.kind if isinstance(error, WireError) else type(error).__name__
