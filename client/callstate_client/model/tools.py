"""Tool calls and their results in turns: the members that carry them, typed, and how they are written and read.

callstate stores these members as it stores any `extra`; the names and shapes are those of OpenAI's chat messages,
so that programs in other languages know them already. An `agent` turn has `tool_calls`; each result is a `tool`
turn with the `tool_call_id` that it answers, the result as its content, and the function's `name`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypedDict

import msgspec

from callstate_client.errors import DocumentError
from callstate_client.model.turn import Turn
from callstate_client.model.words import Role

__all__ = [
    "FunctionCall",
    "ToolCall",
    "answered_call",
    "as_json_text",
    "tool_call",
    "tool_calls_of",
    "tool_result",
    "unanswered_calls",
]

TOOL_CALLS: Final = "tool_calls"
TOOL_CALL_ID: Final = "tool_call_id"


class FunctionCall(TypedDict):
    """The function that the model wants called, and its arguments as the JSON text that the model wrote."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """One call of a tool; `id` pairs it with its result."""

    id: str
    type: Literal["function"]
    function: FunctionCall


def tool_call(call_id: str, name: str, arguments: Mapping[str, Any] | str = "{}") -> ToolCall:
    """A call of a tool, for `extra={"tool_calls": [...]}` of an agent's turn.

    Args:
        call_id: what the result will name; unique among the calls that await a result.
        name: the function.
        arguments: as the model wrote them, or an object, which is encoded.

    Raises:
        DocumentError: the arguments can't be written as JSON.
    """
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": as_json_text(arguments)}}


def tool_result(call_id: str, name: str = "") -> dict[str, Any]:
    """The `extra` of a `tool` turn, whose content is the result as text.

    Args:
        call_id: the id of the call that it answers.
        name: the function; left out if empty.
    """
    return {TOOL_CALL_ID: call_id, "name": name} if name else {TOOL_CALL_ID: call_id}


def as_json_text(value: object) -> str:
    """A text as it is, any other value as JSON: for arguments and results.

    Raises:
        DocumentError: it can't be written as JSON.
    """
    if isinstance(value, str):
        return value
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise DocumentError(f"arguments and results of tools must be JSON: {error}") from error


def tool_calls_of(turn: Turn) -> list[ToolCall]:
    """The calls that a turn asks for; those that have another shape, as another program may have written them, are
    left out."""
    calls = turn.to_dict().get(TOOL_CALLS) if turn.has_extra else None
    return [call for call in calls if _is_call(call)] if isinstance(calls, list) else []


def _is_call(call: Any) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return False
    return all(isinstance(text, str) for text in (call.get("id"), function.get("name"), function.get("arguments")))


def answered_call(turn: Turn) -> str | None:
    """The id of the call that a `tool` turn answers; None for every other turn."""
    if turn.role != Role.TOOL:
        return None
    call_id = turn.to_dict().get(TOOL_CALL_ID)
    return call_id if isinstance(call_id, str) else None


def unanswered_calls(turns: Iterable[Turn]) -> list[ToolCall]:
    """The calls whose results are missing, in order: those that a worker was executing when it died."""
    waiting: dict[str, ToolCall] = {}
    for turn in turns:
        answered = answered_call(turn)
        if answered is not None:
            waiting.pop(answered, None)
        waiting.update((call["id"], call) for call in tool_calls_of(turn))
    return list(waiting.values())
