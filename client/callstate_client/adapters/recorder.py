"""What adapters of voice frameworks write into a held call: turns, interruptions, response times.

A framework reports what happened from callbacks that nothing awaits, and in which an exception would end its
pipeline. So what the call refuses is logged here, and the conversation goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from math import isfinite
from typing import Any, TypeVar

from callstate_client.calls.handle import CallHandle
from callstate_client.calls.queued import TurnHandle
from callstate_client.errors import CallstateError
from callstate_client.model.tools import (
    ToolCall,
    answered_call,
    as_json_text,
    tool_call,
    tool_calls_of,
    tool_result,
)
from callstate_client.model.words import Role

__all__ = ["Recorder"]

ResultT = TypeVar("ResultT")

_log = logging.getLogger("callstate.adapters")


class Recorder:
    """Writes into one call.

    Args:
        call: held by this worker. Its history says which tool calls are known already.
    """

    def __init__(self, call: CallHandle) -> None:
        self.call = call
        self._asked = {asked["id"] for turn in call.state.history for asked in tool_calls_of(turn)}
        self._answered = {answered for turn in call.state.history if (answered := answered_call(turn)) is not None}

    def said(
        self,
        role: str,
        text: str,
        duration_ms: float = 0,
        *,
        at: datetime | None = None,
        extra: dict[str, Any] | None = None,
        response_ms: float | None = None,
    ) -> TurnHandle | None:
        """Add a turn; None if it was refused. Times that are no numbers of milliseconds are left out."""
        waited_ms = _whole(response_ms)
        return self._try(
            lambda: self.call.add_turn(
                role, text, _whole(duration_ms) or 0, at=at, extra=extra or None, response_ms=waited_ms
            )
        )

    def interrupted(self) -> None:
        """Count an interruption."""
        self._try(self.call.record_interruption)

    def asked(self, call_id: str, name: str, arguments: Any, *, at: datetime | None = None) -> None:
        """Add a tool call, unless it is there and unanswered."""
        if call_id in self._asked and call_id not in self._answered:
            return

        def add() -> None:
            asked: ToolCall = tool_call(call_id, name, arguments)
            self.call.add_turn(Role.AGENT, "", at=at, extra={"tool_calls": [asked]})
            self._asked.add(call_id)
            self._answered.discard(call_id)

        self._try(add)

    def answered(self, call_id: str, name: str, result: Any, *, at: datetime | None = None) -> None:
        """Add the result of a tool call, unless it has one."""
        if call_id in self._answered:
            return

        def add() -> None:
            self.call.add_turn(Role.TOOL, as_json_text(result), at=at, extra=tool_result(call_id, name))
            self._answered.add(call_id)

        self._try(add)

    def used(self, amounts: dict[str, int]) -> None:
        """Add to counters among the call's metrics; those that are 0 change nothing."""
        extra = self.call.state.metrics.extra
        before = {name: extra.get(name) for name in amounts}
        figures = {
            name: amount + (counted if isinstance(counted, int) else 0)
            for (name, amount), counted in zip(amounts.items(), before.values(), strict=True)
            if amount
        }
        if figures:
            self.measured(figures)

    def measured(self, figures: dict[str, Any]) -> None:
        """Set members of the call's metrics."""
        self._try(lambda: self.call.update(metrics=figures))

    def _try(self, change: Callable[[], ResultT]) -> ResultT | None:
        try:
            return change()
        except CallstateError as error:
            if self.call.is_held:
                _log.warning("%s: not kept: %s", self.call.id, error)
            return None


def _whole(measured_ms: float | None) -> int | None:
    """A time that a framework has measured; None if it has not, or is NaN or infinite."""
    return None if measured_ms is None or not isfinite(measured_ms) else round(max(measured_ms, 0))
