"""Chat messages, as OpenAI's API has them, to turns and back; it needs no other package.

A message becomes one turn. What a turn has a place for goes there (text, tool calls, the call that is answered, the
name); what else the message has is kept in the turn's `chat` member, so the message comes back equal. The content
of a turn always is its text, whatever the form of the message's content: operators read it, and workers amend it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol, TypedDict, TypeVar

from callstate_client.errors import DocumentError
from callstate_client.model.state import SessionState
from callstate_client.model.turn import Turn
from callstate_client.model.words import Role

__all__ = ["INTERRUPTED", "add_message", "complete", "from_message", "from_messages", "to_message", "to_messages"]

Message = dict[str, Any]

CHAT: Final = "chat"
"""The member of a turn that has what only the chat message has."""

ROLES: Final = frozenset({"developer", "system", "user", "assistant", "tool", "function"})
"""Roles that chat models know. Turns with other roles are no part of what is sent to a model."""

INLINE: Final[tuple[str, ...]] = ("tool_calls", "tool_call_id", "name")
"""Members of a message that a turn has too, see model/tools.py."""

INTERRUPTED: Final = '{"error":"interrupted: it is not known whether this took effect"}'
"""The result of a tool call whose worker died: the model can tell the user, or check."""

_TO_CHAT: Final[Mapping[str, str]] = {Role.AGENT: "assistant"}
_TO_TURN: Final[Mapping[str, str]] = {"assistant": Role.AGENT}

TurnT_co = TypeVar("TurnT_co", covariant=True)


class ChatExtra(TypedDict, total=False):
    """What a turn's `chat` member may have.

    Members:
        content: the message's content, if it is not a text: a list of parts, or null where that is not implied.
        no_content: the message has no content at all.
        more: its other members (`refusal`, `audio` …).
    """

    content: list[Any] | None
    no_content: bool
    more: dict[str, Any]


class AddsTurns(Protocol[TurnT_co]):
    """A held call of either front, or a SessionState."""

    def add_turn(self, role: str, content: str, *, extra: dict[str, Any] | None) -> TurnT_co:
        """Append a turn."""
        ...


def from_message(message: Mapping[str, Any]) -> tuple[str, str, dict[str, Any] | None]:
    """The role, the content and the `extra` of the turn for a message, as `add_turn` takes them.

    Args:
        message: with a `role`; its content is a text, a list of parts, null or left out.

    Raises:
        DocumentError: it is not a chat message.
    """
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str):
        raise DocumentError("a chat message has a text as its role")
    if not (content is None or isinstance(content, str | list)):
        raise DocumentError(f"a chat message's content is a text, a list or null, not {type(content).__name__}")
    text = _text(content)
    extra = {name: message[name] for name in INLINE if name in message}
    chat: ChatExtra = {}
    if "content" not in message:
        chat["no_content"] = True
    elif content != _implied(role, text, extra):
        chat["content"] = content  # type: ignore[typeddict-item]  # not a text: that would be what is implied
    more = {name: value for name, value in message.items() if name not in ("role", "content", *INLINE)}
    if more:
        chat["more"] = more
    if chat:
        extra[CHAT] = chat
    return _TO_TURN.get(role, role), text, extra or None


def from_messages(messages: Iterable[Mapping[str, Any]]) -> list[Turn]:
    """Turns for messages, each with the present time: for `SessionState(history=…)`. They are not counted in its
    metrics; `add_message` does that.

    Raises:
        DocumentError: one is not a chat message.
    """
    return [Turn(role, content, extra=extra) for role, content, extra in map(from_message, messages)]


def add_message(call: AddsTurns[TurnT_co], message: Mapping[str, Any]) -> TurnT_co:
    """Add a message to a call as a turn. Returns what the call's `add_turn` returns.

    Args:
        call: a held call, or a SessionState.
        message: a chat message.

    Raises:
        DocumentError: it is not a chat message.
    """
    role, content, extra = from_message(message)
    return call.add_turn(role, content, extra=extra)


def to_message(turn: Turn) -> Message:
    """The message of a turn, whatever its role."""
    members = turn.to_dict() if turn.has_extra else {}
    role, text = _TO_CHAT.get(turn.role, turn.role), turn.content
    inline: Message = {name: members[name] for name in INLINE if name in members}
    chat = members.get(CHAT)
    if not isinstance(chat, dict):
        chat = {}
    message: Message = {"role": role}
    if not (chat.get("no_content") is True and not text):
        content = chat.get("content")
        # not the parts of a text that was amended since
        kept = "content" in chat and _text(content) == text
        message["content"] = content if kept else _implied(role, text, inline)
    more = chat.get("more")
    return message | inline | (more if isinstance(more, dict) else {})


def to_messages(turns: SessionState | Iterable[Turn], *, repair: bool = True) -> list[Message]:
    """The conversation as chat messages, `agent` turns as those of the assistant. Turns with a role that no chat
    has are left out.

    Args:
        turns: a session, or turns.
        repair: see `complete`; without it `to_messages(from_messages(x)) == x` for any messages.
    """
    history = turns.history if isinstance(turns, SessionState) else turns
    messages = [message for message in map(to_message, history) if message["role"] in ROLES]
    return complete(messages) if repair else messages


def complete(messages: Iterable[Message], result: str = INTERRUPTED) -> list[Message]:
    """Repair the tool calls of a conversation, so that providers accept it: right behind a message with tool calls
    come their results, one for each.

    A call without a result, as a crash leaves it, gets one. A result that came later, after something else was
    said, is moved to its call; of several the last one counts. Results of calls that are not there, as in a history
    that was loaded in part, are dropped. What is in order already is returned equal.

    Args:
        messages: the conversation.
        result: the content of the results that are missing.
    """
    done: list[Message | _Results] = []
    waiting: dict[str, _Results] = {}
    for message in messages:
        if message["role"] == "tool":
            call_id = str(message.get("tool_call_id"))
            if call_id in waiting:
                waiting[call_id].found[call_id] = message
            continue
        done.append(message)
        if ids := _ids(message):
            results = _Results(ids)
            done.append(results)
            waiting.update(dict.fromkeys(ids, results))
    return [
        message for part in done for message in (part.messages(result) if isinstance(part, _Results) else [part])
    ]


class _Results:
    """The results of one message's tool calls, in the order in which they came."""

    def __init__(self, ids: list[str]) -> None:
        self.ids = ids
        self.found: dict[str, Message] = {}

    def messages(self, missing: str) -> list[Message]:
        """All of them; `missing` is the content of those that did not come."""
        others = [call_id for call_id in self.ids if call_id not in self.found]
        return [
            *self.found.values(),
            *({"role": "tool", "tool_call_id": call_id, "content": missing} for call_id in others),
        ]


def _ids(message: Message) -> list[str]:
    """The ids of the calls that a message asks for."""
    calls = message.get("tool_calls") if message["role"] == "assistant" else None
    if not isinstance(calls, list):
        return []
    ids = [call.get("id") for call in calls if isinstance(call, dict)]
    return list(dict.fromkeys(call_id for call_id in ids if isinstance(call_id, str)))


def _text(content: object) -> str:
    """The text in a message's content: of a list, that of its parts, joined by line breaks."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    texts = [
        part if isinstance(part, str) else part.get("text") for part in content if isinstance(part, str | dict)
    ]
    return "\n".join(text for text in texts if isinstance(text, str) and text)


def _implied(role: str, text: str, inline: Mapping[str, Any]) -> str | None:
    """The content of a message that is not said otherwise: the text, but null beside tool calls instead of an empty
    one."""
    return None if role == "assistant" and not text and inline.get("tool_calls") else text
