"""Every error that callstate raises, and its wire form. Imports nothing of ours.

    CallstateError
    ├── WireError                   an error reply; code, kind, retryable, data
    │   ├── ParseError              -32700  parse_error
    │   ├── InvalidRequestError     -32600  invalid_request
    │   ├── MethodNotFoundError     -32601  method_not_found
    │   ├── InvalidParamsError      -32602  invalid_params      .path, .expected
    │   ├── InternalError           -32603  internal
    │   ├── SessionNotFoundError    -32001  not_found
    │   ├── SessionEndedError       -32002  session_ended       .ended_at, .reason
    │   ├── ConflictError           -32003  conflict            .version, .owner
    │   ├── FencedError             -32004  fenced              .epoch, .owner, .host
    │   ├── ShuttingDownError       -32005  shutting_down
    │   ├── StoreUnavailableError   -32006  store_unavailable
    │   ├── OverloadedError         -32007  overloaded
    │   ├── TooLargeError           -32008  too_large           .path
    │   ├── ForbiddenError          -32009  forbidden           .who, .what
    │   ├── NotDurableError         -32010  not_durable
    │   └── UnreadableError         -32011  unreadable          .version
    ├── StoreClosedError            the store was closed by its user
    ├── DocumentError               bytes that are not a session document
    ├── BeforeSendError             the worker's `before_send` failed; the turn was not sent
    ├── NoDaemonError               no daemon found; the text lists each path tried
    ├── UndeliveredError            what held calls had queued was not acknowledged in time
    ├── UnsupportedProtocolError    the daemon speaks another version of the protocol
    ├── ConnectionLostError         the connection was lost; the outcome is unknown
    └── RequestTimeoutError         no answer in time; the outcome is unknown

`retryable` says whether the same request, sent again a little later, may succeed without anything being repaired
first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class CallstateError(Exception):
    """Base of everything callstate raises on purpose."""

    retryable: bool = False


class WireError(CallstateError):
    """An error reply of the daemon (JSON-RPC 2.0, section 5.1).

    Args:
        message: one sentence for a person.
        data: the members of the reply's `error.data` other than `kind` and `retryable`.
    """

    code: int = -32603
    kind: str = "internal"

    def __init__(self, message: str = "", **data: Any) -> None:
        super().__init__(message or self.kind.replace("_", " "))
        self.data: dict[str, Any] = {name: value for name, value in data.items() if value is not None}

    @property
    def message(self) -> str:
        """The message that the error was raised with."""
        return str(self.args[0])

    def to_wire(self) -> dict[str, Any]:
        """The reply's `error` member."""
        return {
            "code": self.code,
            "message": self.message,
            "data": {"kind": self.kind, "retryable": self.retryable, **self.data},
        }


class ParseError(WireError):
    """The line is not JSON: a syntax error, invalid UTF-8, a lone surrogate, NaN, or nested too deeply."""

    code = -32700
    kind = "parse_error"


class InvalidRequestError(WireError):
    """The line is JSON but not a JSON-RPC 2.0 request. Batches are refused with this too."""

    code = -32600
    kind = "invalid_request"


class MethodNotFoundError(WireError):
    """The daemon has no such method."""

    code = -32601
    kind = "method_not_found"


class InvalidParamsError(WireError):
    """A parameter is missing, unknown or invalid. `path` is its place, `expected` what belongs there."""

    code = -32602
    kind = "invalid_params"

    @property
    def path(self) -> str:
        """The place, as a JSONPath: `$.params.session.metrics.turn_count`."""
        return str(self.data.get("path", "$.params"))

    @property
    def expected(self) -> str | None:
        """What belongs there, in words."""
        return self.data.get("expected")


class InternalError(WireError):
    """A bug in the daemon; its log has the traceback."""


class SessionNotFoundError(WireError):
    """There is no such session. If the daemon's store can't be read, it is `store_unavailable` instead."""

    code = -32001
    kind = "not_found"


class SessionEndedError(WireError):
    """The session has ended and accepts no more of this."""

    code = -32002
    kind = "session_ended"

    @property
    def ended_at(self) -> str | None:
        """When, as RFC 3339 text."""
        return self.data.get("ended_at")

    @property
    def reason(self) -> str | None:
        """Why: `completed`, `heartbeat_timeout`, a word of the worker's …"""
        return self.data.get("reason")


class ConflictError(WireError):
    """The state is not what the request presumes: another version or owner, or the session exists."""

    code = -32003
    kind = "conflict"

    @property
    def version(self) -> int | None:
        """The version of the session."""
        return self.data.get("version")

    @property
    def owner(self) -> str | None:
        """The worker that holds the session."""
        return self.data.get("owner")

    @property
    def status(self) -> str | None:
        """The status of the session that exists under the id to be created."""
        return self.data.get("status")

    @property
    def ended_at(self) -> str | None:
        """When that session ended, as RFC 3339 text; None if it has not."""
        return self.data.get("ended_at")

    @property
    def reason(self) -> str | None:
        """Why that session ended; None if it has not."""
        return self.data.get("reason")


class FencedError(WireError):
    """Another worker has the session: the epoch given is not, or no longer, the session's."""

    code = -32004
    kind = "fenced"

    @property
    def epoch(self) -> int | None:
        """The epoch of the session."""
        return self.data.get("epoch")

    @property
    def owner(self) -> str | None:
        """The worker that holds the session."""
        return self.data.get("owner")

    @property
    def host(self) -> str | None:
        """The host that holds the session."""
        return self.data.get("host")


