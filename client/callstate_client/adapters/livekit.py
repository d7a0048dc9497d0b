"""LiveKit Agents: an AgentSession's conversation kept in a held call, and a ChatContext made of it.

Messages, tool calls and their results are turns. An agent's handoffs and changes of its configuration are not: the
worker that continues a call sets up its own agent.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from livekit.agents import AgentSession, llm
from livekit.agents.voice.events import (
    CloseEvent,
    ConversationItemAddedEvent,
    FunctionToolsExecutedEvent,
    SessionUsageUpdatedEvent,
    ToolCallStarted,
    ToolExecutionUpdatedEvent,
)

from callstate_client.adapters.chat import INTERRUPTED
from callstate_client.adapters.recorder import Recorder
from callstate_client.calls.handle import CallHandle
from callstate_client.model.state import SessionState
from callstate_client.model.tools import ToolCall, answered_call, tool_call, tool_calls_of, tool_result
from callstate_client.model.turn import Turn
from callstate_client.model.words import Role

__all__ = ["CallKeeper", "from_chat_context", "keep", "to_chat_context"]

LIVEKIT: Final = "livekit"
"""The member of a turn that has what only the item of a ChatContext has."""

_ROLES: Final[dict[str, str]] = {"assistant": Role.AGENT}
_MESSAGE_ROLES: Final[dict[str, Any]] = {
    Role.AGENT: "assistant",
    **{role: role for role in ("user", "system", "developer")},
}
_OF_TURNS: Final = {"id", "type", "role", "name", "call_id", "arguments", "output", "interrupted", "hash"}
"""Members of items that turns have a place for, and those that are not kept."""


def keep(session: AgentSession[Any], call: CallHandle) -> CallKeeper:
    """Keep what a session says and does in a call from now on, until it is closed.

    Args:
        session: before it is started, so that its greeting is kept.
        call: held by this worker.
    """
    return CallKeeper(session, call)


class CallKeeper:
    """Listens to one session; see `keep`."""

    def __init__(self, session: AgentSession[Any], call: CallHandle) -> None:
        self._recorder = Recorder(call)
        self._usage: list[dict[str, Any]] | None = None
        self._session = session
        self._handlers: dict[Any, Any] = {
            "conversation_item_added": self._item_added,
            "tool_execution_updated": self._tool_updated,
            "function_tools_executed": self._tools_executed,
            "session_usage_updated": self._usage_updated,
            "close": self._closed,
        }
        for name, handler in self._handlers.items():
            session.on(name, handler)

    def stop(self) -> None:
        """Keep nothing more."""
        for name, handler in self._handlers.items():
            self._session.off(name, handler)
        self._handlers = {}

    def _item_added(self, event: ConversationItemAddedEvent) -> None:
        item = event.item
        if not isinstance(item, llm.ChatMessage):
            return
        turn = _message_turn(item)
        latency_s = item.metrics.get("e2e_latency") if item.role == "assistant" else None
        self._recorder.said(
            turn.role,
            turn.content,
            turn.duration_ms,
            at=turn.timestamp,
            extra=turn.extra if turn.has_extra else None,
            response_ms=None if latency_s is None else latency_s * 1000,
        )
        if item.role == "assistant":
            if item.interrupted:
                self._recorder.interrupted()
            self._send_usage()

    def _tool_updated(self, event: ToolExecutionUpdatedEvent) -> None:
        """A tool is about to run: kept before it does, since the worker may die meanwhile."""
        if isinstance(event.update, ToolCallStarted):
            self._asked(event.update.function_call)

    def _tools_executed(self, event: FunctionToolsExecutedEvent) -> None:
        for asked, output in event.zipped():
            self._asked(asked)
            at = _moment(output.created_at)
            self._recorder.answered(output.call_id, output.name or asked.name, output.output, at=at)

    def _asked(self, asked: llm.FunctionCall) -> None:
        self._recorder.asked(asked.call_id, asked.name, asked.arguments, at=_moment(asked.created_at))

    def _usage_updated(self, event: SessionUsageUpdatedEvent) -> None:
        """Usage is reported many times in a turn, and sent with the agent's turn."""
        self._usage = [usage.model_dump(exclude_defaults=True, mode="json") for usage in event.usage.model_usage]

    def _send_usage(self) -> None:
        if self._usage is not None:
            self._recorder.measured({"usage": self._usage})
            self._usage = None

    def _closed(self, event: CloseEvent) -> None:
        self._send_usage()
        self.stop()


