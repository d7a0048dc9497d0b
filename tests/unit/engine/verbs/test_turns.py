"""`session.add_turn` and `session.amend_turn`."""

from __future__ import annotations

from typing import Any

import pytest

from callstate_client.errors import ConflictError, InvalidParamsError
from support.core import TIME, Core
from support.verbs import refused


async def test_turns_are_counted_and_completed(core: Core) -> None:
    await core.save("a")
    assert (await core.turn("a"))["turn_count"] == 1
    added = await core.call(
        "session.add_turn", session_id="a", turns=[{"role": "agent", "duration_ms": 7}, {"role": "tool", "x": 1}]
    )
    assert added["turn_count"] == 3
    session = (await core.call("session.load", session_id="a"))["session"]
    assert session["history"][1] == {"role": "agent", "content": "", "duration_ms": 7, "timestamp": TIME}
    assert session["history"][2] == {"role": "tool", "x": 1, "content": "", "duration_ms": 0, "timestamp": TIME}
    assert session["metrics"] == {
        "turn_count": 3, "interruption_count": 0, "user_speech_duration_ms": 100, "agent_speech_duration_ms": 7,
    }  # fmt: skip
    none = await core.call("session.add_turn", session_id="a", turns=[])
    assert none["turn_count"] == 3


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({}, "$.params"),
        ({"turn": {}, "turns": []}, "$.params"),
        ({"turn": None}, "$.params.turn"),
        ({"turns": {}}, "$.params.turns"),
        ({"turns": [{}, 5]}, "$.params.turns[1]"),
        ({"turn": {"role": 5}}, "$.params.turn.role"),
    ],
)
async def test_invalid_turns_are_refused(core: Core, params: dict[str, Any], path: str) -> None:
    await core.save("a")
    error = await refused(InvalidParamsError, core, "session.add_turn", session_id="a", **params)
    assert error.data["path"] == path


async def test_counters_at_their_bound_do_not_refuse_a_turn(core: Core) -> None:
    full = 2**63 - 1
    await core.save("a", session={"metrics": {"turn_count": full, "user_speech_duration_ms": full}})
    await core.turn("a")
    await core.call("session.record_interruption", session_id="a")
    metrics = (await core.call("session.load", session_id="a"))["session"]["metrics"]
    assert (metrics["turn_count"], metrics["user_speech_duration_ms"], metrics["interruption_count"]) == (
        full,
        full,
        1,
    )
    await core.writer.write_round()
    assert core.memory.versions() == {"a": core.session("a").version}


async def test_an_amendment_keeps_the_rest_of_the_turn(core: Core) -> None:
    await core.save("a")
    error = await refused(ConflictError, core, "session.amend_turn", session_id="a", set={})
    assert "no turn" in error.message
    await core.turn("a", "all of it")
    await core.call("session.amend_turn", session_id="a", set={"content": "all", "interrupted": True})
    session = (await core.call("session.load", session_id="a"))["session"]
    assert session["history"] == [
        {"role": "user", "content": "all", "timestamp": TIME, "duration_ms": 100, "interrupted": True}
    ]
    assert session["metrics"]["turn_count"] == 1