class ShuttingDownError(WireError):
    """The daemon is stopping and accepts no new work."""

    code = -32005
    kind = "shutting_down"
    retryable = True


class StoreUnavailableError(WireError):
    """The answer needs the daemon's store, which can't be reached now."""

    code = -32006
    kind = "store_unavailable"
    retryable = True


class OverloadedError(WireError):
    """A limit was reached (connections, sessions, unwritten bytes). Live calls continue."""

    code = -32007
    kind = "overloaded"
    retryable = True


class TooLargeError(WireError):
    """A line over `limits.line_bytes`, a session over `limits.session_bytes`, or a head over `limits.head_bytes` or
    with too many values in it."""

    code = -32008
    kind = "too_large"

    @property
    def path(self) -> str | None:
        """The part of the request with too many values, as a JSONPath; None if it is the size that is too large."""
        return self.data.get("path")


class ForbiddenError(WireError):
    """The connection may not do that: it is registered as another worker, or its user has no right to."""

    code = -32009
    kind = "forbidden"

    @property
    def who(self) -> str | None:
        """The user that was refused, as the daemon sees it: `uid 1000, gid 1000`; None if it is not about users."""
        return self.data.get("who")

    @property
    def what(self) -> str | None:
        """What was refused: the verb, and the session: `session.load c1`."""
        return self.data.get("what")


class NotDurableError(WireError):
    """The journal could not be written, so the change was rolled back: it did not take effect."""

    code = -32010
    kind = "not_durable"
    retryable = True


class UnreadableError(WireError):
    """The store has something under this id that is not a session document of Go's or ours, or another session's.

    It is left unchanged: only a save whose `if_version` is this error's `version` replaces it. Or delete it.
    """

    code = -32011
    kind = "unreadable"

    @property
    def version(self) -> int | None:
        """Identifies this document, to be passed as `if_version`; None from a store without versions."""
        return self.data.get("version")


class StoreClosedError(CallstateError):
    """The store was used after its `close()`."""

    def __init__(self, message: str = "the store is closed") -> None:
        super().__init__(message)


class DocumentError(CallstateError, ValueError):
    """Bytes that are not a session document of Go's or ours."""


class BeforeSendError(CallstateError):
    """The `before_send` function of the store raised an exception, which is the cause, or returned no Turn.

    The turn was not sent, and nothing has changed.
    """


class NoDaemonError(CallstateError, ConnectionError):
    """No daemon was found. The text lists each path tried and why it could not be used.

    Args:
        message: one sentence for a person, and the paths.
        silent: something listens at one of them but did not answer in time.
        refused: a daemon is there, and takes no more connections now: it is overloaded.
    """

    retryable = True

    def __init__(self, message: str = "", *, silent: bool = False, refused: bool = False) -> None:
        super().__init__(message)
        self.silent = silent
        self.refused = refused


class UndeliveredError(CallstateError):
    """What held calls had queued was not acknowledged in time, when they were left or their store was closed.

    Args:
        message: one sentence for a person.
        unsent: how many mutations were never sent, and so did not take effect, by session.
        unknown: how many were sent and not answered, by session: whether they took effect is unknown.
        going_on: whether delivery continues in the background, as the store is open.
    """

    def __init__(
        self,
        message: str = "",
        unsent: Mapping[str, int] | None = None,
        unknown: Mapping[str, int] | None = None,
        *,
        going_on: bool = False,
    ) -> None:
        super().__init__(message or "what held calls had queued was not acknowledged in time")
        self.unsent = dict(unsent or {})
        self.unknown = dict(unknown or {})
        self.going_on = going_on


class UnsupportedProtocolError(CallstateError, ConnectionError):
    """The daemon speaks a version of the protocol that this client does not know: update one of the two.

    Args:
        message: one sentence for a person.
        spoken: the version that the daemon speaks.
    """

    def __init__(self, message: str = "", spoken: int | None = None) -> None:
        super().__init__(message or "the daemon speaks another version of the protocol")
        self.spoken = spoken


class ConnectionLostError(CallstateError, ConnectionError):
    """The connection was lost with a pending request that may not be repeated: its outcome is unknown."""

    retryable = True


class RequestTimeoutError(CallstateError, TimeoutError):
    """The daemon did not answer in time: the outcome of the request is unknown."""

    retryable = True


BY_CODE: Mapping[int, type[WireError]] = {
    cls.code: cls
    for cls in (
        ParseError,
        InvalidRequestError,
        MethodNotFoundError,
        InvalidParamsError,
        InternalError,
        SessionNotFoundError,
        SessionEndedError,
        ConflictError,
        FencedError,
        ShuttingDownError,
        StoreUnavailableError,
        OverloadedError,
        TooLargeError,
        ForbiddenError,
        NotDurableError,
        UnreadableError,
    )
}


def from_wire(code: int, message: str, data: Mapping[str, Any] | None = None) -> WireError:
    """The exception for an error reply.

    An unknown code, from a newer daemon, becomes a plain WireError of that code, with the `kind` and `retryable` of
    the reply: that is enough to know whether to try again.
    """
    said = dict(data or {})
    kind, retryable = said.pop("kind", None), said.pop("retryable", None)
    detail = {str(name): value for name, value in said.items()}
    cls = BY_CODE.get(code)
    if cls is not None:
        return cls(message, **detail)
    error = WireError(f"{message} (code {code})")
    error.code = code
    error.kind = kind if isinstance(kind, str) else "unknown"
    error.retryable = retryable is True
    error.data = detail
    return error
