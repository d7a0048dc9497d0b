"""`before_send`: the worker's own function that each turn passes before it leaves the process, to redact it.

What the function returns is what the worker's view of the call has from then on, so the view and the daemon's state
stay equal, and a worker that continues the call sees the same. If it fails, nothing is sent and nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from inspect import iscoroutinefunction
from typing import Any

from callstate_client.errors import BeforeSendError
from callstate_client.model.members import encode_members
from callstate_client.model.state import History, SessionState
from callstate_client.model.turn import Turn, decode_turn
from callstate_client.model.wellformed import turn_values
from callstate_client.requests import validation

__all__ = ["BeforeSend", "Redaction"]

BeforeSend = Callable[[str, Turn], Turn]
"""Gets a session's id and a copy of a turn that is about to be sent; returns what is sent in its place."""


class Redaction:
    """Applies the function of one store.

    Every method raises BeforeSendError if the function raises an exception, or returns anything but a Turn.

    Args:
        before_send: the function. It may get a turn that it has returned before.

    Raises:
        TypeError: this can't be called, or is a coroutine function.
    """

    __slots__ = ("_before_send",)

    def __init__(self, before_send: BeforeSend) -> None:
        given: object = before_send
        if not callable(given) or iscoroutinefunction(given):
            raise TypeError(f"before_send must be a function of a session id and a Turn, not {given!r}")
        self._before_send = before_send

    @classmethod
    def of(cls, before_send: BeforeSend | None) -> Redaction | None:
        """None for no function."""
        return None if before_send is None else cls(before_send)

    def turn(self, session_id: str, turn: Turn) -> Turn:
        """The turn to send in place of this one, which is not changed.

        Raises:
            DocumentError: this one can't be sent in any case.
        """
        validation.check_turn(turn)
        copied = decode_turn(encode_members(turn.to_dict()))
        try:
            sent: object = self._before_send(session_id, copied)
        except Exception as error:
            # without the exception's text, which may be that of the turn
            text = f"before_send raised {type(error).__name__}, so the turn of {session_id} is not sent"
            raise BeforeSendError(text) from error
        if not isinstance(sent, Turn):
            text = (
                f"before_send returned {type(sent).__name__}, not a Turn, so the turn of {session_id} is not sent"
            )
            raise BeforeSendError(text)
        return sent

    def values(
        self,
        session_id: str,
        role: str,
        content: str,
        duration_ms: int,
        at: datetime | None,
        extra: dict[str, Any] | None,
    ) -> tuple[str, str, int, datetime, dict[str, Any] | None]:
        """The same for the values of a new turn."""
        role, content, duration_ms = turn_values(role, content, duration_ms)
        sent = self.turn(session_id, Turn(role, content, at, duration_ms, extra))
        return sent.role, sent.content, sent.duration_ms, sent.timestamp, sent.extra or None

    def patch(
        self, session_id: str, role: str | None, content: str | None, extra: dict[str, Any] | None
    ) -> tuple[str | None, dict[str, Any] | None]:
        """The same for a turn's amendment: the function gets a turn with what is changed, its content empty if that
        stays. Members that it takes out of `extra` are removed from the turn."""
        extra = extra or {}
        given = {name: value for name, value in extra.items() if value is not None}
        if content is None and not given:
            return content, extra
        role, text, _ = turn_values(role or "", content or "", 0)
        sent = self.turn(session_id, Turn(role, text, extra=given))
        removed: dict[str, Any] = dict.fromkeys(extra)
        return (None if content is None else sent.content), removed | sent.extra

    def history(self, state: SessionState) -> History:
        """The same for all turns of a state."""
        return History(self.turn(state.id, turn) for turn in state.history)

    def state(self, state: SessionState) -> SessionState:
        """A copy of a state to save in its place, with these turns."""
        copied = SessionState()
        copied.take_over(state)
        copied.history = self.history(state)
        return copied
