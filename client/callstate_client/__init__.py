"""callstate: keep the state of live phone calls where a crash can't take it.

async with connect() as store:
    async with store.hold(SessionState(id="c1", provider="twilio", from_=caller, to=callee)) as call:
        call.add_turn("user", "hello", duration_ms=900)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from callstate_client.errors import (
    BeforeSendError,
    CallstateError,
    ConflictError,
    ConnectionLostError,
    DocumentError,
    FencedError,
    ForbiddenError,
    InternalError,
    InvalidParamsError,
    InvalidRequestError,
    MethodNotFoundError,
    NoDaemonError,
    NotDurableError,
    OverloadedError,
    ParseError,
    RequestTimeoutError,
    SessionEndedError,
    SessionNotFoundError,
    ShuttingDownError,
    StoreClosedError,
    StoreUnavailableError,
    TooLargeError,
    UndeliveredError,
    UnreadableError,
    UnsupportedProtocolError,
    WireError,
)
from callstate_client.model.state import Direction, History, Role, SessionMetrics, SessionState, Status, Turn
from callstate_client.protocol.events import Cursor, Event
from callstate_client.store import HealthChecker, Namer, Record, SessionStore

if TYPE_CHECKING:
    from callstate_client.api import CallStore
    from callstate_client.calls.handle import CallHandle
    from callstate_client.calls.queued import Queued, TurnHandle
    from callstate_client.client import SidecarStore, connect
    from callstate_client.clock import Clock
    from callstate_client.memory import MemoryStore
    from callstate_client.model.tools import ToolCall, tool_call, tool_calls_of, tool_result, unanswered_calls
    from callstate_client.requests.redaction import BeforeSend

__all__ = [
    "BeforeSend",
    "BeforeSendError",
    "CallHandle",
    "CallStore",
    "CallstateError",
    "Clock",
    "ConflictError",
    "ConnectionLostError",
    "Cursor",
    "Direction",
    "DocumentError",
    "Event",
    "FencedError",
    "ForbiddenError",
    "HealthChecker",
    "History",
    "InternalError",
    "InvalidParamsError",
    "InvalidRequestError",
    "MemoryStore",
    "MethodNotFoundError",
    "Namer",
    "NoDaemonError",
    "NotDurableError",
    "OverloadedError",
    "ParseError",
    "Queued",
    "Record",
    "RequestTimeoutError",
    "Role",
    "SessionEndedError",
    "SessionMetrics",
    "SessionNotFoundError",
    "SessionState",
    "SessionStore",
    "ShuttingDownError",
    "SidecarStore",
    "Status",
    "StoreClosedError",
    "StoreUnavailableError",
    "TooLargeError",
    "ToolCall",
    "Turn",
    "TurnHandle",
    "UndeliveredError",
    "UnreadableError",
    "UnsupportedProtocolError",
    "WireError",
    "connect",
    "tool_call",
    "tool_calls_of",
    "tool_result",
    "unanswered_calls",
]

_LAZY = {
    "BeforeSend": "requests.redaction",
    "CallHandle": "calls.handle",
    "CallStore": "api",
    "Clock": "clock",
    "MemoryStore": "memory",
    "Queued": "calls.queued",
    "SidecarStore": "client",
    "ToolCall": "model.tools",
    "TurnHandle": "calls.queued",
    "connect": "client",
    "tool_call": "model.tools",
    "tool_calls_of": "model.tools",
    "tool_result": "model.tools",
    "unanswered_calls": "model.tools",
}
"""Names whose modules are loaded when they are first used: the blocking front needs no asyncio, and a worker that
talks to a daemon no engine of its own."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
