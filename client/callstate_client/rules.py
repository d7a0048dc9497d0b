"""What the daemon checks at its door beyond the types, for the engine that stands in for it."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from callstate_client.errors import DocumentError, InvalidParamsError
from callstate_client.model import documents
from callstate_client.model.history import Turn
from callstate_client.model.state import SessionState
from callstate_client.model.times import YEAR_0, is_time
from callstate_client.protocol import ids
from callstate_client.protocol.validation import check_word, wrong

_PLACE: Final = re.compile(r" - at `\$(.+)`")


def wrong_params(error: msgspec.ValidationError) -> InvalidParamsError:
    """The error for params of other names or types than the verb's."""
    return _placed(error, "$.params")


def wrong_document(error: DocumentError, path: str) -> InvalidParamsError:
    """The error for a session or turn that does not decode, with the place in it where that is known."""
    return _placed(error, path)


def _placed(error: Exception, path: str) -> InvalidParamsError:
    place = _PLACE.search(str(error))
    return InvalidParamsError(str(error), path=path + (place[1] if place else ""))


def check_time(holder: SessionState | Turn, name: str, path: str) -> None:
    """An RFC 3339 time."""
    text: str = getattr(holder, f"_{name}")
    if text.startswith(YEAR_0) or not is_time(text):
        raise wrong(f"{path}.{name}", "RFC 3339 time")


def check_state(state: SessionState, path: str) -> None:
    """What the daemon checks at its door, beyond the types."""
    if not ids.is_session_id(state.id):
        raise wrong(f"{path}.id", ids.SESSION_ID_RULE)
    check_time(state, "created_at", path)
    check_time(state, "updated_at", path)
    for name in ("provider", "direction", "status"):
        check_word(getattr(state, name), f"{path}.{name}")
    for index in range(len(state.history)):
        place = f"{path}.history[{index}]"
        try:
            check_turn(state.history[index], place)
        except DocumentError as error:
            raise wrong_document(error, place) from error


def check_names(session: bytes, path: str) -> None:
    """A session, its metrics and turns have no member that Go takes for another; recovery data is an object."""
    members = msgspec.json.decode(session)
    documents.refuse_shadows(members, documents.SESSION_NAMES, path)
    if isinstance(members.get("metrics"), dict):
        documents.refuse_shadows(members["metrics"], documents.METRICS_NAMES, f"{path}.metrics")
    for index, turn in enumerate(members.get("history") or ()):
        check_turn_names(turn, f"{path}.history[{index}]")
    if not isinstance(members.get("recovery_data"), dict | None):
        raise documents.not_object(f"{path}.recovery_data")


def check_turn_names(turn: Any, path: str) -> None:
    """No member of a turn is one that Go takes for another."""
    if not isinstance(turn, dict):
        raise wrong(path, "object")
    documents.refuse_shadows(turn, documents.TURN_NAMES, path)


def check_turn(turn: Turn, path: str) -> None:
    """What the daemon checks of a turn, beyond the types."""
    check_word(turn.role, f"{path}.role")
    check_time(turn, "timestamp", path)
