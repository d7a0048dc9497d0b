"""A megabyte in one string is checked in pieces, and judged as it is at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from typing import Any

import pytest

from callstate_client.engine.sessions.json_steps import PIECE_BYTES
from callstate_client.engine.sessions.many_turns import check_many
from callstate_client.engine.sessions.steps import finished
from callstate_client.engine.sessions.validation import turns, values
from callstate_client.engine.sessions.validation.heads import head_in_steps
from callstate_client.engine.sessions.validation.turns import is_whole, turn_in_steps
from callstate_client.errors import InvalidParamsError, ParseError

TURN = {"role": "user", "content": "hello", "timestamp": "2026-01-01T00:00:00Z", "duration_ms": 1}
ESCAPES = "\n" * 400_000


def count(steps: Generator[None, None, Any]) -> int:
    return sum(1 for _ in steps)


def turn(**members: Any) -> bytes:
    return json.dumps(TURN | members).encode()


CHECKS: dict[str, Callable[[], Generator[None, None, Any]]] = {
    "a turn": lambda: turn_in_steps(turn(content=ESCAPES), "$.turn"),
    "not ASCII": lambda: turn_in_steps(
        json.dumps(TURN | {"content": "é" * 400_000}, ensure_ascii=False).encode(), ""
    ),
    "an unknown member": lambda: turn_in_steps(turn(tool={"x": [ESCAPES]}), "$.turn"),
    "one of several turns": lambda: check_many(b",".join([turn(), turn(content=ESCAPES)]), "$.turns"),
    "recovery data": lambda: head_in_steps(json.dumps({"id": "a", "recovery_data": {"x": ESCAPES}}).encode(), "$"),
    "a session's member": lambda: head_in_steps(json.dumps({"id": "a", "x": {"y": ESCAPES}}).encode(), "$"),
}


@pytest.mark.parametrize("name", CHECKS)
def test_a_long_string_takes_many_steps(name: str) -> None:
    assert count(CHECKS[name]()) > 700_000 // PIECE_BYTES


def test_a_long_turn_is_whole_as_before() -> None:
    assert is_whole(finished(turn_in_steps(turn(content=ESCAPES), "$.turn")))
    assert not is_whole(finished(turn_in_steps(turn(content=ESCAPES, role=""), "$.turn")))


@pytest.mark.parametrize(
    ("wrong", "error", "path"),
    [
        (turn(role=ESCAPES), InvalidParamsError, "$.turn.role"),
        (turn(timestamp=ESCAPES), InvalidParamsError, "$.turn.timestamp"),
        (turn(duration_ms=ESCAPES), InvalidParamsError, "$.turn.duration_ms"),
        (turn(content=ESCAPES, Content="x"), InvalidParamsError, "$.turn.Content"),
        (turn(content=ESCAPES, x=2**63), InvalidParamsError, "$.turn.x"),
        (turn(content=ESCAPES + "@").replace(b"@", b"\\x"), ParseError, "$.turn"),
        (turn(content=ESCAPES + "@").replace(b"@", b"\\ud83d"), ParseError, "$.turn"),
        (turn(content=ESCAPES + "@").replace(b"@", b"\xff"), ParseError, "$.turn"),
    ],
    ids=range(8),
)
def test_what_is_refused_at_once_is_refused_in_steps(
    wrong: bytes, error: type[Any], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(error) as in_steps:
        finished(turn_in_steps(wrong, "$.turn"))
    assert in_steps.value.data["path"] == path
    for module in (turns, values):
        monkeypatch.setattr(module, "LONG_BYTES", len(wrong))
    with pytest.raises(error) as at_once:
        finished(turn_in_steps(wrong, "$.turn"))
    assert at_once.value.data == in_steps.value.data