def from_chat_context(context: llm.ChatContext) -> list[Turn]:
    """Turns for the messages, tool calls and results of a context; audio and video frames are left out."""
    turns = []
    for item in context.items:
        if isinstance(item, llm.ChatMessage):
            turns.append(_message_turn(item))
        elif isinstance(item, llm.FunctionCall):
            extra: dict[str, Any] = {"tool_calls": [tool_call(item.call_id, item.name, item.arguments)]}
            turns.append(Turn(Role.AGENT, "", _moment(item.created_at), extra=extra | _rest(item)))
        elif isinstance(item, llm.FunctionCallOutput):
            result = tool_result(item.call_id, item.name)
            turns.append(Turn(Role.TOOL, item.output, _moment(item.created_at), extra=result | _rest(item)))
    return turns


def to_chat_context(state: SessionState) -> llm.ChatContext:
    """A context to continue a call with: `Agent(…, chat_ctx=to_chat_context(call.state))`.

    A tool call without a result, as a crash leaves it, gets one that says so. Turns with roles that a context does
    not have are left out.
    """
    items: list[Any] = []
    answered = {call_id for turn in state.history if (call_id := answered_call(turn)) is not None}
    for turn in state.history:
        members = turn.to_dict()
        call_id = answered_call(turn)
        if call_id is not None:
            items.append(_output(turn, call_id, members))
        elif turn.role in _MESSAGE_ROLES:
            calls = tool_calls_of(turn)
            if turn.content or not calls:
                items.append(_message(turn, members))
            for asked in calls:
                items.append(_function_call(turn, asked, members, alone=len(calls) == 1 and not turn.content))
                if asked["id"] not in answered:
                    items.append(_closing(turn, asked))
    return llm.ChatContext(items)


def _message_turn(item: llm.ChatMessage) -> Turn:
    began, ended = item.metrics.get("started_speaking_at"), item.metrics.get("stopped_speaking_at")
    duration_ms = round(max(ended - began, 0) * 1000) if began is not None and ended is not None else 0
    extra = _rest(item) | ({"interrupted": True} if item.interrupted else {})
    text = item.text_content or ""
    role: str = item.role
    return Turn(_ROLES.get(role, role), text, _moment(item.created_at), duration_ms, extra)


def _rest(item: llm.ChatMessage | llm.FunctionCall | llm.FunctionCallOutput) -> dict[str, Any]:
    """The members of an item that a turn has no place for; the id as `turn_id`."""
    rest: dict[str, Any] = {
        name: getattr(item, name)
        for name, field in type(item).model_fields.items()
        if name not in _OF_TURNS | {"content"}
        and getattr(item, name) != field.get_default(call_default_factory=name != "created_at")
    }
    if isinstance(item, llm.ChatMessage):
        content = [
            part if isinstance(part, str) else part.model_dump(mode="json")
            for part in item.content
            if isinstance(part, str | llm.CacheBreakpoint)
            or (isinstance(part, llm.ImageContent) and isinstance(part.image, str))
        ]
        if content != [item.text_content]:
            rest["content"] = content
    return {"turn_id": item.id, LIVEKIT: rest}


def _common(turn: Turn, members: dict[str, Any]) -> dict[str, Any]:
    """What all items of a turn have."""
    kept = members.get(LIVEKIT)
    common = {name: value for name, value in kept.items() if name != "content"} if isinstance(kept, dict) else {}
    common.setdefault("created_at", turn.timestamp.timestamp())
    turn_id = members.get("turn_id")
    return common | ({"id": turn_id} if isinstance(turn_id, str) else {})


def _message(turn: Turn, members: dict[str, Any]) -> llm.ChatMessage:
    kept = members.get(LIVEKIT)
    content = kept.get("content") if isinstance(kept, dict) else None
    common = _common(turn, members) | {
        "role": _MESSAGE_ROLES[turn.role],
        "interrupted": bool(members.get("interrupted")),
    }
    if isinstance(content, list):
        message = llm.ChatMessage.model_validate(common | {"content": content})
        if (message.text_content or "") == turn.content:  # and was not amended since
            return message
    return llm.ChatMessage.model_validate(common | {"content": [turn.content]})


def _function_call(turn: Turn, asked: ToolCall, members: dict[str, Any], *, alone: bool) -> llm.FunctionCall:
    common = _common(turn, members) if alone else {"created_at": turn.timestamp.timestamp()}
    function = asked["function"]
    return llm.FunctionCall.model_validate(
        common | {"call_id": asked["id"], "name": function["name"], "arguments": function["arguments"]}
    )


def _output(turn: Turn, call_id: str, members: dict[str, Any]) -> llm.FunctionCallOutput:
    name = members.get("name")
    return llm.FunctionCallOutput.model_validate(
        {"is_error": False}
        | _common(turn, members)
        | {"call_id": call_id, "name": name if isinstance(name, str) else "", "output": turn.content}
    )


def _closing(turn: Turn, asked: ToolCall) -> llm.FunctionCallOutput:
    return llm.FunctionCallOutput(
        call_id=asked["id"],
        name=asked["function"]["name"],
        output=INTERRUPTED,
        is_error=True,
        created_at=turn.timestamp.timestamp(),
    )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
